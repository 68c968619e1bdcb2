"""One spelling for matching: lower case, plain quotes and dashes, no accents, nothing invisible. With a way back."""

from __future__ import annotations

import unicodedata

_PLAIN = {"’": "'", "‘": "'", "`": "'", "´": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‐": "-", "‑": "-", "−": "-"}


def fold(text: str) -> str:
    """The folded text alone."""
    return fold_with_map(text)[0]


def fold_with_map(text: str) -> tuple[str, list[int] | None]:
    """The folded text and, for each of its characters, the index of the original one (None: they are the same)."""
    if text.isascii():
        return text.lower(), None
    folded: list[str] = []
    origin: list[int] = []
    for index, char in enumerate(text):
        for piece in _fold_char(char):
            folded.append(piece)
            origin.append(index)
    return "".join(folded), origin


def _fold_char(char: str) -> str:
    if char in _PLAIN:
        return _PLAIN[char]
    if char.isascii():
        return char.lower()
    plain = unicodedata.normalize("NFKD", char)
    return "".join(
        c for c in plain.casefold() if not unicodedata.combining(c) and unicodedata.category(c) not in {"Cf", "Cc"}
    )
