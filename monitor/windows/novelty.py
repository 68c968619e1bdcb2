"""One voice per story: which mention repeats an earlier one, and how much it says that was not said before.

Copies (reprints, syndication, retweets, edited headlines) are found among the entity's mentions of the last `horizon_ms`:
candidates share one of the six smallest hashes of their word pairs (bottom-k sketch: Broder 1997, "On the resemblance and
containment of documents"), and are verified on their word sets. A verdict on a mention depends on the mentions of the
horizon before it and on nothing else, so that a restart that reads twice the horizon back decides the same.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

_NOISE = re.compile(
    r"https?\S+|^(?:rt|mt)\b:?|\b(?:rt|via)?\s?@\w+:?|^(?:update|refile|corrected|rpt|wrapup|exclusive|instant view)\b[\s\d:-]*"
)
_WORDS = re.compile(r"[a-z0-9]+(?:[.'][a-z0-9]+)*")
_SKETCH = 6
_ALIKE = 3
_TEXT_CHARS_MAX = 280


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyPolicy:
    """`containment` is |A∩B| / min(|A|,|B|), `overlap` |A∩B| / max(|A|,|B|), both over word sets, both needed for a copy."""

    horizon_ms: int = 86_400_000
    containment: float = 0.75
    overlap: float = 0.5
    words_min: int = 3


class Print:
    """The fingerprint of one text: its words, and the bottom-k sketch of its word pairs."""

    __slots__ = ("sketch", "words")

    def __init__(self, text: str) -> None:
        ordered = _WORDS.findall(_NOISE.sub(" ", text[:_TEXT_CHARS_MAX].lower()))
        self.words = frozenset(ordered)
        if len(ordered) > 1:
            hashes = {crc32(f"{a} {b}".encode()) for a, b in pairwise(ordered)}
        else:
            hashes = {crc32(word.encode()) for word in ordered}
        self.sketch = tuple(sorted(hashes)[:_SKETCH])


def is_copy(one: Print, other: Print, policy: NoveltyPolicy) -> bool:
    """Is one text the other, reprinted, cut or edited?"""
    a, b = one.words, other.words
    if a == b:
        return True
    small, large = (len(a), len(b)) if len(a) <= len(b) else (len(b), len(a))
    if small < policy.words_min:
        return False
    shared = len(a & b)
    return shared >= policy.containment * small and shared >= policy.overlap * large


class Heard:
    """One mention in memory. `root` is the first mention of its story (itself, if it is no copy)."""

    __slots__ = ("at_ms", "author", "print", "root", "token")

    def __init__(self, at_ms: int, text_print: Print, author: str | None, token: object) -> None:
        self.at_ms = at_ms
        self.print = text_print
        self.author = author
        self.token = token
        self.root = self


class Hearing(NamedTuple):
    """`fresh`: share of its words that are new (0…1). `spoken`: its author's earlier mentions. `crowd`: how many
    earlier mentions share at least three of its six sketched word pairs, though they are no copies: a chorus."""

    heard: Heard
    fresh: float
    spoken: int
    crowd: int


class NoveltyMemory:
    """What was said about one entity within the horizon. Mentions must come in event-time order."""

    __slots__ = ("_authors", "_by_hash", "_by_word", "_crowds", "_heard", "_policy")

    def __init__(self, policy: NoveltyPolicy) -> None:
        self._policy = policy
        self._heard: deque[Heard] = deque()
        self._by_hash: dict[int, Heard] = {}
        self._by_word: dict[str, Heard] = {}
        self._crowds: dict[int, int] = {}
        self._authors: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def hear(self, at_ms: int, text: str, author: str | None, token: object) -> Hearing:
        """Remember a mention, and say how it relates to what was said within the horizon before it."""
        self.forget_before(at_ms - self._policy.horizon_ms)
        heard = Heard(at_ms, Print(text), author, token)
        words = heard.print.words
        fresh = sum(1 for word in words if word not in self._by_word) / len(words) if words else 0.0
        original = self._original(heard)
        if original is not None:
            heard.root = original.root
        spoken = self._authors.get(author, 0) if author is not None else 0
        self._heard.append(heard)
        alike = sorted((self._crowds.get(key, 0) for key in heard.print.sketch), reverse=True)
        for key in heard.print.sketch:
            self._by_hash[key] = heard
            self._crowds[key] = self._crowds.get(key, 0) + 1
        self._by_word.update(dict.fromkeys(words, heard))
        if author is not None:
            self._authors[author] = spoken + 1
        crowd = alike[_ALIKE - 1] if len(alike) >= _ALIKE else 0
        return Hearing(heard, fresh, spoken, crowd)

    def forget_before(self, at_ms: int) -> None:
        """Drop what is older than the horizon."""
        while self._heard and self._heard[0].at_ms < at_ms:
            old = self._heard.popleft()
            for key in old.print.sketch:
                if self._by_hash.get(key) is old:
                    del self._by_hash[key]
                left = self._crowds[key] - 1
                if left:
                    self._crowds[key] = left
                else:
                    del self._crowds[key]
            for word in old.print.words:
                if self._by_word.get(word) is old:
                    del self._by_word[word]
            if old.author is not None:
                left = self._authors[old.author] - 1
                if left:
                    self._authors[old.author] = left
                else:
                    del self._authors[old.author]

    def _original(self, heard: Heard) -> Heard | None:
        """The latest earlier mention that this one repeats."""
        best: Heard | None = None
        for key in heard.print.sketch:
            earlier = self._by_hash.get(key)
            if earlier is None or earlier is best or (best is not None and earlier.at_ms <= best.at_ms):
                continue
            if is_copy(heard.print, earlier.print, self._policy):
                best = earlier
        return best
