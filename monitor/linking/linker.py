"""Find companies in a text: names and aliases, cashtags, qualified tickers, and the source's own symbols.

The longest match wins. A name that is also an ordinary word needs more than its letters: a capital, and near by a word
that speaks of companies, a possessive, or another sign of the same company. In a headline that is capitalised throughout
a capital says nothing. Acronyms (AIG, IBM) must be written as such.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import ahocorasick

from monitor.linking.folding import fold, fold_with_map
from monitor.linking.watchlist import Company, Watchlist
from monitor.linking.words import CAPITAL_IS_ENOUGH, COMMON, CUES, INDEXES, NOT_COMPANIES
from monitor.records import Channel, LinkedEntity, Span

_CASHTAG = re.compile(r"(?<![\w$])\$([A-Za-z]{1,6}(?:[.\-][A-Za-z]{1,2})?)(?![\w])")
_QUALIFIED = re.compile(
    r"\b(?:NYSE|NASDAQ|NASDAQGS|NYSEARCA|AMEX|OTC|LSE|LON|XETRA|ETR|FRA)(?:\s?American)?\s?:\s?([A-Z]{1,6}(?:[.\-][A-Z]{1,2})?)\b",
    re.IGNORECASE,
)
_RIC = re.compile(r"(?<=[(<\[])([A-Z]{1,6})\.([A-Z]{1,2})(?=[)>\]])")
_US_RICS = {"N", "O", "OQ", "A", "K", "P", "PK", "OB"}
_SUFFIX = re.compile(
    r"[,\s]+(?:inc|corp|corporation|company|companies|co|ltd|limited|plc|n\.?v|s\.?a|ag|se|group|holdings?|\(the\)|"
    r"\(class [abc]\)|common stock)\.?$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z0-9][\w&/'-]*")
_RANK = {"cashtag": 0, "ticker": 1, "name": 2, "alias": 3, "symbol": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPolicy:
    """Limits: `text_chars_max` are read, `entities_max` are linked; a cue counts within `cue_chars` of a name."""

    text_chars_max: int = 8_000
    entities_max: int = 32
    cue_chars: int = 60


@dataclass(frozen=True, slots=True)
class _Term:
    """`entity` None: a phrase that is no company. `written`: the exact spelling an acronym must have."""

    folded: str
    entity: str | None
    cue: str
    common: bool
    written: str | None


@dataclass(frozen=True, slots=True)
class _Match:
    start: int
    end: int
    entity: str | None
    cue: str
    term: _Term | None = None


class Linker:
    """Built once from a watchlist; `link` is safe to call from several threads."""

    def __init__(self, watchlist: Watchlist, policy: LinkPolicy | None = None) -> None:
        self._policy = policy or LinkPolicy()
        former = {symbol.upper(): c.symbol for c in watchlist.companies for symbol in c.formerly}
        self._symbols = former | {company.symbol.upper(): company.symbol for company in watchlist.companies}
        self._terms = ahocorasick.Automaton()
        for phrase in NOT_COMPANIES:
            self._terms.add_word(fold(phrase), _Term(fold(phrase), None, "", False, None))
        for company in watchlist.companies:
            for term in _terms_of(company):
                self._terms.add_word(term.folded, term)
        self._terms.make_automaton()

    def link(self, text: str, *, symbols: Sequence[str] = (), channel: Channel = "news") -> tuple[LinkedEntity, ...]:
        """Entities in the order of their first mention; those that only `symbols` name come last, without spans."""
        text = text[: self._policy.text_chars_max]
        sure = [*self._cashtags(text), *self._tickers(text)]
        found = _longest([*sure, *self._names(text, {match.entity for match in sure})])
        spans: dict[str, list[Span]] = {}
        cues: dict[str, str] = {}
        for match in found:
            if match.entity is None:
                continue
            spans.setdefault(match.entity, []).append(Span(start=match.start, end=match.end))
            if _RANK[match.cue] < _RANK.get(cues.get(match.entity, ""), 9):
                cues[match.entity] = match.cue
        for symbol in symbols:
            entity = self._symbol(symbol)
            if entity is not None and entity not in spans:
                spans[entity], cues[entity] = [], "symbol"
        return tuple(
            LinkedEntity(entity=entity, spans=tuple(where), cue=cues[entity])
            for entity, where in list(spans.items())[: self._policy.entities_max]
        )

    def _cashtags(self, text: str) -> list[_Match]:
        if "$" not in text:
            return []
        return [
            _Match(m.start(), m.end(), entity, "cashtag")
            for m in _CASHTAG.finditer(text)
            if (entity := self._symbol(m[1])) is not None
        ]

    def _tickers(self, text: str) -> list[_Match]:
        matches = []
        if ":" in text:
            for m in _QUALIFIED.finditer(text):
                entity = self._symbol(m[1])
                if entity is not None:
                    matches.append(_Match(m.start(1), m.end(1), entity, "ticker"))
        if "." in text:
            for m in _RIC.finditer(text):
                entity = self._symbol(f"{m[1]}.{m[2]}") or (self._symbol(m[1]) if m[2] in _US_RICS else None)
                if entity is not None:
                    matches.append(_Match(m.start(), m.end(), entity, "ticker"))
        return matches

    def _symbol(self, written: str) -> str | None:
        """AAPL, $aapl, NASDAQ:AAPL, BRK.B and BRK-B, AAPL.O."""
        symbol = written.strip().lstrip("$").upper().rpartition(":")[2]
        for candidate in (symbol, symbol.replace(".", "-"), symbol.replace("-", ".")):
            if candidate in self._symbols:
                return self._symbols[candidate]
        base, _, venue = symbol.rpartition(".")
        return self._symbols.get(base) if base and venue in _US_RICS else None

    def _names(self, text: str, named: set[str | None]) -> list[_Match]:
        folded, origin = fold_with_map(text)
        shouting = _capitalised(text)
        candidates = []
        for last, term in self._terms.iter(folded):
            first = last - len(term.folded) + 1
            if not _bounded(folded, first, last + 1):
                continue
            start = first if origin is None else origin[first]
            end = (last if origin is None else origin[last]) + 1
            candidates.append(_Match(start, end, term.entity, term.cue, term))
        kept = _longest(candidates)
        sure = named | {match.entity for match in kept if match.term is not None and not match.term.common}
        return [match for match in kept if self._is_meant(match, text, shouting, sure)]

    def _is_meant(self, match: _Match, text: str, shouting: bool, sure: set[str | None]) -> bool:
        term = match.term
        assert term is not None
        written = text[match.start : match.end]
        if term.entity is None:
            return True
        if term.written is not None:
            return written == term.written
        if not any(char.isupper() for char in written) and term.folded not in _LOWER_IS_FINE:
            return False
        if not term.common:
            return True
        if not written[0].isupper():
            return False
        if term.entity in sure:
            return True
        following = text[match.end : match.end + 2]
        if following in {"'s", "’s"} and not shouting:
            return True
        if term.folded in CAPITAL_IS_ENOUGH and not shouting and not _neighbour_is_a_name(text, match):
            return True
        if _neighbour_is_a_name(text, match) and not shouting:
            return False
        if shouting and term.folded not in CAPITAL_IS_ENOUGH:
            after = _WORD.match(text[match.end :].lstrip()[:24])
            return following in {"'s", "’s"} or bool(after and after[0].lower() in CUES)
        around = text[max(0, match.start - self._policy.cue_chars) : match.end + self._policy.cue_chars]
        return any(word.lower() in CUES for word in _WORD.findall(around))


_LOWER_IS_FINE = frozenset({"ebay", "iphone", "ipad", "iphones", "amd"})


def _terms_of(company: Company) -> list[_Term]:
    """The name, the name without its legal form, and every alias."""
    short = company.name
    while (cut := _SUFFIX.sub("", short)) != short and len(cut) > 1:
        short = cut
    forms = (company.name, short, short.removeprefix("The "))
    names = dict.fromkeys(name for name in forms if fold(name) not in INDEXES and len(name) > 1)
    return [
        *(_term(name, company.symbol, "name") for name in names),
        *(_term(alias, company.symbol, "alias") for alias in company.aliases if alias not in names),
    ]


def _term(written: str, entity: str, cue: str) -> _Term:
    folded = fold(written)
    acronym = written.isupper() and len(written) <= 5
    return _Term(folded, entity, cue, folded in COMMON, written if acronym else None)


def _longest(matches: Sequence[_Match]) -> list[_Match]:
    """Leftmost-longest, without overlaps, in the order of the text."""
    kept: list[_Match] = []
    for match in sorted(matches, key=lambda m: (m.start, -(m.end - m.start), _RANK.get(m.cue, 9))):
        if kept and match.start < kept[-1].end:
            if match.end - match.start > kept[-1].end - kept[-1].start:
                kept[-1] = match
            continue
        kept.append(match)
    return kept


def _bounded(text: str, start: int, end: int) -> bool:
    """Whole words only: no letter or digit on either side."""
    before = text[start - 1] if start else " "
    after = text[end] if end < len(text) else " "
    return not (before.isalnum() or before in "@_" or after.isalnum() or after == "_")


def _capitalised(text: str) -> bool:
    """Is this a headline in which (nearly) every word has a capital?"""
    words = [
        word for word in _WORD.findall(text[:200].split("\n", maxsplit=1)[0]) if len(word) > 3 and word[0].isalpha()
    ]
    return len(words) > 2 and sum(word[0].isupper() for word in words) >= 0.75 * len(words)


def _neighbour_is_a_name(text: str, match: _Match) -> bool:
    """`Harrison Ford`, `Target Hill`: a capitalised word right beside it, not across a comma, that is no cue."""
    before = re.search(r"([A-Z][a-z]+)\s$", text[max(0, match.start - 24) : match.start])
    after = re.match(r"\s([A-Z][a-z]+)", text[match.end : match.end + 24])
    if after and after[1].lower() not in CUES:
        return True
    at_start = before is not None and match.start - len(before[0]) == 0
    return bool(before and not at_start and before[1].lower() not in CUES)
