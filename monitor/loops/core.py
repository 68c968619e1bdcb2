"""The partition core: what `watch` knows of one partition of mentions. Pure: no clock, no I/O, no logging.

Mentions wait until the watermark has passed their base bucket of 60 seconds; then they are folded in the order of
(published_at_ms, id), entities that were spoken of are evaluated at the bucket's end, and open alerts at their timers. So
neither the order of arrival within the lateness, nor where batches are cut, nor a restart changes what is decided: state
blobs hold the records that decay, and the windows are read back from the stored mentions (`reach_back_ms`).
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from monitor.alerting import (
    BLOCK_MS,
    MARKET_S,
    OPENED,
    Budget,
    BudgetState,
    Expected,
    Habit,
    Levels,
    Market,
    OpenAlert,
    Pending,
    Reason,
    Rescoring,
    Rules,
    Said,
    Signal,
    Sources,
    VoiceRules,
    Weight,
    alert_id,
    as_known,
    brief,
    burst,
    close_block,
    confirm,
    cooling_down,
    decompose,
    divergence,
    drift,
    expected,
    exposure,
    note_peak,
    over_blocks,
    over_channels,
    over_window,
    reasons,
    scaled,
    score_of,
    severity,
    share_move_pct,
    step,
    support,
    surplus,
    tone_shift,
    without_top,
)
from monitor.clock import to_rfc3339
from monitor.errors import Fatal
from monitor.records import (
    Alert,
    AlertKind,
    AlertTransition,
    Channel,
    Direction,
    Notice,
    ScoredMention,
    Suppression,
    Voices,
)
from monitor.windows import (
    UNIT,
    Arrival,
    Brigade,
    BucketRow,
    Chorus,
    ChorusPolicy,
    Newcomers,
    NewcomersState,
    NoveltyMemory,
    NoveltyPolicy,
    Shares,
    SlidingSums,
    Story,
    Tellers,
    Told,
    Watermark,
    WatermarkPolicy,
    bucket_start_ms,
)

T = TypeVar("T")
STATE_VERSION = 3
HOUR_MS = 3_600_000
HORIZON_MS = 24 * HOUR_MS
MARKET_WINDOW_MS = 1000 * MARKET_S
RECORD_H_MIN = 2  # hours of a channel: before, everything is unheard of and nothing is unusual
SCORE_MIN = 0.5  # how loud an alert is, is a share of the score it needed, which no budget may make nothing
SILENT_AGAIN_MS = 6 * HOUR_MS
TELLERS_MS = 4 * HOUR_MS
STRANGERS_SURE = 0.9  # of all posts: then nearly everybody is new
STANDS_MS = HOUR_MS
STRANGERS_MAX = 0.5  # where nearly everybody is always new, newcomers can't be told apart
FRESH_ENOUGH = 0.4  # a text with this share of new word pairs is a full voice
QUOTE_CHARS_MAX = 240
_PACK = msgspec.msgpack.Encoder()
_CASHTAG = re.compile(r"\$[A-Za-z]")
_UNHEARD = (0, 0, 0, 0)
NOBODY = (1, 0)  # the time in which no brigade spoke


class Fate(StrEnum):
    """What became of a mention. Only FOLDED counts in windows; the others are stored, counted, and change nothing."""

    FOLDED = "folded"
    LATE = "late"
    FUTURE = "future"
    DUPLICATE = "duplicate"


_FATES = {Arrival.ON_TIME: Fate.FOLDED, Arrival.LATE: Fate.LATE, Arrival.FUTURE: Fate.FUTURE}


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


class _EntityState(msgspec.Struct, array_like=True):
    """The blob of one entity. `opened`: (moment, loudest score told) of the last alert in each direction. `silent`: when it was last noted
    that a loud signal opened no alert, by direction and reason."""

    version: int
    habits: dict[str, Habit]
    alert: OpenAlert | None
    opened: dict[str, tuple[int, float]]
    pending: Pending | None = None
    silent: dict[str, int] = msgspec.field(default_factory=dict)


class _PartitionState(msgspec.Struct, array_like=True):
    """The blob that the partition's entities share."""

    version: int
    newest_ms: dict[str, int]
    markets: dict[str, Market]
    budget: BudgetState | None
    counts: dict[str, int]
    levels: dict[str, Levels] = msgspec.field(default_factory=dict)
    sources: dict[str, Sources] = msgspec.field(default_factory=dict)
    newcomers: NewcomersState | None = None


class _Firing(NamedTuple):
    """A signal that the budget allows; `rarity`: the rate of its like over what is allowed."""

    rarity: float
    ledger: str
    signal: Signal
    channel: str


class _BucketSums(msgspec.Struct, gc=False):
    """An open bucket; `_u` in millionths."""

    raw_n: int = 0
    total_u: int = 0
    negative_u: int = 0
    positive_u: int = 0
    polarity_u: int = 0
    polarity_sq: float = 0.0


class _Ear:
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


class _Entity:
    __slots__ = ("alert", "ears", "habits", "opened", "pending", "silent")

    def __init__(self, state: _EntityState | None = None) -> None:
        self.habits: dict[str, Habit] = state.habits if state else {}
        self.alert: OpenAlert | None = state.alert if state else None
        self.opened: dict[str, tuple[int, float]] = state.opened if state else {}
        self.pending: Pending | None = state.pending if state else None
        self.silent: dict[str, int] = state.silent if state else {}
        self.ears: dict[str, _Ear] = {}

    def pack(self) -> bytes:
        """Its record, as it is stored."""
        return _PACK.encode(
            _EntityState(
                version=STATE_VERSION,
                habits=_in_order(self.habits),
                alert=self.alert,
                opened=_in_order(self.opened),
                pending=self.pending,
                silent=_in_order(self.silent),
            )
        )


