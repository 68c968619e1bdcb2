"""What is kept of mentions while their windows last: plain records, and no code that decides.

They stand apart from the code that fills them because that may be compiled (see setup.py), and what makes a record of a
class is done when Python reads it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Print(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The fingerprint of one text: its words, and its pairs of neighbouring words, in the text's order, because the order of
    a set differs from process to process."""

    words: frozenset[str]
    pairs: tuple[str, ...]


class Heard(msgspec.Struct, eq=False, gc=False):
    """One mention in memory. `copied`: the first mention of its story, if it is a copy."""

    at_ms: int
    print: Print
    author: str | None
    token: object
    copied: Heard | None = None

    @property
    def root(self) -> Heard:
        """The first mention of its story: itself, if it is no copy."""
        return self if self.copied is None else self.copied


class Hearing(msgspec.Struct, frozen=True, gc=False):
    """What a mention adds to what was heard before.

    `fresh`: the share of its word pairs that are new (0…1). A pair that was said before is new again by the share of the
    horizon that has passed since: novelty falls with repetition, and what was said grows old. `spoken`: its author's
    earlier mentions. `crowd`: so many earlier mentions have half of its word pairs, though it need be no copy of any.
    """

    heard: Heard
    fresh: float
    spoken: int
    crowd: int


class Story(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One voice: the first mention of a story and what followed it. What ends in `_u` is in millionths. `newcomer`: an account
    told it that nobody had heard of."""

    at_ms: int
    total_u: int
    negative_u: int
    positive_u: int
    polarity_u: int
    mention: object
    copies: int = 1
    newcomer: bool = False


class Told(msgspec.Struct, frozen=True, gc=False):
    """Stories of the last four hours, and of the last one (`_h`), before this one; `newcomers_before`: stories of newcomers
    in the 24 hours before those four, echoes left out."""

    same_source: int
    by_other_sources: int
    by_newcomers: int
    by_others: int
    by_newcomers_h: int
    by_others_h: int
    newcomers_before: int


class Brigade(NamedTuple):
    """What has come of it so far: since its first echo, until its last. `voices_u` in millionths of a voice."""

    since_ms: int
    last_ms: int
    accounts: int
    voices_u: int
    example: object


class NewcomersState(msgspec.Struct, array_like=True):
    """Filters, compressed; an empty one is b""."""

    day: int = 0
    turned: int = 0
    recent: list[bytes] = msgspec.field(default_factory=list)
    old: bytes = b""
    older: bytes = b""
