"""The reasoning of one partition: event time, one voice a story, windows, detectors, alerts. Pure; no clock, no I/O.

Mentions wait until the watermark has passed their minute and are then folded in the order of (time, id), so that the order
of arrival within the lateness changes nothing. An entity is judged at the end of each minute in which it was spoken of and,
while it has an open alert, every quarter of an hour. The same core runs live and in backtests.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from monitor.alerting import (
    BLOCK_MS,
    BLOCKS_A_DAY,
    Change,
    EntityBaseline,
    Finding,
    Life,
    MarketBaseline,
    Reason,
    Rules,
    Tribunal,
    brief,
    close,
    decisive,
    detect_burst,
    detect_tone,
    expect,
    fires_without,
    limit_log10_p,
    ranked,
    step,
    told,
    voices_to_fire,
)
from monitor.clock import to_rfc3339
from monitor.errors import Fatal
from monitor.records import Alert, AlertTransition, Channel, ScoredMention
from monitor.windows import (
    UNIT,
    Arrival,
    BucketRow,
    NoveltyMemory,
    NoveltyPolicy,
    SlidingSums,
    Story,
    Watermark,
    WatermarkPolicy,
    bucket_start_ms,
)

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
WINDOWS_MS = (300_000, HOUR_MS, BLOCK_MS, DAY_MS)
_SHORT, _LONG = 1, 2
_RECHECK_MS = 900_000
_STATE_VERSION = 1
_KINDS = ("burst", "tone")


class Fate(StrEnum):
    """What became of a mention; also the label of the metric."""

    FOLDED = "folded"
    LATE = "late"
    FUTURE = "future"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPolicy:
    """What a core remembers. `reach_back_ms`: how much of the record a restart reads back."""

    bucket_ms: int = MINUTE_MS
    novelty: NoveltyPolicy = field(default_factory=NoveltyPolicy)

    @property
    def reach_back_ms(self) -> int:
        return WINDOWS_MS[-1] + self.novelty.horizon_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What must be written: absolute sums of closed buckets, states of the entities that changed, steps of alerts."""

    buckets: tuple[BucketRow, ...] = ()
    entity_states: Mapping[str, bytes] = field(default_factory=dict)
    transitions: tuple[AlertTransition, ...] = ()


class _EntityState(msgspec.Struct, array_like=True):
    version: int
    baseline: EntityBaseline
    lives: list[Life]
    best: list[float]


class _PartitionState(msgspec.Struct, array_like=True):
    version: int
    folded_until_ms: int
    newest_ms: dict[str, int]
    market: MarketBaseline
    tribunals: list[Tribunal]
    market_tone: list[float]


class _Entity:
    """What is known of one company. `memory` and `sums` exist only while somebody speaks of it."""

    __slots__ = ("baseline", "best", "lives", "memory", "sums")

    def __init__(self, state: _EntityState | None = None) -> None:
        self.baseline = state.baseline if state else EntityBaseline()
        self.lives = state.lives if state else [Life() for _ in _KINDS]
        self.best = state.best if state else [0.0 for _ in _KINDS]
        self.memory: NoveltyMemory | None = None
        self.sums: SlidingSums | None = None

    def encode(self) -> bytes:
        state = _EntityState(version=_STATE_VERSION, baseline=self.baseline, lives=self.lives, best=self.best)
        return msgspec.msgpack.encode(state)


