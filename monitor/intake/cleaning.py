"""Text as the model reads it, with a way back to the original. Pure, linear in the length of the text.

Removed: zero-width, bidirectional and tag characters, control characters, HTML tags, URLs. Decoded: HTML entities.
Normalised: NFKC, white space, floods of one character. Training and serving use this same function.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

_PLAIN = re.compile(r"[ -%'-;=?-~]*", re.ASCII)  # printable ASCII without & < >
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"]+|\bt\.co/\w+|\bpic\.twitter\.com/\w+", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,1000}>|<!--.{0,1000}?-->", re.DOTALL)
_ENTITY = re.compile(r"&(?:amp;)?(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_GAP = re.compile(r"\s+")
_FLOOD = re.compile(r"(\S)\1{5,}", re.DOTALL)
_FLOOD_KEPT = 5
_ROUNDS_MAX = 4  # each round can uncover what an entity had hidden; deeper disguises are cut, not chased


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanText:
    """`text` for the model; `starts[i]`, `ends[i]`: the range of the original that clean character i came from."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def to_original(self, start: int, end: int) -> tuple[int, int]:
        """Half-open clean range → half-open original range; an empty range stays empty."""
        if start >= end:
            at = self.starts[start] if start < len(self.starts) else (self.ends[-1] if self.ends else 0)
            return at, at
        return self.starts[start], self.ends[end - 1]

    def to_clean(self, start: int, end: int) -> tuple[int, int]:
        """Half-open original range → the clean characters that overlap it (empty where all of them were removed)."""
        first = bisect_right(self.ends, start)
        last = bisect_left(self.starts, end)
        return first, max(first, last)


def clean(text: str, *, chars_max: int = 4_000) -> CleanText:
    """Clean at most `chars_max` original code points. Idempotent: cleaning a cleaned text changes nothing."""
    text = text[:chars_max]
    if _PLAIN.fullmatch(text) and not _URL.search(text) and not _FLOOD.search(text):
        return _collapse(text, list(range(len(text))), list(range(1, len(text) + 1)))
    current = _Mapped(text, list(range(len(text))), list(range(1, len(text) + 1)))
    for _ in range(_ROUNDS_MAX):
        before = current.text
        current = _normalise(current)
        current = current.substitute(_ENTITY, lambda found: html.unescape(html.unescape(found)))
        current = current.substitute(_TAG, lambda _found: " ")
        current = current.substitute(_URL, lambda _found: " ")
        current = current.substitute(_FLOOD, lambda found: found[0] * _FLOOD_KEPT)
        if current.text == before:
            break
    else:
        current = _normalise(current.substitute(re.compile(r"[&<>]"), lambda _found: " "))
        current = current.substitute(_URL, lambda _found: " ").substitute(_FLOOD, lambda f: f[0] * _FLOOD_KEPT)
    return _collapse(current.text, current.starts, current.ends)


@dataclass(frozen=True, slots=True)
class _Mapped:
    text: str
    starts: list[int]
    ends: list[int]

    def substitute(self, pattern: re.Pattern[str], replace) -> _Mapped:  # type: ignore[no-untyped-def]
        """Replace every match; each new character stands for the whole of what it replaces."""
        pieces: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for match in pattern.finditer(self.text):
            begin, end = match.span()
            new = replace(match.group())
            pieces += [self.text[at:begin], new]
            starts += self.starts[at:begin] + [self.starts[begin]] * len(new)
            ends += self.ends[at:begin] + [self.ends[end - 1]] * len(new)
            at = end
        if not pieces:
            return self
        return _Mapped("".join([*pieces, self.text[at:]]), starts + self.starts[at:], ends + self.ends[at:])


def _normalise(mapped: _Mapped) -> _Mapped:
    """NFKC over each base character with its combining marks; invisible characters go."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    text, at = mapped.text, 0
    while at < len(text):
        end = at + 1
        while end < len(text) and end - at < 32 and (unicodedata.combining(text[end]) or _joins(text[end])):
            end += 1
        new = "".join(c for c in unicodedata.normalize("NFKC", text[at:end]) if not _invisible(c))
        pieces.append(new)
        starts += [mapped.starts[at]] * len(new)
        ends += [mapped.ends[end - 1]] * len(new)
        at = end
    return _Mapped("".join(pieces), starts, ends)


def _joins(char: str) -> bool:
    """Hangul vowels and finals compose with what stands before them."""
    return "\u1160" <= char <= "\u11ff"


def _invisible(char: str) -> bool:
    """Format, control, unassigned-tag, surrogate and private characters; white space is handled later."""
    return not char.isspace() and unicodedata.category(char) in {"Cf", "Cc", "Cs", "Co"}


def _collapse(text: str, starts: list[int], ends: list[int]) -> CleanText:
    """White space runs become one blank; none at the edges."""
    if "  " in text or not text.isprintable() or text != text.strip():
        mapped = _Mapped(text, starts, ends).substitute(_GAP, lambda _found: " ")
        text, starts, ends = mapped.text, mapped.starts, mapped.ends
        left = len(text) - len(text.lstrip(" "))
        right = len(text.rstrip(" "))
        text, starts, ends = text[left:right], starts[left:right], ends[left:right]
    return CleanText(text=text, starts=tuple(starts), ends=tuple(ends))
