"""What a partition core is told, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from monitor.alerting import Rules
from monitor.loops.core.memory import HORIZON_MS, HOUR_MS
from monitor.records import AlertTransition, Notice, Suppression
from monitor.windows import BucketRow

TELLERS_MS = 4 * HOUR_MS


class Fate(StrEnum):
    """What became of a mention. Only FOLDED counts in windows; the others are stored, counted, and change nothing."""

    FOLDED = "folded"
    LATE = "late"
    FUTURE = "future"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPolicy:
    """`budget_share`: the partition's part of the watchlist's budget, 1 / partitions."""

    bucket_ms: int = 60_000
    lateness_ms: int = 120_000
    idle_after_ms: int = 30_000
    future_max_ms: int = 300_000
    budget_share: float = 1.0

    @classmethod
    def of(cls, rules: Rules, *, partitions: int) -> WatchPolicy:
        """As the rule file and the number of partitions say."""
        return cls(
            lateness_ms=round(rules.time.lateness_s * 1000),
            idle_after_ms=round(rules.time.idle_after_s * 1000),
            future_max_ms=round(rules.time.future_max_s * 1000),
            budget_share=1.0 / partitions,
        )

    @property
    def reach_back_ms(self) -> int:
        """How far before the watermark stored mentions must be read back: the longest window, the 28 hours of stories that
        decided who had room at its beginning, and the novelty horizon before those."""
        return 3 * HORIZON_MS + TELLERS_MS + self.bucket_ms


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a step decided, to be written in one transaction."""

    buckets: tuple[BucketRow, ...] = ()
    entity_states: Mapping[str, bytes] = field(default_factory=dict)
    transitions: tuple[AlertTransition, ...] = ()
    suppressed: tuple[Suppression, ...] = ()
    notices: tuple[Notice, ...] = ()
    next_timer_ms: int | None = None
