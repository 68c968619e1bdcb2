"""What the core writes and keeps: plain records, apart from code that may be compiled (see setup.py)."""

from __future__ import annotations

import msgspec

from monitor.alerting import BudgetState, Habit, Levels, Market, OpenAlert, Pending, Sources
from monitor.windows import NewcomersState


class EntityState(msgspec.Struct, array_like=True):
    """The blob of one entity. `opened`: (moment, loudest score told) of the last alert in each direction. `silent`: when it was last noted
    that a loud signal opened no alert, by direction and reason."""

    version: int
    habits: dict[str, Habit]
    alert: OpenAlert | None
    opened: dict[str, tuple[int, float]]
    pending: Pending | None = None
    silent: dict[str, int] = msgspec.field(default_factory=dict)


class PartitionState(msgspec.Struct, array_like=True):
    """The blob that the partition's entities share."""

    version: int
    newest_ms: dict[str, int]
    markets: dict[str, Market]
    budget: BudgetState | None
    counts: dict[str, int]
    levels: dict[str, Levels] = msgspec.field(default_factory=dict)
    sources: dict[str, Sources] = msgspec.field(default_factory=dict)
    newcomers: NewcomersState | None = None


class BucketSums(msgspec.Struct, gc=False):
    """An open bucket; `_u` in millionths."""

    raw_n: int = 0
    total_u: int = 0
    negative_u: int = 0
    positive_u: int = 0
    polarity_u: int = 0
    polarity_sq: float = 0.0
