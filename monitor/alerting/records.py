"""What is kept of the past, and what the detectors read: plain records, and no code that decides.

They stand apart from the code that fills them because that may be compiled (see setup.py), and what makes a record of a
class is done when Python reads it.
"""

from __future__ import annotations

import msgspec

from monitor.alerting.cusum import EMPTY
from monitor.records import AlertKind, Direction, Voices

HOUR_MS = 3_600_000
BINS = 288  # of width 2% of 1 + score, which is enough for scores up to 300


class Expected(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a window should hold: voices, their spread (negative binomial with this size) and their tone.

    `variance` of one voice's polarity. `exposure_h` hours of record behind it. `market` is the factor by which the market
    as a whole is louder now; it is in `voices` already. `market_tone` is how far the market's tone has moved; it is not in
    `tone`. `habit`: how far the entity's loudest moments of a day usually go, over the watchlist's. `rarity`: how many
    voices one decisive story is worth.
    """

    voices: float
    size: float
    tone: float
    variance: float
    exposure_h: float
    market: float
    market_tone: float = 0.0
    habit: float = 1.0
    rarity: float = 1.0


class BlockStep(msgspec.Struct, array_like=True, frozen=True):
    """What a closed block's step of the CUSUMs was made from, but for its voices: so that it can be made again without some.

    `bank` as it stood before; `known`: voices of tone that were behind the entity's `tone`.
    """

    block: int
    tone: float
    variance: float
    known: float
    bank: tuple[float, ...]


class Habit(msgspec.Struct, array_like=True):
    """One entity in one channel: decayed sums as of hour `at_hour`, and the four-hour block that is still open. `steps`: of the
    last day's blocks."""

    at_hour: int
    block: int
    voices: float = 0.0
    squares: float = 0.0
    tone_w: float = 0.0
    tone_p: float = 0.0
    open_n: float = 0.0
    open_p: float = 0.0
    decisive: float = 0.0
    open_decisive: float = 0.0
    day: int = 0
    day_peak: float = 0.0
    day_peaks: float = 0.0
    peak_days: float = 0.0
    bank: list[float] = msgspec.field(default_factory=lambda: list(EMPTY))
    steps: list[BlockStep] = msgspec.field(default_factory=list)


class Episode(msgspec.Struct, array_like=True, gc=False):
    """A stretch of one entity: its first moment, the bin of its peak, and what it weighs in the record."""

    started_ms: int
    bin: int
    weight: float


class Ledger(msgspec.Struct, array_like=True):
    """One detector's record: the fading number of episodes by the bin of their peak, and the episodes that last."""

    peaks: list[float] = msgspec.field(default_factory=lambda: [0.0] * BINS)
    now: dict[str, Episode] = msgspec.field(default_factory=dict)


class BudgetState(msgspec.Struct, array_like=True):
    """What a partition keeps. Records have faded to `at_hour` and are worth `days`; `account` as of `account_ms`."""

    at_hour: int
    account_ms: int
    days: float = 0.0
    account: float = 0.0
    ledgers: dict[str, Ledger] = msgspec.field(default_factory=dict)

    @classmethod
    def since(cls, at_ms: int) -> BudgetState:
        """Nothing heard yet."""
        return cls(at_hour=at_ms // HOUR_MS, account_ms=at_ms)


class Signal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A detector's reading. `score` = −log10 p in theory; `tone` is the window's excess over the usual polarity."""

    kind: AlertKind
    direction: Direction
    score: float
    window_s: int
    voices: Voices
    expected: Expected
    tone: float
