"""What is kept of one partition: of each entity, and what its entities share.

Records that decay live in state blobs (`Entity.pack`, `PartitionState`). Ears are what was said of an entity lately; they are
read back from stored mentions and are in no blob.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from monitor.alerting import (
    Expected,
    Habit,
    Levels,
    Market,
    OpenAlert,
    Pending,
    Rules,
    Sources,
    close_block,
)
from monitor.errors import Fatal
from monitor.loops.core.records import EntityState
from monitor.records import ScoredMention
from monitor.windows import (
    Chorus,
    ChorusPolicy,
    NoveltyMemory,
    NoveltyPolicy,
    SlidingSums,
    Story,
    Tellers,
)

T = TypeVar("T")
STATE_VERSION = 3
HOUR_MS = 3_600_000
HORIZON_MS = 24 * HOUR_MS
NOBODY = (1, 0)  # the time in which no brigade spoke
_PACK = msgspec.msgpack.Encoder()


class Ear:
    """What was said lately about one entity in one channel; dropped when the last 24 hours are silent."""

    __slots__ = (
        "brigade",
        "chorus",
        "decisive",
        "decisive_ms",
        "novelty",
        "strangers",
        "sums",
        "tellers",
        "usual",
        "usual_of",
    )

    def __init__(self, lengths_ms: tuple[int, ...], policy: NoveltyPolicy, chorus: ChorusPolicy) -> None:
        self.novelty = NoveltyMemory(policy)
        self.sums = SlidingSums(lengths_ms)
        self.chorus = Chorus(chorus)
        self.decisive: Story | None = None
        self.usual: Expected | None = None
        self.usual_of = (0, 0, 0)
        self.decisive_ms: int | None = None
        self.tellers = Tellers()
        self.strangers = 1.0
        self.brigade = NOBODY


class Entity:
    """One entity: its record, and an ear for each channel in which it was spoken of within a day."""

    __slots__ = ("alert", "ears", "habits", "opened", "pending", "silent")

    def __init__(self, state: EntityState | None = None) -> None:
        self.habits: dict[str, Habit] = state.habits if state else {}
        self.alert: OpenAlert | None = state.alert if state else None
        self.opened: dict[str, tuple[int, float]] = state.opened if state else {}
        self.pending: Pending | None = state.pending if state else None
        self.silent: dict[str, int] = state.silent if state else {}
        self.ears: dict[str, Ear] = {}

    def pack(self) -> bytes:
        """Its record, as it is stored."""
        return _PACK.encode(
            EntityState(
                version=STATE_VERSION,
                habits=in_order(self.habits),
                alert=self.alert,
                opened=in_order(self.opened),
                pending=self.pending,
                silent=in_order(self.silent),
            )
        )

    @property
    def waits(self) -> bool:
        """Something depends on what becomes of it although nobody speaks."""
        return self.alert is not None or self.pending is not None

    def forget(self, at_ms: int) -> bool:
        """Drop ears that heard nothing for a day; is only the record left?"""
        for channel, ear in list(self.ears.items()):
            ear.novelty.forget_before(at_ms - HORIZON_MS)
            ear.sums.move_to(at_ms)
            if not ear.sums.stories and not len(ear.novelty) and ear.tellers.forget_before(at_ms):
                del self.ears[channel]
                self.habits[channel].steps = []  # older than a day
        return not (self.ears or self.waits)


class Memory:
    """The records that all entities of a partition share, by channel: the market, the scale of the models, the sources."""

    __slots__ = ("levels", "markets", "rules", "sectors", "sources")

    def __init__(self, rules: Rules, sectors: Mapping[str, str]) -> None:
        self.rules, self.sectors = rules.baseline, sectors
        self.markets: dict[str, Market] = {}
        self.levels: dict[str, Levels] = {}
        self.sources: dict[str, Sources] = {}

    def market(self, channel: str, hour: int) -> Market:
        """A channel's market, brought to this hour."""
        market = self.markets.get(channel)
        if market is None:
            market = self.markets[channel] = Market(hour=hour, first_hour=hour)
        if hour > market.hour:
            market.move_to(hour, self.rules)
        return market

    def on_scale(self, mention: ScoredMention) -> ScoredMention:
        """What another model version judged, on the scale that this channel's records were made on."""
        levels = self.levels.get(mention.channel)
        if levels is None:
            levels = self.levels[mention.channel] = Levels()
        market = self.markets.get(mention.channel)
        return levels.hear(mention, market.shares() if market is not None else (0.25, 0.25))

    def as_scaled(self, mention: ScoredMention) -> ScoredMention:
        """As `on_scale` did it, without learning from it."""
        levels = self.levels.get(mention.channel)
        return levels.level(mention) if levels is not None else mention

    def remember(
        self,
        entity: Entity,
        market: Market,
        mention: ScoredMention,
        weights: tuple[float, float, float, float],
        decisive: bool,
    ) -> None:
        """One mention enters the records, with its voices: in all, negative, positive, and weighted by polarity."""
        own, sector = self.rules, self.sectors.get(mention.entity, "")
        habit = entity.habits.get(mention.channel)
        if habit is None:
            market.entities += 1
            habit = entity.habits[mention.channel] = Habit(
                at_hour=mention.published_at_ms // HOUR_MS, block=mention.published_at_ms // (4 * HOUR_MS)
            )
        close_block(habit, market, mention.published_at_ms, own, sector)
        total, negative, positive, polarity = weights
        habit.open_n += total
        habit.open_p += polarity
        if decisive:
            habit.open_decisive += total
        market.add(
            total,
            polarity,
            polarity * mention.polarity,
            negative,
            positive,
            decisive=total if decisive else 0.0,
            sector=sector,
        )
        sources = self.sources.get(mention.channel)
        if sources is None:
            sources = self.sources[mention.channel] = Sources()
        sources.hear(
            mention.source,
            hour=mention.published_at_ms // HOUR_MS,
            voices=total,
            polarity=polarity,
            rules=own,
        )


def in_order(facts: dict[str, T]) -> dict[str, T]:
    """The same facts are the same bytes, however they came about."""
    return facts if len(facts) < 2 else dict(sorted(facts.items()))


def decode(blob: bytes, kind: type[T], what: str) -> T:
    """A stored blob. Raises Fatal when it comes from another version."""
    try:
        state = msgspec.msgpack.decode(blob, type=kind)
    except msgspec.MsgspecError as err:
        raise Fatal(f"stored state of {what} can't be read: {err}; was it written by a newer version?") from err
    if getattr(state, "version", None) != STATE_VERSION:
        raise Fatal(f"stored state of {what} has another version than {STATE_VERSION}; run the version that wrote it")
    return state
