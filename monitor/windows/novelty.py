"""One voice per story: which mention repeats an earlier one, and how much it says that was not said before.

Two relations are kept apart. A *copy* is one text again: reprinted, syndicated, forwarded, cut, or with its headline
edited; copies collapse into the story of the first. *Another report of the same event* shares subject and figures and was
written anew; it corroborates, and stays a voice of its own. What tells them apart, measured on labelled pairs of real
streams (`tapewatch bench novelty`): a copy keeps the other's words and adds or drops some; another report, and another
story in the same mould ("X to present at the conference"), puts other words, names or figures in their place.

Candidates are the latest holders of the mention's word pairs, the pair being the smallest thing that two texts share by
descent rather than by subject. A verdict depends on the mentions of the horizon before it and on nothing else, so that a
restart that reads twice the horizon back decides the same.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import filterfalse, pairwise

from monitor.windows.records import Heard, Hearing, Print

# Addresses, account names, cashtags and hashtags are left out: they are what a repeated text changes first.
_WORDS = re.compile(r"(?:https?:|[@$#])\S+|(\w+(?:[.,]\d+)*)")
_PLAIN_WORDS = re.compile(r"\w+(?:[.,]\d+)*")  # the same where there are no tags, at half the cost
_PREFIXES = (
    *("update", "refile", "corrected", "correction", "rpt", "wrapup", "exclusive", "factbox", "text", "reg"),
    *("instant view", "photo advisory", "breaking"),
)
_PREFIX = re.compile(rf"(?:(?:{'|'.join(_PREFIXES)})\b[\s\d:-]*)+")
# A number after the last tag or address is a counter that makes copies differ, not a figure.
_COUNTER = re.compile(r"(?<=\s)(?:[@#]|https?:)\S+\s+x?\d+$")
_SPACED_FIGURE = re.compile(r"(?<=\d) \. (?=\d)")
_EMPTY = frozenset(
    (
        "",
        *[
            "a",
            "an",
            "and",
            "are",
            "as",
            "at",
            "be",
            "by",
            "for",
            "from",
            "had",
            "has",
            "have",
            "he",
            "her",
            "his",
            "i",
            "in",
            "is",
            "it",
            "its",
            "of",
            "on",
            "or",
            "our",
            "s",
            "she",
            "t",
            "than",
            "that",
            "the",
        ],
        *[
            "their",
            "they",
            "this",
            "to",
            "u",
            "us",
            "was",
            "we",
            "were",
            "will",
            "with",
            "you",
            "your",
            "after",
            "over",
            "amid",
            "but",
            "if",
            "so",
            "says",
            "say",
            "said",
            "source",
        ],
        *[
            "sources",
            "report",
            "reports",
            "rt",
            "via",
            "mt",
            "amp",
            "quot",
            "gt",
            "lt",
            "new",
            "now",
            "here",
            "click",
            "check",
            "out",
            "view",
            "must",
            "see",
            "read",
        ],
    )
)
_DENIALS = frozenset(("not", "no", "never", "denies", "deny", "denied", "false"))
_SAME = {"bln": "billion", "mln": "million", "pct": "percent", "co": "company", "corp": "company", "inc": "company"}
_TEXT_CHARS_MAX = 280
_CANDIDATES_MAX = 4
_FEW_PAIRS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyPolicy:
    """When a text is a copy. With n words in common and a, b words that only one of the two has:

    - cut or extended, min(a, b) = 0: n >= `cut_words_min` and n >= `cut_overlap` of the longer text;
    - one word replaced: n >= `edit_words_min` (in a short headline one other word is another fact);
    - rewritten in places: n >= `long_words_min`;
    - the two last need n >= `overlap` of the longer text; where both have figures of their own, `figure_overlap`;
    - what one of them denies is never a copy.
    """

    horizon_ms: int = 86_400_000
    cut_words_min: int = 3
    cut_overlap: float = 0.5
    edit_words_min: int = 8
    long_words_min: int = 11
    overlap: float = 0.6
    figure_overlap: float = 0.75


@lru_cache(maxsize=4_096)
def fingerprint(text: str) -> Print:
    """The print of a text; one text is often heard for several entities, and again."""
    lowered = text[:_TEXT_CHARS_MAX].lower()
    # Plain looks for a piece of text are several times cheaper than the patterns that they spare.
    if lowered.startswith(_PREFIXES) and (prefix := _PREFIX.match(lowered)) is not None:
        lowered = lowered[prefix.end() :]
    if lowered[-1:].isdigit() and (counter := _COUNTER.search(lowered)) is not None:
        lowered = lowered[: counter.start()]
    if " . " in lowered:
        lowered = _SPACED_FIGURE.sub(".", lowered)
    tags = "@" in lowered or "$" in lowered or "#" in lowered or "http" in lowered
    words = _WORDS if tags else _PLAIN_WORDS
    ordered = list(filterfalse(_EMPTY.__contains__, words.findall(lowered)))
    if len(ordered) < 2:
        ordered = lowered.split()  # nothing but tags and addresses: then these are the text
    # Strings and not tuples of them: millions of tuples keep the garbage collector busy.
    pairs = tuple(dict.fromkeys(map(" ".join, pairwise(ordered)))) or (" ".join(ordered),)
    return Print(frozenset(ordered), pairs)


def is_copy(one: Print, other: Print, policy: NoveltyPolicy) -> bool:
    """Is one text the other, reprinted, cut or edited?"""
    a, b = one.words, other.words
    if a == b:
        return bool(a)
    shared, larger = len(a & b), max(len(a), len(b))
    if shared < 2 or shared < 0.4 * larger:
        return False
    only_a, only_b = a - b, b - a
    if not (_DENIALS.isdisjoint(only_a) and _DENIALS.isdisjoint(only_b)):
        return False
    if only_a and only_b:
        forms = _same_words(only_a, only_b)
        shared += forms
        fewer, more = sorted((len(only_a) - forms, len(only_b) - forms))
    else:
        fewer, more = 0, len(only_a) + len(only_b)
    total = shared + more
    if not fewer:
        return shared >= policy.cut_words_min and shared >= policy.cut_overlap * total
    if shared < (policy.edit_words_min if fewer == 1 else policy.long_words_min):
        return False
    figures = any(w[0].isdigit() for w in only_a) and any(w[0].isdigit() for w in only_b)
    return shared >= (policy.figure_overlap if figures else policy.overlap) * total


def _same_words(a: AbstractSet[str], b: AbstractSet[str]) -> int:
    """How many words of `a` stand in `b` in another form: remain and remains, bln and billion, 79.4 and 79."""
    return len({_root(w) for w in a} & {_root(w) for w in b})


def _root(word: str) -> str:
    word = _SAME.get(word, word)
    if word[0].isdigit():
        return word.split(".")[0]
    return word[:5] if len(word) > 5 else word.rstrip("s")


class NoveltyMemory:
    """What was said about one entity within the horizon. Mentions must come in event-time order."""

    __slots__ = ("_again", "_authors", "_exact", "_heard", "_latest", "_policy")

    def __init__(self, policy: NoveltyPolicy) -> None:
        self._policy = policy
        self._heard: deque[Heard] = deque()
        self._exact: dict[frozenset[str], Heard] = {}
        self._latest: dict[str, Heard] = {}
        self._again: dict[str, int] = {}  # how often a pair was said beyond the first time, where it was
        self._authors: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def hear(self, at_ms: int, text: str, author: str | None, token: object) -> Hearing:
        """Remember a mention, and say how it relates to what was said within the horizon before it."""
        self.forget_before(at_ms - self._policy.horizon_ms)
        own = fingerprint(text)
        heard = Heard(at_ms, own, author, token)
        latest, pairs = self._latest, own.pairs
        fresh, crowd = 1.0, 0
        if not latest.keys().isdisjoint(pairs):
            fresh, crowd, votes = self._compare(pairs, at_ms)
            original = self._exact.get(own.words) or self._edited(own, votes)
            if original is not None:
                heard.copied = original.root
        latest.update(dict.fromkeys(pairs, heard))
        self._exact[own.words] = heard
        self._heard.append(heard)
        spoken = 0
        if author is not None:
            spoken = self._authors.get(author, 0)
            self._authors[author] = spoken + 1
        return Hearing(heard, fresh, spoken, crowd)

    def forget_before(self, at_ms: int) -> None:
        """Drop what is older than the horizon."""
        memory, latest, again = self._heard, self._latest, self._again
        while memory and memory[0].at_ms < at_ms:
            old = memory.popleft()
            pairs = old.print.pairs
            if not again or again.keys().isdisjoint(pairs):
                for pair in pairs:
                    del latest[pair]
                pairs = ()
            for pair in pairs:
                left = again.get(pair, 0)
                if not left:
                    del latest[pair]
                elif left == 1:
                    del again[pair]
                else:
                    again[pair] = left - 1
            if self._exact.get(old.print.words) is old:
                del self._exact[old.print.words]
            if old.author is not None:
                spoken = self._authors[old.author] - 1
                if spoken:
                    self._authors[old.author] = spoken
                else:
                    del self._authors[old.author]

    def _compare(self, pairs: tuple[str, ...], at_ms: int) -> tuple[float, int, dict[Heard, int]]:
        """How fresh these pairs are, how many said most of them before, and of how many each holder was the last to say."""
        latest, again = self._latest, self._again
        since_ms, said = 0, []
        votes: dict[Heard, int] = {}
        for pair in filter(latest.__contains__, pairs):
            holder = latest[pair]
            since_ms += at_ms - holder.at_ms
            repeats = again[pair] = again.get(pair, 0) + 1
            said.append(repeats)
            votes[holder] = votes.get(holder, 0) + 1
        said.sort()
        unheard = len(pairs) - len(said)
        middle = len(pairs) // 2 - unheard
        fresh = (unheard + since_ms / self._policy.horizon_ms) / len(pairs)
        return fresh, said[middle] if middle >= 0 else 0, votes

    def _edited(self, own: Print, votes: dict[Heard, int]) -> Heard | None:
        """The earlier mention of which this one is an edit. `votes`: how many of its pairs each was the last to say."""
        enough = 1 if len(own.pairs) <= _FEW_PAIRS else 2
        candidates = [holder for holder, count in votes.items() if count >= enough]
        if len(candidates) > 1:
            # Those that share most, the later first; the sort is stable, and the votes stand in the text's order.
            candidates.sort(key=lambda each: (votes[each], each.at_ms), reverse=True)
        for candidate in candidates[:_CANDIDATES_MAX]:
            if is_copy(own, candidate.print, self._policy):
                return candidate
        return None