class PartitionCore:
    """`take` mentions, then `advance`; `tick` when nobody speaks; `finish` at the end of a file."""

    def __init__(self, *, policy: WatchPolicy, rules: Rules, names: Mapping[str, str]) -> None:
        """`names`: entity → company name of the whole watchlist; the budget is shared out over it."""
        self._policy, self._rules, self._names = policy, rules, names
        self._keep = 0.5 ** (1.0 / (rules.baseline.half_life_days * BLOCKS_A_DAY))
        self._watermark = self._make_watermark(None, {})
        self._until_ms = -1
        self._waiting: list[tuple[int, str, ScoredMention]] = []
        self._entities: dict[str, _Entity] = {}
        self._market = MarketBaseline()
        self._tribunals = [Tribunal() for _ in _KINDS]
        self._market_tone = [0.0, 0.0]
        self._timers: list[tuple[int, str]] = []
        self._timed: dict[str, int] = {}
        self._swept_block = -1
        self._buckets: list[BucketRow] = []
        self._dirty: set[str] = set()
        self._transitions: list[AlertTransition] = []

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
    ) -> PartitionCore:
        """As if it had never stopped. `recent`: stored mentions from `reach_back_ms` before the watermark on."""
        core = cls(policy=policy, rules=rules, names=names)
        shared = msgspec.msgpack.decode(state, type=_PartitionState)
        if shared.version != _STATE_VERSION:
            raise Fatal(f"database: partition state is version {shared.version}, this tapewatch reads {_STATE_VERSION}")
        core._until_ms, core._market, core._market_tone = shared.folded_until_ms, shared.market, shared.market_tone
        core._tribunals = shared.tribunals
        core._watermark = core._make_watermark(watermark_ms, shared.newest_ms)
        for entity, blob in sorted(entity_states.items()):
            core._entities[entity] = _Entity(msgspec.msgpack.decode(blob, type=_EntityState))
            if any(life.is_open for life in core._entities[entity].lives):
                core._set_timer(entity, core._until_ms)
        for mention in sorted(recent, key=lambda m: (m.published_at_ms, m.id)):
            if mention.published_at_ms < core._until_ms:
                core._hear(core._entity(mention.entity), mention)
            else:
                heapq.heappush(core._waiting, (mention.published_at_ms, mention.id, mention))
        return core

    @property
    def watermark_ms(self) -> int | None:
        return self._watermark.value_ms

    @property
    def waiting(self) -> int:
        """Mentions that wait for the watermark."""
        return len(self._waiting)

    def take(self, mention: ScoredMention, *, origin: str = "", now_ms: int | None = None) -> Fate:
        """One new mention; the caller has made sure that it is new. Late and future ones change nothing that is decided."""
        if self._watermark.observe(origin, mention.published_at_ms, now_ms=now_ms) is Arrival.FUTURE:
            return Fate.FUTURE
        if mention.published_at_ms < self._until_ms:
            return Fate.LATE
        heapq.heappush(self._waiting, (mention.published_at_ms, mention.id, mention))
        return Fate.FOLDED

    def advance(self) -> Outcome:
        """Fold what the watermark has passed and judge whoever was spoken of."""
        watermark_ms = self._watermark.value_ms
        if watermark_ms is not None:
            self._run(bucket_start_ms(watermark_ms, self._policy.bucket_ms))
        return self._outcome()

    def tick(self, now_ms: int, *, drained: bool) -> Outcome:
        """Nobody speaks: event time moves on as wall time does."""
        if drained:
            self._watermark.tick(now_ms)
        return self.advance()

    def finish(self) -> Outcome:
        """The end of a file: everything is folded, and alerts are followed for another day."""
        newest = max((at_ms for at_ms, _, _ in self._waiting), default=self._until_ms)
        self._run(bucket_start_ms(max(newest, self._until_ms) + DAY_MS, self._policy.bucket_ms))
        return self._outcome()

    def state(self) -> bytes:
        """What the partition's entities share."""
        shared = _PartitionState(
            version=_STATE_VERSION,
            folded_until_ms=self._until_ms,
            newest_ms={str(origin): newest for origin, newest in self._watermark.newest_ms().items()},
            market=self._market,
            tribunals=self._tribunals,
            market_tone=self._market_tone,
        )
        return msgspec.msgpack.encode(shared)

    # Folding.

    def _run(self, until_ms: int) -> None:
        """Minutes and timers in the order of event time, up to `until_ms`."""
        if until_ms <= self._until_ms:
            return
        while True:
            minute_ms = self._minute_end(self._waiting[0][0]) if self._waiting else until_ms + 1
            timer_ms = self._timers[0][0] if self._timers else until_ms + 1
            at_ms = min(minute_ms, timer_ms)
            if at_ms > until_ms:
                break
            self._sweep(at_ms)
            touched = self._fold_minute(at_ms) if minute_ms == at_ms else set()
            while self._timers and self._timers[0][0] <= at_ms:
                _, entity = heapq.heappop(self._timers)
                self._timed.pop(entity, None)
                touched.add(entity)
            for entity in sorted(touched):
                self._judge(entity, self._entities[entity], at_ms)
        self._until_ms = until_ms

    def _minute_end(self, at_ms: int) -> int:
        return bucket_start_ms(at_ms, self._policy.bucket_ms) + self._policy.bucket_ms

    def _fold_minute(self, end_ms: int) -> set[str]:
        sums: dict[tuple[str, Channel], list[float]] = {}
        touched = set()
        while self._waiting and self._waiting[0][0] < end_ms:
            _, _, mention = heapq.heappop(self._waiting)
            entity = self._entity(mention.entity)
            self._roll(entity, (end_ms - 1) // BLOCK_MS)
            story, weight = self._hear(entity, mention)
            row = sums.setdefault((mention.entity, mention.channel), [0.0] * 7)
            row[0] += 1
            if story is not None:
                entity.baseline.hear(weight, story.negative_u / UNIT, story.positive_u / UNIT, mention.polarity)
                keep = 1.0 - 1e-4
                self._market_tone = [
                    self._market_tone[0] * keep + weight,
                    self._market_tone[1] * keep + weight * mention.polarity,
                ]
                negative, positive = story.negative_u / UNIT, story.positive_u / UNIT
                values = (weight, negative, weight - negative - positive, positive)
                for i, value in enumerate((*values, weight * mention.polarity, weight * mention.polarity**2), 1):
                    row[i] += value
            touched.add(mention.entity)
            self._dirty.add(mention.entity)
        self._buckets += [_bucket(key, end_ms - self._policy.bucket_ms, row) for key, row in sorted(sums.items())]
        return touched

    def _hear(self, entity: _Entity, mention: ScoredMention) -> tuple[Story | None, float]:
        """One voice a story: a copy adds nothing but to the story's count; little that is new counts little."""
        if entity.memory is None or entity.sums is None:
            entity.memory, entity.sums = NoveltyMemory(self._policy.novelty), SlidingSums(WINDOWS_MS)
        at_ms, title = mention.published_at_ms, mention.text.split("\n", 1)[0]
        heard, fresh, spoken = entity.memory.hear(at_ms, title, mention.author, None)
        if heard.root is not heard:
            if isinstance(heard.root.token, Story):
                heard.root.token.copies += 1
            return None, 0.0
        rules = self._rules.voices
        novel = max(rules.repeated_weight, min(1.0, fresh / rules.new_words_full))
        weight = novel / (1.0 + spoken)
        total_u = round(weight * UNIT)
        label = "neutral" if mention.abstained else mention.label
        story = Story(
            at_ms=at_ms,
            total_u=total_u,
            negative_u=total_u if label == "negative" else 0,
            positive_u=total_u if label == "positive" else 0,
            polarity_u=round(weight * mention.polarity * UNIT),
            mention=mention,
        )
        heard.token = story
        entity.sums.add(story)
        return story, total_u / UNIT

    def _roll(self, entity: _Entity, block: int) -> None:
        """Close the entity's blocks before this one; what was best in it is what the tribunal remembers."""
        before = entity.baseline.block
        closed = entity.baseline.roll_to(block, self._keep)
        if closed is None:
            return
        self._market.learn(before, closed, len(self._entities))
        for kind, tribunal in enumerate(self._tribunals):
            tribunal.learn(entity.best[kind], (before + 1) * BLOCK_MS, self._rules.baseline.half_life_days)
            entity.best[kind] = 0.0

    def _sweep(self, at_ms: int) -> None:
        """Once a block: memories of those of whom nobody spoke for two days are let go."""
        block = at_ms // BLOCK_MS
        if block == self._swept_block:
            return
        self._swept_block = block
        for entity in self._entities.values():
            if entity.memory is None or entity.sums is None:
                continue
            entity.memory.forget_before(at_ms - self._policy.novelty.horizon_ms)
            entity.sums.expire(at_ms)
            if not len(entity.memory) and not entity.sums.stories:
                entity.memory = entity.sums = None

    # Judging.

    def _judge(self, name: str, entity: _Entity, at_ms: int) -> None:
        self._roll(entity, (at_ms - 1) // BLOCK_MS)
        self._dirty.add(name)
        findings = self._findings(entity, at_ms)
        share = len(self._entities) / max(len(self._names), len(self._entities))
        for kind, finding in enumerate(findings):
            if finding is not None:
                entity.best[kind] = min(entity.best[kind], finding.log10_p)
            limit = limit_log10_p(self._rules, self._tribunals[kind], len(self._entities), share / len(_KINDS))
            life = entity.lives[kind]
            change, reason = step(life, name, finding, limit, at_ms, self._rules.life, self._rules.fingerprint)
            if change is not None:
                self._tell(name, entity, kind, finding, limit, change, reason, at_ms)
            if change == "resolved":
                close(life, at_ms, self._rules.life)
        if any(life.is_open for life in entity.lives):
            self._set_timer(name, at_ms)

    def _findings(self, entity: _Entity, at_ms: int) -> list[Finding | None]:
        if entity.sums is None:
            return [None, None]
        entity.sums.expire(at_ms)
        short, long = entity.sums.window(_SHORT), entity.sums.window(_LONG)
        burst = tone = None
        if self._rules.burst.enabled:
            burst = detect_burst(short, long, entity.baseline, self._market, self._rules, at_ms)
        if self._rules.tone.enabled and long.total >= self._rules.tone.voices_min:
            square = sum(s.polarity_u**2 / max(1, s.total_u) for s in entity.sums.inside(_LONG)) / UNIT
            usual = self._market_tone[1] / max(1.0, self._market_tone[0])
            tone = detect_tone(long, square, entity.baseline, usual, self._rules)
        return [burst, tone]

    def _set_timer(self, entity: str, at_ms: int) -> None:
        if entity not in self._timed:
            due_ms = at_ms - at_ms % _RECHECK_MS + _RECHECK_MS
            self._timed[entity] = due_ms
            heapq.heappush(self._timers, (due_ms, entity))

    def _tell(  # noqa: PLR0917 - everything that an alert is made of
        self,
        name: str,
        entity: _Entity,
        kind: int,
        finding: Finding | None,
        limit: float,
        change: Change,
        reason: Reason,
        at_ms: int,
    ) -> None:
        life = entity.lives[kind]
        alert = self._alert(name, entity, kind, finding, limit, at_ms, resolved=change == "resolved")
        assert alert.id == life.id
        self._transitions.append(AlertTransition(alert=alert, change=change, reason=str(reason), at_ms=at_ms))

    def _alert(  # noqa: PLR0917
        self,
        name: str,
        entity: _Entity,
        kind: int,
        finding: Finding | None,
        limit: float,
        at_ms: int,
        *,
        resolved: bool,
    ) -> Alert:
        life = entity.lives[kind]
        stories = (
            entity.sums.inside(_SHORT if finding and finding.window_ms == HOUR_MS else _LONG) if entity.sums else []
        )
        total = sum(s.total_u for s in stories)
        polarity = sum(s.polarity_u for s in stories) / total if total else 0.0
        new = entity.baseline.age_blocks < self._rules.baseline.warm_up_days * BLOCKS_A_DAY
        direction = life.direction
        other = "positive" if direction == "negative" else "negative"
        chosen: list[Story] = []
        margin, robust, usual_voices = 0.0, False, 0.0
        if finding is not None and finding.direction == direction:
            needed = self._needed(entity, finding, limit, at_ms)
            chosen = decisive(stories, finding, needed)
            margin = max(0.0, 1.0 - needed / finding.voices)
            robust = fires_without(stories, finding, needed)
            usual_voices = finding.usual
        models = {s.mention.model for s in stories if isinstance(s.mention, ScoredMention)}
        sources = {s.mention.source for s in stories if isinstance(s.mention, ScoredMention)}
        called = self._names.get(name, name)
        raw_n = sum(s.copies for s in stories)
        return Alert(
            id=life.id,
            entity=name,
            kind="burst" if kind == 0 else "tone",
            direction=direction,  # type: ignore[arg-type]  # a stored literal
            opened_at=to_rfc3339(life.opened_at_ms),
            resolved_at=to_rfc3339(at_ms) if resolved else None,
            severity=life.severity,  # type: ignore[arg-type]
            p_value=self._tribunals[kind].p_value(finding.log10_p) if finding else 1.0,
            polarity=round(polarity, 4),
            effective_n=round(total / UNIT, 3),
            raw_n=raw_n,
            baseline={
                "usual": round(usual_voices, 3),
                "of": finding.series if finding else "",
                "record_days": round(entity.baseline.age_blocks / BLOCKS_A_DAY, 1),
                "cold_start": new,
            },
            evidence=tuple(told(story) for story in chosen),
            counter_evidence=tuple(told(story) for story in ranked(stories, other)[:3]),  # type: ignore[arg-type]
            flip_margin=round(margin, 3),
            model=", ".join(sorted(models)),
            rule=self._rules.fingerprint,
            name=called,
            brief=brief(called, finding, stories=stories, polarity=polarity, raw_n=raw_n, new=new, sources=len(sources))
            if finding is not None
            else f"{called}: calm again.",
            details={
                "window_s": finding.window_ms // 1000 if finding else 0,
                "voices": round(finding.voices, 3) if finding else 0.0,
                "log10_tail": round(finding.log10_p, 2) if finding else 0.0,
                "log10_limit": round(limit, 2),
                "fires_without_top_3_authors": robust,
                "stories": len(stories),
                "sources": len(sources),
            },
        )

    def _needed(self, entity: _Entity, finding: Finding, limit: float, at_ms: int) -> float:
        if finding.kind == "tone":
            return max(self._rules.tone.voices_min, finding.voices * min(1.0, limit / min(-1e-9, finding.log10_p)))
        index = ("total", "negative", "positive").index(finding.series)
        usual = expect(
            entity.baseline,
            self._market,
            index,
            share=finding.window_ms / BLOCK_MS,
            block=(at_ms - 1) // BLOCK_MS,
            prior_blocks=self._rules.baseline.prior_days * BLOCKS_A_DAY,
        )
        return voices_to_fire(finding, limit, usual)

    def _outcome(self) -> Outcome:
        outcome = Outcome(
            buckets=tuple(self._buckets),
            entity_states={entity: self._entities[entity].encode() for entity in sorted(self._dirty)},
            transitions=tuple(self._transitions),
        )
        self._buckets, self._transitions, self._dirty = [], [], set()
        return outcome

    def _entity(self, name: str) -> _Entity:
        entity = self._entities.get(name)
        if entity is None:
            entity = self._entities[name] = _Entity()
        return entity

    def _make_watermark(self, restored_ms: int | None, newest_ms: Mapping[str, int]) -> Watermark:
        time = self._rules.time
        policy = WatermarkPolicy(
            lateness_ms=round(time.lateness_s * 1000),
            idle_after_ms=round(time.idle_after_s * 1000),
            future_max_ms=round(time.future_max_s * 1000),
        )
        return Watermark(policy=policy, restored_ms=restored_ms, newest_ms={**newest_ms})


def _bucket(key: tuple[str, Channel], start_ms: int, row: list[float]) -> BucketRow:
    return BucketRow(
        entity=key[0],
        channel=key[1],
        start_ms=start_ms,
        raw_n=int(row[0]),
        effective_n=row[1],
        negative=row[2],
        neutral=row[3],
        positive=row[4],
        polarity_sum=row[5],
        polarity_sq_sum=row[6],
    )
