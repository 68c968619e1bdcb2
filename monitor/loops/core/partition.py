"""The partition core. See the package's docstring; this file keeps event time: what waits, what is folded, what is looked at."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from monitor.alerting import BudgetState, Rules
from monitor.loops.core.contract import Fate, Outcome, WatchPolicy
from monitor.loops.core.hearing import Listener
from monitor.loops.core.life import Life
from monitor.loops.core.memory import (
    HORIZON_MS,
    HOUR_MS,
    STATE_VERSION,
    Entity,
    Memory,
    decode,
)
from monitor.loops.core.records import BucketSums, EntityState, PartitionState
from monitor.loops.core.signals import Reader
from monitor.loops.core.telling import Teller
from monitor.records import AlertTransition, Channel, ScoredMention
from monitor.windows import (
    UNIT,
    Arrival,
    BucketRow,
    Watermark,
    WatermarkPolicy,
    bucket_start_ms,
    fingerprint,
)

_FATES = {Arrival.ON_TIME: Fate.FOLDED, Arrival.LATE: Fate.LATE, Arrival.FUTURE: Fate.FUTURE}


class PartitionCore:
    """Take mentions, advance, write what comes out. See the package's docstring."""

    def __init__(
        self, *, policy: WatchPolicy, rules: Rules, names: Mapping[str, str] = {}, sectors: Mapping[str, str] = {}
    ) -> None:
        self._policy = policy
        self._check_ms = round(rules.life.check_s * 1000)
        self.counts: Counter[str] = Counter()
        self._memory, self._listener = Memory(rules, sectors), Listener(rules)
        reader = Reader(rules, self._memory, self._listener)
        teller = Teller(rules, self._memory, reader, names)
        self._life = Life(rules, self._memory, reader, teller, share=policy.budget_share, counts=self.counts)
        self._watermark = Watermark(policy=_watermark_policy(policy))
        self._entities: dict[str, Entity] = {}
        self._asleep: dict[str, bytes] = {}  # of whom nothing was heard for a day: their record, packed
        self._pending: dict[str, ScoredMention] = {}
        self._folded_to_ms: int | None = None
        self._timers: list[tuple[int, str]] = []
        self._dirty: set[str] = set()
        self._voiced: dict[str, set[str]] = {}

    @classmethod
    def restore(
        cls,
        *,
        policy: WatchPolicy,
        rules: Rules,
        names: Mapping[str, str],
        state: bytes,
        watermark_ms: int | None,
        entity_states: Mapping[str, bytes],
        recent: Iterable[ScoredMention],
        sectors: Mapping[str, str] = {},
    ) -> PartitionCore:
        """The core that wrote these, as if it had never stopped. `recent`: see `WatchPolicy.reach_back_ms`; without late ones.

        Raises Fatal when a blob comes from another version.
        """
        core = cls(policy=policy, rules=rules, names=names, sectors=sectors)
        if state:
            core._read_partition(decode(state, PartitionState, "the partition"), watermark_ms)
        for name, blob in entity_states.items():
            state_of = decode(blob, EntityState, f"entity {name}")
            entity = Entity(state_of)
            if not entity.waits:
                core._asleep[name] = blob
                continue
            core._entities[name] = entity
            if core._folded_to_ms is not None:
                core._set_timer(name, entity, core._folded_to_ms)
        core._read_back(recent)
        return core

    @property
    def watermark_ms(self) -> int | None:
        return self._watermark.value_ms

    @property
    def awake(self) -> int:
        """How many entities somebody spoke of within a day, or that have an alert: only these are held unpacked."""
        return len(self._entities)

    def expect(self, origins: Collection[str]) -> None:
        """See `Watermark.expect`."""
        self._watermark.expect(origins)

    def settle(self, settled: Mapping[str, int], *, since_ms: int = 0) -> None:
        """See `Watermark.settle`."""
        self._watermark.settle(settled, since_ms=since_ms)

    def note(self, steady_ms: int) -> None:
        """See `Watermark.note`."""
        self._watermark.note(steady_ms)

    def hold(self) -> None:
        """See `Watermark.hold`."""
        self._watermark.hold()

    def release(self) -> None:
        """See `Watermark.release`."""
        self._watermark.release()

    def take(self, mention: ScoredMention, *, origin: str, now_ms: int | None, steady_ms: int | None = None) -> Fate:
        """Accept one mention; it waits until the watermark has passed. `now_ms` None: a history, nobody is idle or early.

        `steady_ms`: see `Watermark.observe`.
        """
        if mention.id in self._pending:
            self.counts[Fate.DUPLICATE] += 1
            return Fate.DUPLICATE
        arrival = self._watermark.observe(
            origin, mention.published_at_ms, now_ms=now_ms, steady_ms=steady_ms, floor_ms=self._policy.bucket_ms
        )
        fate = _FATES[arrival]
        self.counts[fate] += 1
        if arrival is Arrival.ON_TIME:
            self._pending[mention.id] = mention
            # Remembered until it is folded: texts in a row cost half of what each does between other work.
            fingerprint(mention.text)
        return fate

    def advance(self) -> Outcome:
        """Fold what the watermark has passed, evaluate who was spoken of."""
        watermark_ms = self._watermark.value_ms
        if watermark_ms is None:
            return Outcome()
        return self._advance_to(bucket_start_ms(watermark_ms, self._policy.bucket_ms))

    def tick(self, steady_ms: int, *, drained: bool) -> Outcome:
        """Nobody speaks: let event time flow on."""
        self._watermark.tick(steady_ms, drained=drained)
        return self.advance()

    def finish(self) -> Outcome:
        """The end of a file: every bucket that was begun is closed."""
        end_ms = self._watermark.finish()
        if end_ms is None:
            return Outcome()
        return self._advance_to(bucket_start_ms(end_ms, self._policy.bucket_ms) + self._policy.bucket_ms)

    def state(self) -> bytes:
        """What the partition's entities share; write it with the watermark."""
        return msgspec.msgpack.encode(
            PartitionState(
                version=STATE_VERSION,
                newest_ms=self._watermark.newest_ms,
                markets=dict(sorted(self._memory.markets.items())),
                budget=self._life.budget,
                counts=dict(sorted(self.counts.items())),
                levels=dict(sorted(self._memory.levels.items())),
                sources=dict(sorted(self._memory.sources.items())),
                newcomers=self._listener.newcomers.state,
            )
        )

    # Time.

    def _advance_to(self, end_ms: int) -> Outcome:
        buckets: list[BucketRow] = []
        transitions: list[AlertTransition] = []
        ready = sorted(
            (m for m in self._pending.values() if m.published_at_ms < end_ms), key=lambda m: (m.published_at_ms, m.id)
        )
        at, length_ms = 0, self._policy.bucket_ms
        while at < len(ready):
            close_ms = bucket_start_ms(ready[at].published_at_ms, length_ms) + length_ms
            self._run_timers(close_ms - 1, transitions)
            batch = []
            while at < len(ready) and ready[at].published_at_ms < close_ms:
                batch.append(self._memory.on_scale(ready[at]))
                at += 1
            buckets += self._fold_bucket(batch, close_ms - length_ms)
            self._life.start(close_ms)
            # Who was spoken of with a voice: a copy, or an echo in a brigade, makes nothing rarer than it was.
            for name, channels in sorted(self._voiced.items()):
                entity = self._entities[name]
                self._dirty.add(name)
                if self._life.look(name, entity, close_ms, transitions, channels):
                    self._set_timer(name, entity, close_ms)
            self._voiced.clear()
        for mention in ready:
            del self._pending[mention.id]
        self._run_timers(end_ms, transitions)
        states = {name: self._entities[name].pack() for name in sorted(self._dirty)}
        self._dirty.clear()
        if self._folded_to_ms is None or end_ms > self._folded_to_ms:
            hour = (self._folded_to_ms or 0) // HOUR_MS
            self._folded_to_ms = end_ms
            if end_ms // HOUR_MS > hour:
                self._forget(end_ms)
        return Outcome(
            buckets=tuple(buckets),
            entity_states=states,
            transitions=tuple(transitions),
            suppressed=self._life.take_suppressed(),
            notices=self._listener.take_notices(),
            next_timer_ms=self._timers[0][0] if self._timers else None,
        )

    def _run_timers(self, until_ms: int, transitions: list[AlertTransition]) -> None:
        """Look at open and pending alerts although nobody speaks of them, in the order of time."""
        while self._timers and self._timers[0][0] <= until_ms:
            due_ms, name = heapq.heappop(self._timers)
            while self._timers and self._timers[0] == (due_ms, name):
                heapq.heappop(self._timers)
            entity = self._entities.get(name)
            if entity is None or self._due_ms(entity, due_ms - 1) != due_ms:
                continue
            self._life.start(due_ms)
            self._dirty.add(name)
            self._life.look(name, entity, due_ms, transitions)
            self._set_timer(name, entity, due_ms)

    def _set_timer(self, name: str, entity: Entity, after_ms: int) -> None:
        due_ms = self._due_ms(entity, after_ms)
        if due_ms is not None:
            heapq.heappush(self._timers, (due_ms, name))

    def _due_ms(self, entity: Entity, after_ms: int) -> int | None:
        """Checks of open alerts lie at opened_ms + k × check_s, so that a restart finds the same ones."""
        if entity.alert is None:
            return entity.pending.due_ms if entity.pending and entity.pending.due_ms > after_ms else None
        every_ms, opened_ms = self._check_ms, entity.alert.opened_ms
        return opened_ms + ((after_ms - opened_ms) // every_ms + 1) * every_ms

    def _forget(self, at_ms: int) -> None:
        """Once an hour of event time: of entities that are silent for a day only the packed record is kept."""
        for name, entity in list(self._entities.items()):
            if entity.forget(at_ms):
                self._asleep[name] = entity.pack()
                del self._entities[name]

    def _wake(self, name: str) -> Entity:
        """Somebody speaks of it."""
        entity = self._entities.get(name)
        if entity is None:
            blob = self._asleep.pop(name, None)
            state = decode(blob, EntityState, f"entity {name}") if blob is not None else None
            entity = self._entities[name] = Entity(state)
        return entity

    # Folding.

    def _fold_bucket(self, batch: Sequence[ScoredMention], start_ms: int) -> list[BucketRow]:
        sums: dict[tuple[str, Channel], BucketSums] = {}
        hour = start_ms // HOUR_MS
        if self._life.budget is None:
            self._life.begin(BudgetState.since(start_ms))
        heard = [(self._wake(mention.entity), mention) for mention in batch]
        for (entity, mention), hearing in zip(heard, self._listener.novelties(heard), strict=True):
            market = self._memory.market(mention.channel, hour)
            (total_u, negative_u, positive_u, polarity_u), decisive = self._listener.hear(entity, mention, hearing)
            weights = (total_u / UNIT, negative_u / UNIT, positive_u / UNIT, polarity_u / UNIT)
            self._memory.remember(entity, market, mention, weights, decisive)
            if total_u:
                self._voiced.setdefault(mention.entity, set()).add(mention.channel)
            key = (mention.entity, mention.channel)
            row = sums.get(key)
            if row is None:
                row = sums[key] = BucketSums()
            row.raw_n += 1
            row.total_u += total_u
            row.negative_u += negative_u
            row.positive_u += positive_u
            row.polarity_u += polarity_u
            row.polarity_sq += weights[3] * mention.polarity
            self._dirty.add(mention.entity)
        return [
            BucketRow(
                entity=name,
                channel=channel,
                start_ms=start_ms,
                raw_n=row.raw_n,
                effective_n=row.total_u / UNIT,
                negative=row.negative_u / UNIT,
                neutral=(row.total_u - row.negative_u - row.positive_u) / UNIT,
                positive=row.positive_u / UNIT,
                polarity_sum=row.polarity_u / UNIT,
                polarity_sq_sum=round(row.polarity_sq, 6),
            )
            for (name, channel), row in sorted(sums.items())
        ]

    # State.

    def _read_partition(self, state: PartitionState, watermark_ms: int | None) -> None:
        self._watermark = Watermark(
            policy=_watermark_policy(self._policy), newest_ms=state.newest_ms, restored_ms=watermark_ms
        )
        if watermark_ms is not None:
            self._folded_to_ms = bucket_start_ms(watermark_ms, self._policy.bucket_ms)
        if state.budget is not None:
            self._life.begin(state.budget)
        self._memory.markets, self._memory.levels, self._memory.sources = state.markets, state.levels, state.sources
        self.counts.update(state.counts)
        self._listener.restore(state.newcomers)

    def _read_back(self, recent: Iterable[ScoredMention]) -> None:
        """Windows and novelty from stored mentions; what the watermark has not passed waits again."""
        folded_to_ms = self._folded_to_ms
        for mention in sorted(recent, key=lambda m: (m.published_at_ms, m.id)):
            if folded_to_ms is None or mention.published_at_ms >= folded_to_ms:
                self._pending[mention.id] = mention
                continue
            entity, scaled = self._wake(mention.entity), self._memory.as_scaled(mention)
            (hearing,) = self._listener.novelties([(entity, scaled)])
            self._listener.hear(entity, scaled, hearing)
        self._listener.take_notices()  # told already
        if folded_to_ms is not None:
            self._life.start(folded_to_ms)
            for entity in self._entities.values():
                for ear in entity.ears.values():
                    ear.novelty.forget_before(folded_to_ms - HORIZON_MS)
                    ear.sums.move_to(folded_to_ms)


def _watermark_policy(policy: WatchPolicy) -> WatermarkPolicy:
    return WatermarkPolicy(
        lateness_ms=policy.lateness_ms, idle_after_ms=policy.idle_after_ms, future_max_ms=policy.future_max_ms
    )