class PartitionCore:
    """Take mentions, advance, write what comes out. See the module's docstring."""

    def __init__(
        self, *, policy: WatchPolicy, rules: Rules, names: Mapping[str, str] = {}, sectors: Mapping[str, str] = {}
    ) -> None:
        self._policy, self._rules, self._names, self._sectors = policy, rules, names, sectors
        self._lengths_ms = tuple(1000 * window_s for window_s in rules.windows_s)
        own = rules.detectors
        longest = max(own.burst_windows_s)
        self._burst_windows = tuple(
            (rules.windows_s.index(each), each, "burst" if each == longest else f"burst/{each}")
            for each in sorted(set(own.burst_windows_s))
        )
        self._tone_index = rules.windows_s.index(own.tone_window_s)
        self._day_index = rules.windows_s.index(own.divergence_window_s)
        self._market_index = rules.windows_s.index(MARKET_S)
        self._novelty = NoveltyPolicy(horizon_ms=HORIZON_MS)
        self._chorus = ChorusPolicy(accounts_min=rules.voices.brigade_accounts_min)
        self._decisive = frozenset(event.casefold() for event in rules.voices.decisive_events)
        self._words = tuple(sorted(word.casefold() for word in rules.voices.decisive_words))
        self._watermark = Watermark(policy=_watermark_policy(policy))
        self._entities: dict[str, _Entity] = {}
        self._asleep: dict[str, bytes] = {}  # of whom nothing was heard for a day: their record, packed
        self._markets: dict[str, Market] = {}
        self._loud: dict[str, deque[tuple[int, int, int]]] = {}
        self._loud_sums: dict[str, list[int]] = {}
        self._shares, self._strangers = Shares(), Shares()
        self._newcomers = Newcomers()
        self._brigades: dict[tuple[str, Channel], Brigade] = {}
        self._budget: Budget | None = None
        self._levels: dict[str, Levels] = {}
        self._sources: dict[str, Sources] = {}
        self._suppressed: list[Suppression] = []
        self._pending: dict[str, ScoredMention] = {}
        self._folded_to_ms: int | None = None
        self._timers: list[tuple[int, str]] = []
        self._dirty: set[str] = set()
        self._voiced: dict[str, set[str]] = {}
        self._exposures: dict[tuple[str, int], float] = {}
        self._watched = 1
        self.counts: Counter[str] = Counter()

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
            core._read_partition(_decode(state, _PartitionState, "the partition"), watermark_ms)
        for name, blob in entity_states.items():
            state_of = _decode(blob, _EntityState, f"entity {name}")
            if state_of.alert is None and state_of.pending is None:
                core._asleep[name] = blob
                continue
            core._entities[name] = entity = _Entity(state_of)
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

    def settle(self, settled: Mapping[str, int]) -> None:
        """See `Watermark.settle`."""
        self._watermark.settle(settled)

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
            _PartitionState(
                version=STATE_VERSION,
                newest_ms=self._watermark.newest_ms,
                markets=dict(sorted(self._markets.items())),
                budget=self._budget.state if self._budget else None,
                counts=dict(sorted(self.counts.items())),
                levels=dict(sorted(self._levels.items())),
                sources=dict(sorted(self._sources.items())),
                newcomers=self._newcomers.state,
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
                batch.append(self._on_scale(ready[at]))
                at += 1
            buckets += self._fold_bucket(batch, close_ms - length_ms)
            self._start_evaluating(close_ms)
            # Who was spoken of with a voice: a copy, or an echo in a brigade, makes nothing rarer than it was.
            for name, channels in sorted(self._voiced.items()):
                self._evaluate(name, close_ms, transitions, channels)
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
        suppressed, self._suppressed = tuple(self._suppressed), []
        return Outcome(
            buckets=tuple(buckets),
            entity_states=states,
            transitions=tuple(transitions),
            suppressed=suppressed,
            notices=self._take_notices(),
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
            self._start_evaluating(due_ms)
            self._evaluate(name, due_ms, transitions)
            self._set_timer(name, entity, due_ms)

    def _set_timer(self, name: str, entity: _Entity, after_ms: int) -> None:
        due_ms = self._due_ms(entity, after_ms)
        if due_ms is not None:
            heapq.heappush(self._timers, (due_ms, name))

    def _due_ms(self, entity: _Entity, after_ms: int) -> int | None:
        """Checks of open alerts lie at opened_ms + k × check_s, so that a restart finds the same ones."""
        if entity.alert is None:
            return entity.pending.due_ms if entity.pending and entity.pending.due_ms > after_ms else None
        every_ms, opened_ms = round(self._rules.life.check_s * 1000), entity.alert.opened_ms
        return opened_ms + ((after_ms - opened_ms) // every_ms + 1) * every_ms

    def _forget(self, at_ms: int) -> None:
        """Once an hour of event time: of entities that are silent for a day only the packed record is kept."""
        for name, entity in list(self._entities.items()):
            for channel, ear in list(entity.ears.items()):
                ear.novelty.forget_before(at_ms - HORIZON_MS)
                ear.sums.move_to(at_ms)
                if not len(ear.novelty) and not ear.sums.stories and ear.tellers.forget_before(at_ms):
                    del entity.ears[channel]
                    entity.habits[channel].steps = []  # older than a day
            if not entity.ears and entity.alert is None and entity.pending is None:
                self._asleep[name] = entity.pack()
                del self._entities[name]

    def _wake(self, name: str) -> _Entity:
        """Somebody speaks of it."""
        entity = self._entities.get(name)
        if entity is None:
            blob = self._asleep.pop(name, None)
            state = _decode(blob, _EntityState, f"entity {name}") if blob is not None else None
            entity = self._entities[name] = _Entity(state)
        return entity

    # Folding.

    def _on_scale(self, mention: ScoredMention) -> ScoredMention:
        """What another model version judged, on the scale that this channel's records were made on."""
        levels = self._levels.get(mention.channel)
        if levels is None:
            levels = self._levels[mention.channel] = Levels()
        market = self._markets.get(mention.channel)
        return levels.hear(mention, market.shares() if market is not None else (0.25, 0.25))

    def _fold_bucket(self, batch: Sequence[ScoredMention], start_ms: int) -> list[BucketRow]:
        sums: dict[tuple[str, Channel], _BucketSums] = {}
        hour = start_ms // HOUR_MS
        if self._budget is None:
            self._budget = self._make_budget(BudgetState.since(start_ms))
        for mention in batch:
            entity = self._wake(mention.entity)
            market = self._markets.get(mention.channel)
            if market is None:
                market = self._markets[mention.channel] = Market(hour=hour, first_hour=hour)
            if hour > market.hour:
                market.move_to(hour, self._rules.baseline)
                self._exposures.clear()
            (total_u, negative_u, positive_u, polarity_u), decisive = self._hear(entity, mention)
            weights = (total_u / UNIT, negative_u / UNIT, positive_u / UNIT, polarity_u / UNIT)
            self._remember(entity, market, mention, weights, decisive)
            if total_u:
                self._voiced.setdefault(mention.entity, set()).add(mention.channel)
            key = (mention.entity, mention.channel)
            row = sums.get(key)
            if row is None:
                row = sums[key] = _BucketSums()
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

    def _hear(self, entity: _Entity, mention: ScoredMention) -> tuple[tuple[int, int, int, int], bool]:
        """Novelty and windows: nothing here but what can be read back from stored mentions. Returns its weights in
        millionths, and whether it is decisive."""
        ear = entity.ears.get(mention.channel)
        if ear is None:
            ear = entity.ears[mention.channel] = _Ear(self._lengths_ms, self._novelty, self._chorus)
        at_ms, author, channel = mention.published_at_ms, mention.author, mention.channel
        share = self._shares.hear(at_ms, channel, mention.source)
        newcomer, strangers = False, 0.0
        if author is not None:
            newcomer = self._newcomers.hear(at_ms, author)
            ear.strangers = strangers = self._strangers.hear(at_ms, channel, "new" if newcomer else "known")
        hearing = ear.novelty.hear(at_ms, mention.text, author, None)
        heard, fresh, spoken, crowd = hearing.heard, hearing.fresh, hearing.spoken, hearing.crowd
        copy = heard.copied is not None
        echo = newcomer and ear.chorus.is_echo(mention.text, copy=copy, crowd=crowd, spoken=spoken)
        total_u, decisive, first = 0, False, False
        if not copy:
            told = ear.tellers.hear(at_ms, mention.source, newcomer=newcomer, echo=echo)
            room = _room(told, own=self._rules.voices, share=share, strangers=strangers if newcomer else None)
            decisive = not newcomer and self._is_decisive(mention)
            if decisive:
                first = ear.decisive_ms is None or at_ms - ear.decisive_ms > HORIZON_MS
                ear.decisive_ms = at_ms
                room = max(room, 1.0) if first else room
            total_u = self._weight_u(mention, room=room, fresh=fresh, spoken=spoken, crowd=crowd)
        if author is not None:
            if echo and ear.chorus.brigade is not None:
                total_u = 0
            brigade = ear.chorus.hear(at_ms, echo, total_u, mention)
            if brigade is not None:
                self._brigades[mention.entity, channel] = brigade
                ear.brigade = (brigade.since_ms, brigade.last_ms)
        if copy:
            story = heard.root.token
            if isinstance(story, Story):
                story.copies += 1
            return _UNHEARD, False
        negative_u = round(total_u * mention.probabilities[0])
        positive_u = round(total_u * mention.probabilities[2])
        polarity_u = round(total_u * mention.polarity)
        heard.token = story = Story(
            at_ms=at_ms,
            total_u=total_u,
            negative_u=negative_u,
            positive_u=positive_u,
            polarity_u=polarity_u,
            mention=mention,
            newcomer=newcomer,
        )
        ear.sums.add(story)
        if first:
            ear.decisive = story
        self._add_to_market(channel, at_ms, total_u, polarity_u)
        return (total_u, negative_u, positive_u, polarity_u), decisive

    def _add_to_market(self, channel: str, at_ms: int, total_u: int, polarity_u: int) -> None:
        """What everybody's voices come to in the market's window."""
        sums = self._loud_sums.get(channel)
        if sums is None:
            self._loud[channel] = deque()
            sums = self._loud_sums[channel] = [0, 0]
        self._loud[channel].append((at_ms, total_u, polarity_u))
        sums[0] += total_u
        sums[1] += polarity_u

    def _weight_u(self, mention: ScoredMention, *, room: float, fresh: float, spoken: int, crowd: int) -> int:
        """What a story's voice is worth, in millionths; see VoiceRules. How many follow an author counts nothing."""
        own = self._rules.voices
        weight = own.stale_weight + (1.0 - own.stale_weight) * min(1.0, fresh / FRESH_ENOUGH)
        weight /= (1.0 + own.author_discount * spoken) ** 2 * (1.0 + own.crowd_discount * crowd)
        if "$" in mention.text:
            weight *= float(max(1, len(_CASHTAG.findall(mention.text))) ** -own.list_discount)
        return round(weight * min(max(room, 0.0), 1.0) * UNIT)

    def _take_notices(self) -> tuple[Notice, ...]:
        """What became of brigades since the last step."""
        notices = []
        for (entity, channel), brigade in sorted(self._brigades.items()):
            example = brigade.example
            assert isinstance(example, ScoredMention), "the ear hears mentions"
            notices.append(
                Notice(
                    kind="brigade",
                    entity=entity,
                    channel=channel,
                    since_ms=brigade.since_ms,
                    last_ms=brigade.last_ms,
                    accounts=brigade.accounts,
                    voices=round(brigade.voices_u / UNIT, 3),
                    document=example.document,
                    text=example.text.split("\n", 1)[0][:QUOTE_CHARS_MAX],
                )
            )
        self._brigades.clear()
        return tuple(notices)

    def _remember(
        self,
        entity: _Entity,
        market: Market,
        mention: ScoredMention,
        weights: tuple[float, float, float, float],
        decisive: bool,
    ) -> None:
        """The records that decay: these live in the state blobs."""
        own, sector = self._rules, self._sectors.get(mention.entity, "")
        habit = entity.habits.get(mention.channel)
        if habit is None:
            market.entities += 1
            habit = entity.habits[mention.channel] = Habit(
                at_hour=mention.published_at_ms // HOUR_MS, block=mention.published_at_ms // (4 * HOUR_MS)
            )
        close_block(habit, market, mention.published_at_ms, own.baseline, sector)
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
        sources = self._sources.get(mention.channel)
        if sources is None:
            sources = self._sources[mention.channel] = Sources()
        sources.hear(
            mention.source,
            hour=mention.published_at_ms // HOUR_MS,
            voices=total,
            polarity=polarity,
            rules=own.baseline,
        )

    def _is_decisive(self, mention: ScoredMention) -> bool:
        """An event that may stand alone, told in a clear tone: tagged by the model, or named in the title, or a large move."""
        if abs(mention.polarity) < 0.3:
            return False
        if self._decisive and any(event.casefold() in self._decisive for event in mention.events):
            return True
        title = mention.text.split("\n", 1)[0].casefold()
        if any(map(title.__contains__, self._words)):
            return True
        least = self._rules.voices.decisive_move_pct
        return least > 0.0 and share_move_pct(title) >= least

    # Evaluating.

    def _start_evaluating(self, at_ms: int) -> None:
        """Bring what all entities share to this moment."""
        self._exposures.clear()
        self._watched = max(1, max((market.entities for market in self._markets.values()), default=1))
        for channel, loud in self._loud.items():
            sums = self._loud_sums[channel]
            while loud and loud[0][0] < at_ms - MARKET_WINDOW_MS:
                _, total_u, polarity_u = loud.popleft()
                sums[0] -= total_u
                sums[1] -= polarity_u

    def _evaluate(
        self, name: str, at_ms: int, transitions: list[AlertTransition], spoken: Collection[str] = ()
    ) -> None:
        """`spoken`: the channels that have something new; those without can't have become rarer than they were, and are
        read only while an alert depends on them."""
        entity = self._entities[name]
        budget = self._budget
        if budget is None:
            return
        budget.move_to(at_ms)
        self._dirty.add(name)
        waits = entity.alert is not None or entity.pending is not None
        signals = self._signals(name, entity, at_ms, entity.ears if waits or not spoken else spoken)
        entities = self._watched
        firing: list[_Firing] = []
        for ledger, (channel, signal) in signals.items():
            budget.observe(ledger, name, signal.score, at_ms)
            if not budget.may_fire(ledger, signal.score, at_ms):
                continue
            allowed = budget.allowed(ledger, at_ms)
            rate = budget.rate(ledger, signal.score, entities)
            if rate <= allowed:
                firing.append(_Firing(rate / allowed, ledger, signal, channel))
        firing.sort(key=lambda each: (each.rarity, each.ledger))
        if entity.alert is not None:
            self._step(name, entity, signals, firing, at_ms=at_ms, transitions=transitions)
        if entity.alert is None and firing:
            self._open(
                name,
                entity,
                firing[0],
                at_ms=at_ms,
                entities=entities,
                transitions=transitions,
            )
        elif entity.pending is not None and not firing:
            self._give_up(name, entity, at_ms)

    def _signals(
        self, name: str, entity: _Entity, at_ms: int, channels: Collection[str]
    ) -> dict[str, tuple[str, Signal]]:
        """The best reading for each ledger of the budget over these channels, with its channel."""
        own, best = self._rules.detectors, dict[str, tuple[str, Signal]]()

        def keep(channel: str, signal: Signal | None, ledger: str = "") -> None:
            if signal is not None:
                ledger = ledger or signal.kind
                if ledger not in best or signal.score > best[ledger][1].score:
                    best[ledger] = (channel, signal)

        for channel in sorted(channels):
            ear, habit, market = entity.ears[channel], entity.habits[channel], self._markets[channel]
            if market.hour - market.first_hour < RECORD_H_MIN:
                continue
            windows, voices_min = ear.sums.move_to(at_ms), self._voices_min(channel)
            if windows[-1].total < voices_min:
                continue
            usual = self._usual(name, entity, channel, at_ms)
            factor, market_tone = self._market_move(channel, windows[self._market_index], at_ms)
            peak = 0.0
            for index, window_s, ledger in self._burst_windows:
                if windows[index].total < (voices_min if ledger == "burst" else own.short_voices_min):
                    continue
                voices = _with_decisive(windows[index], ear.decisive, at_ms - 1000 * window_s, usual.rarity)
                exposed = self._exposure(channel, at_ms, window_s)
                excess = surplus(voices.total, usual.voices * exposed * factor, usual.size)
                if excess > 0.0:
                    peak = excess
                    keep(channel, burst(voices, scaled(usual, exposed, factor, market_tone), window_s, own), ledger)
            note_peak(habit, peak)
            window_s, drifting = own.tone_window_s, any(habit.bank)
            heard = windows[self._tone_index]
            if heard.total >= voices_min and (drifting or heard.total * usual.rarity >= own.tone_voices_min):
                voices = _with_decisive(heard, ear.decisive, at_ms - 1000 * window_s, usual.rarity)
                tone_usual = scaled(usual, self._exposure(channel, at_ms, window_s), factor, market_tone)
                keep(channel, tone_shift(voices, tone_usual, window_s, own))
                keep(channel, drift(voices, tone_usual, window_s, habit.bank))
        if len(entity.ears) > 1:
            keep("news", self._divergence(name, entity, at_ms))
        return best

    def _divergence(self, name: str, entity: _Entity, at_ms: int) -> Signal | None:
        """News against social, once both have said enough today."""
        own = self._rules.detectors
        window_s = own.divergence_window_s
        news = entity.ears["news"].sums.move_to(at_ms)[self._day_index]
        social = entity.ears["social"].sums.move_to(at_ms)[self._day_index]
        if min(news.total, social.total) < own.tone_voices_min:
            return None
        usual_news = self._usual(name, entity, "news", at_ms)
        usual_social = self._usual(name, entity, "social", at_ms)
        signal = divergence(news, usual_news, social, usual_social, window_s=window_s, rules=own)
        if signal is None:
            return None
        exposed = self._exposure("news", at_ms, window_s)
        return msgspec.structs.replace(signal, expected=scaled(usual_news, exposed, 1.0, 0.0))

    def _usual(self, name: str, entity: _Entity, channel: str, at_ms: int) -> Expected:
        """The entity's average hour; it holds for an hour of the clock within a block of the habit."""
        ear, habit, market = entity.ears[channel], entity.habits[channel], self._markets[channel]
        of = (at_ms // HOUR_MS, market.hour, habit.block)
        if ear.usual is None or ear.usual_of != of:
            sector = self._sectors.get(name, "")
            ear.usual = expected(habit, market, at_ms=at_ms, rules=self._rules.baseline, sector=sector)
            ear.usual_of = of
        return ear.usual

    def _voices_min(self, channel: str) -> float:
        own = self._rules.detectors
        return own.voices_min_social if channel == "social" else own.voices_min_news

    def _market_move(self, channel: str, own: Voices, at_ms: int) -> tuple[float, float]:
        """How much louder than usual all the others are, and how their tone has moved, in the last four hours."""
        market, (total_u, polarity_u) = self._markets[channel], self._loud_sums[channel]
        others, polarity = total_u / UNIT - own.total, polarity_u / UNIT - own.polarity
        usual = market.level * self._exposure(channel, at_ms, MARKET_S)
        usual *= 1.0 - 1.0 / max(market.entities, 2)
        factor = min(max((others + 20.0) / (usual + 20.0), 1.0), 3.0)
        return factor, (polarity - others * market.tone) / (others + 20.0)

    def _exposure(self, channel: str, at_ms: int, window_s: int) -> float:
        """Average hours in the window; the same for all entities at one moment."""
        key = (channel, window_s)
        known = self._exposures.get(key)
        if known is None:
            known = exposure(self._markets[channel], at_ms - 1000 * window_s, 1000 * window_s)
            self._exposures[key] = known
        return known

    # Life.

    def _step(
        self,
        name: str,
        entity: _Entity,
        signals: Mapping[str, tuple[str, Signal]],
        firing: Sequence[_Firing],
        *,
        at_ms: int,
        transitions: list[AlertTransition],
    ) -> None:
        """One look at an open alert."""
        own = entity.alert
        assert own is not None, "only an open alert takes a step"
        self._dirty.add(name)
        alert = own.alert
        same = [
            (signal.score / needed, ledger)
            for ledger, needed in own.needed.items()
            if ledger in signals and (signal := signals[ledger][1]).direction == alert.direction
        ]
        loudness, loudest = max(same, default=(0.0, ""))
        # Only the loudest may turn it round: a second opinion beside it is controversy, not a reversal.
        against = (
            bool(firing)
            and firing[0].signal.direction != alert.direction
            and self._may_open(name, entity, firing[0], at_ms)
        )
        reason = step(own, loudness=loudness, reversed_by=against, at_ms=at_ms, rules=self._rules.life)
        if reason is None:
            return
        if reason is Reason.STRONGER:
            channel, signal = signals[loudest]
            needed, p_value = own.needed[loudest], alert.p_value
            fresh = self._alert(name, entity, signal, channel=channel, needed=needed, p_value=p_value, at_ms=at_ms)
            own.alert = msgspec.structs.replace(fresh, id=alert.id, opened_at=alert.opened_at)
            transitions.append(AlertTransition(alert=own.alert, change="updated", reason=reason, at_ms=at_ms))
            return
        resolved = msgspec.structs.replace(alert, resolved_at=to_rfc3339(at_ms))
        transitions.append(AlertTransition(alert=resolved, change="resolved", reason=reason, at_ms=at_ms))
        # What comes within the cool-down is measured against how loud it became, not against the story that opened it.
        entity.opened[alert.direction] = (own.opened_ms, own.peak)
        entity.alert = None

    def _open(
        self,
        name: str,
        entity: _Entity,
        loudest: _Firing,
        *,
        at_ms: int,
        entities: int,
        transitions: list[AlertTransition],
    ) -> None:
        """Open an alert unless the same was just told; one that is barely loud enough waits."""
        budget, life = self._budget, self._rules.life
        assert budget is not None, "only a core that has folded something opens alerts"
        _, ledger, signal, channel = loudest
        needed = {
            each: max(budget.needed(each, at_ms, entities), SCORE_MIN)
            for each in self._rules.shares
            if each.partition("/")[0] == signal.kind
        }
        loudness = signal.score / needed[ledger]
        if cooling_down(entity.opened.get(signal.direction), loudness=loudness, at_ms=at_ms, rules=life):
            kind, direction, score, voices = signal.kind, signal.direction, signal.score, signal.voices.total
            self._stay_silent(name, entity, Reason.COOLING_DOWN, kind, direction, score, needed[ledger], voices, at_ms)
            return
        if not self._may_open(name, entity, loudest, at_ms):
            kind, direction, score, voices = signal.kind, signal.direction, signal.score, signal.voices.total
            why = Reason.UNKNOWN_ACCOUNTS
            self._stay_silent(name, entity, why, kind, direction, score, needed[ledger], voices, at_ms)
            return
        waits = confirm(entity.pending, signal, needed=needed[ledger], at_ms=at_ms, rules=life)
        if waits is not None:
            if waits is not entity.pending:
                self._give_up(name, entity, at_ms)
                entity.pending = waits
                self._set_timer(name, entity, at_ms)
            return
        entity.pending = None
        p_value = budget.rate(ledger, signal.score, entities) / entities
        budget.spend(at_ms)
        alert = self._alert(name, entity, signal, channel=channel, needed=needed[ledger], p_value=p_value, at_ms=at_ms)
        entity.alert = OpenAlert(
            alert=alert, channel=channel, needed=needed, peak=loudness, opened_ms=at_ms, updated_ms=at_ms
        )
        entity.opened[signal.direction] = (at_ms, loudness)
        self._dirty.add(name)
        self._set_timer(name, entity, at_ms)
        transitions.append(AlertTransition(alert=alert, change="opened", reason=OPENED[signal.kind], at_ms=at_ms))

    def _may_open(self, name: str, entity: _Entity, firing: _Firing, at_ms: int) -> bool:
        """Would it fire if of the newcomers only so many had spoken as usually come with the known?

        A crowd that is new to us is loud before it can be told whether it is a brigade. So what a newcomer said counts in full
        once it has stood for `STANDS_MS`; what came from them in a brigade's time, or as long before its first echo, counts
        nothing for as long as it is heard.
        """
        own, budget, signal, channel = self._rules, self._budget, firing.signal, firing.channel
        assert budget is not None, "only what a budget allows fires"
        ear = entity.ears[channel]
        index = self._day_index if signal.kind == "drift" else own.windows_s.index(signal.window_s)
        inside = ear.sums.inside(index)
        since_ms, last_ms = ear.brigade
        unknown = [
            story
            for story in inside
            if story.newcomer and (story.at_ms >= at_ms - STANDS_MS or since_ms - STANDS_MS <= story.at_ms <= last_ms)
        ]
        if not unknown:
            return True
        # Where nearly everybody is new, the known tell nothing of how many more to expect; in a brigade they tell the wrong.
        on = ear.chorus.brigade is not None
        strangers = 0.0 if on or ear.strangers >= STRANGERS_SURE else ear.strangers
        threshold = min(budget.needed(firing.ledger, at_ms, self._watched), signal.score)
        counts = signal.kind in {"burst", "tone"}
        rarity = signal.expected.rarity if counts else 1.0
        said, gone = (_said(stories, ear.decisive, rarity) for stories in (inside, unknown))
        if counts:
            missing = {each.mention.id for each in gone}
            known = [each for each in said if each.mention.id not in missing]
            lately = sum(each.weight for each in known if each.mention.published_at_ms >= at_ms - STANDS_MS)
            voices = as_known(known, signal.voices, lately * strangers / (1.0 - strangers))
            least = self._voices_min(channel)
            return score_of(voices, signal, voices_min=least, rules=own.detectors) >= threshold
        if sum(each.weight for each in gone) <= strangers * sum(each.weight for each in said):
            return True
        return self._rescoring(name, entity, signal, said, channel, at_ms)(gone) >= threshold

    def _give_up(self, name: str, entity: _Entity, at_ms: int) -> None:
        """What waited to be confirmed, if anything did, no longer fires."""
        self._dirty.add(name)
        gone, entity.pending = entity.pending, None
        if gone is not None:
            self._stay_silent(
                name,
                entity,
                Reason.NOT_CONFIRMED,
                gone.kind,
                gone.direction,
                gone.score,
                gone.needed,
                gone.voices,
                at_ms,
            )

    def _stay_silent(
        self,
        name: str,
        entity: _Entity,
        reason: Reason,
        kind: AlertKind,
        direction: Direction,
        score: float,
        needed: float,
        voices: float,
        at_ms: int,
    ) -> None:
        """Note why a loud signal opens nothing; once per direction and reason in `SILENT_AGAIN_MS`."""
        self.counts[reason] += 1
        key = f"{direction}/{reason}"
        if at_ms - entity.silent.get(key, at_ms - SILENT_AGAIN_MS) < SILENT_AGAIN_MS:
            return
        entity.silent[key] = at_ms
        self._dirty.add(name)
        self._suppressed.append(
            Suppression(
                entity=name,
                kind=kind,
                direction=direction,
                reason=reason,
                at_ms=at_ms,
                score=round(score, 3),
                needed=round(needed, 3),
                voices=round(voices, 3),
            )
        )

    def _alert(
        self, name: str, entity: _Entity, signal: Signal, *, channel: str, needed: float, p_value: float, at_ms: int
    ) -> Alert:
        """Everything that is said to the analyst, from the facts at hand."""
        own = self._rules
        if signal.kind == "drift":
            signal = self._over_the_day(name, entity, signal, channel, at_ms)
        ear, usual, voices = entity.ears[channel], signal.expected, signal.voices
        rarity = usual.rarity if signal.kind in {"burst", "tone"} else 1.0
        said = _said(ear.sums.inside(own.windows_s.index(signal.window_s)), ear.decisive, rarity)
        both = said
        if signal.kind == "divergence":
            both = [*said, *_said(entity.ears["social"].sums.inside(self._day_index), None, 1.0)]
        threshold = min(needed, signal.score)
        without = self._rescoring(name, entity, signal, both, channel, at_ms)
        why = reasons(
            both, support=support(signal), without=without, threshold=threshold, stories_max=own.life.stories_max
        )
        authors, loudest = (
            without_top(said, name=name_of, top=top, fires=lambda gone: without(gone) >= threshold)
            for name_of, top in (
                (lambda each: each.mention.author, own.life.top_authors),
                (lambda each: each.mention.source, own.life.top_sources),
            )
        )
        brigade = ear.chorus.brigade
        raw_n = sum(each.copies for each in said)
        sources = self._sources[channel]
        names = {each.mention.source for each in said}
        mean_tone = self._markets[channel].mean_tone()
        shift = decompose(
            said,
            usual=usual.tone,
            channel_tone=mean_tone,
            source_tone=lambda source: sources.tone(source, mean_tone),
        )
        weight = Weight(
            size=signal.score / max(needed, 1.0),
            voices=voices.total,
            sources=len(names),
            quality=sum(each.weight * sources.quality(each.mention.source) for each in said) / max(voices.total, 1e-9),
            novelty=min(1.0, voices.total / max(len(said), 1)),
        )
        polarity = voices.polarity / voices.total
        cold = usual.exposure_h < 24 * own.baseline.cold_days
        alert = Alert(
            id=alert_id(entity=name, kind=signal.kind, direction=signal.direction, opened_at_ms=at_ms, rule=own.name),
            entity=name,
            kind=signal.kind,
            direction=signal.direction,
            opened_at=to_rfc3339(at_ms),
            resolved_at=None,
            severity=severity(weight),
            p_value=float(f"{min(1.0, p_value):.4g}"),
            polarity=round(polarity, 4),
            effective_n=round(voices.total, 3),
            raw_n=raw_n,
            baseline={
                "channel": channel,
                "window_s": signal.window_s,
                "voices": round(usual.voices, 4),
                "dispersion": round(1.0 / usual.size, 4),
                "polarity": round(usual.tone, 4),
                "market_factor": round(usual.market, 4),
                "record_hours": round(usual.exposure_h, 1),
                "cold_start": cold,
            },
            evidence=why.evidence,
            counter_evidence=why.counter_evidence,
            flip_margin=why.flip_margin,
            model=said[-1].mention.model if said else "",
            rule=own.name,
            name=self._names.get(name),
            details={
                "score": round(signal.score, 3),
                "score_needed": round(needed, 3),
                "stories": len(said),
                "stories_needed": len(why.needed) if why.enough else 0,
                "documents_needed": list(why.needed) if why.enough else [],
                "fires_without_all_stories": not why.enough,
                "shift": {name: round(value, 4) for name, value in shift._asdict().items()},
                "volume_ratio": round(voices.total / max(usual.voices, 0.01), 2),
                "sources": len(names),
                "source_quality": round(weight.quality, 3),
                "novelty": round(weight.novelty, 3),
                "authors": authors.known,
                "top_author_share": authors.share,
                "fires_without_top_authors": authors.fires,
                "top_sources": list(loudest.names),
                "top_source_share": loudest.share,
                "fires_without_top_sources": loudest.fires,
                "brigade_accounts": brigade.accounts if brigade is not None else 0,
                "budget_per_day": own.budget.false_alerts_per_day,
            },
        )
        return msgspec.structs.replace(alert, brief=brief(alert))

    def _over_the_day(self, name: str, entity: _Entity, signal: Signal, channel: str, at_ms: int) -> Signal:
        """A drift is told by the voices of the last day: those of the tone's window say little of what took so long."""
        windows, day_s = entity.ears[channel].sums.move_to(at_ms), self._rules.windows_s[self._day_index]
        voices, moved = windows[self._day_index], self._market_move(channel, windows[self._market_index], at_ms)
        usual = scaled(self._usual(name, entity, channel, at_ms), self._exposure(channel, at_ms, day_s), *moved)
        tone = voices.polarity / voices.total - usual.tone
        return msgspec.structs.replace(signal, window_s=day_s, voices=voices, expected=usual, tone=tone)

    def _rescoring(
        self, name: str, entity: _Entity, signal: Signal, said: Sequence[Said], channel: str, at_ms: int
    ) -> Rescoring:
        """The detector that spoke, over fewer stories."""
        own = self._rules
        if signal.kind == "drift":
            since = (at_ms - HORIZON_MS + BLOCK_MS - 1) // BLOCK_MS
            steps = [each for each in entity.habits[channel].steps if each.block >= since]
            return over_blocks(signal, said, steps=steps, prior=own.baseline.tone_prior_voices)
        if signal.kind == "divergence":
            social = self._usual(name, entity, "social", at_ms)
            return over_channels(signal, said, social=social, window_s=signal.window_s, rules=own.detectors)
        return over_window(signal, said, voices_min=self._voices_min(channel), rules=own.detectors)

    # State.

    def _make_budget(self, state: BudgetState) -> Budget:
        gap_ms = round(self._rules.life.cooldown_s * 1000)
        own = self._rules
        return Budget(rules=own.budget, shares=own.shares, gap_ms=gap_ms, share=self._policy.budget_share, state=state)

    def _read_partition(self, state: _PartitionState, watermark_ms: int | None) -> None:
        self._watermark = Watermark(
            policy=_watermark_policy(self._policy), newest_ms=state.newest_ms, restored_ms=watermark_ms
        )
        if watermark_ms is not None:
            self._folded_to_ms = bucket_start_ms(watermark_ms, self._policy.bucket_ms)
        self._markets = state.markets
        self._budget = self._make_budget(state.budget) if state.budget is not None else None
        self._levels, self._sources = state.levels, state.sources
        self.counts = Counter(state.counts)
        self._newcomers = Newcomers(state.newcomers)

    def _read_back(self, recent: Iterable[ScoredMention]) -> None:
        """Windows and novelty from stored mentions; what the watermark has not passed waits again."""
        folded_to_ms = self._folded_to_ms
        for mention in sorted(recent, key=lambda m: (m.published_at_ms, m.id)):
            if folded_to_ms is None or mention.published_at_ms >= folded_to_ms:
                self._pending[mention.id] = mention
            else:
                levels = self._levels.get(mention.channel)
                heard = levels.level(mention) if levels is not None else mention
                self._hear(self._wake(mention.entity), heard)
        self._brigades.clear()  # told already
        if folded_to_ms is not None:
            self._start_evaluating(folded_to_ms)
            for entity in self._entities.values():
                for ear in entity.ears.values():
                    ear.novelty.forget_before(folded_to_ms - HORIZON_MS)
                    ear.sums.move_to(folded_to_ms)


def _in_order(facts: dict[str, T]) -> dict[str, T]:
    """The same facts are the same bytes, however they came about."""
    return facts if len(facts) < 2 else dict(sorted(facts.items()))


def _with_decisive(voices: Voices, story: Story | None, start_ms: int, rarity: float) -> Voices:
    """The sums of a window, with the day's decisive story at what its rarity earns."""
    if story is None or story.at_ms < start_ms or rarity <= 1.0:
        return voices
    more = (rarity - 1.0) / UNIT
    return Voices(
        total=voices.total + more * story.total_u,
        negative=voices.negative + more * story.negative_u,
        positive=voices.positive + more * story.positive_u,
        polarity=voices.polarity + more * story.polarity_u,
    )


def _said(stories: Iterable[Story], decisive: Story | None, rarity: float) -> list[Said]:
    """These stories, the decisive one at what it weighs."""
    return [
        Said(story.mention, (rarity if story is decisive else 1.0) * story.total_u / UNIT, story.copies)
        for story in stories
        if isinstance(story.mention, ScoredMention)
    ]


def _room(told: Told, *, own: VoiceRules, share: float, strangers: float | None) -> float:
    """How many voices its source has left, and where the author is new, how many all newcomers have: see VoiceRules."""

    def left(cap: float, usual: float, others: int, same: int) -> float:
        return (cap + usual * others) / max(1.0 - usual, 1e-6) - same

    room = left(own.source_cap, share, told.by_other_sources, told.same_source)
    if strangers is not None:
        usual = min(strangers, STRANGERS_MAX)
        many = left(own.newcomer_cap, usual, told.by_others, told.by_newcomers) + told.newcomers_before / 6
        few = left(own.newcomer_cap, usual, told.by_others_h, told.by_newcomers_h) + told.newcomers_before / 24
        room = min(room, many, few)
    return room


def _watermark_policy(policy: WatchPolicy) -> WatermarkPolicy:
    return WatermarkPolicy(
        lateness_ms=policy.lateness_ms, idle_after_ms=policy.idle_after_ms, future_max_ms=policy.future_max_ms
    )


def _decode(blob: bytes, kind: type[T], what: str) -> T:
    try:
        state = msgspec.msgpack.decode(blob, type=kind)
    except msgspec.MsgspecError as err:
        raise Fatal(f"stored state of {what} can't be read: {err}; was it written by a newer version?") from err
    if getattr(state, "version", None) != STATE_VERSION:
        raise Fatal(f"stored state of {what} has another version than {STATE_VERSION}; run the version that wrote it")
    return state
