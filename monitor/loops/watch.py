"""The watch role: scored mentions in, buckets, alerts and outbox rows out, each batch in one transaction.

Reason and respond: every partition has a core of its own (event time, windows, detectors, alert life cycle), because a
partition is what a process owns and loses as a whole. What a batch changes is written together with the offset after it,
by compare-and-swap: a redelivered mention is a no-op, a zombie is fenced, and a failed transaction is as if it had never
been tried, since the core is thrown away and read back from the database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from monitor.clock import Clock, WallSteps
from monitor.errors import Fenced, Rejectable, Retryable
from monitor.loops.core import Fate, Outcome, PartitionCore
from monitor.loops.lag import LagGauge
from monitor.loops.offsets import Partition
from monitor.loops.score import Message
from monitor.records import UNDECODABLE, DeadLetter, Notice, Progress, ScoredMention
from monitor.store import WatchTransaction
from monitor.telemetry import Metrics

log = structlog.get_logger()
ORIGIN_HEADER = "origin"
ENGINE_HEADER = "engine"


class Source(Protocol):
    """Where scored mentions and dead letters come from, as stored positions say."""

    def poll(self, messages_max: int, timeout_ms: int) -> Sequence[Message]: ...
    def lost(self) -> Sequence[Partition]: ...
    def assignment(self) -> Sequence[Partition]: ...
    def restart(self, partitions: Sequence[Partition]) -> None: ...
    def commit(self, positions: dict[Partition, int]) -> None: ...
    def lag(self) -> Mapping[Partition, int]: ...


class StoredPlace(Protocol):
    """Where a partition stands in the database."""

    @property
    def next(self) -> int: ...
    @property
    def watermark_ms(self) -> int | None: ...
    @property
    def state(self) -> bytes: ...


class Store(Protocol):
    """What the loop reads back, and its transaction: all of it is written, or nothing."""

    def partition_state(self, topic: str, partition: int) -> StoredPlace | None: ...
    def entity_states(self, partition: int) -> Mapping[str, bytes]: ...
    def mentions_since(self, partition: int, published_at_ms: int) -> Iterable[ScoredMention]: ...
    def known_mentions(self, ids: Collection[str]) -> set[str]: ...
    def transaction(self) -> AbstractContextManager[WatchTransaction]: ...
    def purge(self, before_ms: int, *, rows_max: int) -> int: ...


class Pages(Protocol):
    """Decides who is to hear of the steps that alerts have taken; see paging.py."""

    def turn(self, *, hurry: bool = False) -> int: ...


class Watchkeeper(Protocol):
    """Tells operators of dead feeds, lag and degraded scoring; see watchkeeping.py."""

    def turn(self, lag: Callable[[], Mapping[Partition, int]], settled: Mapping[str, int] | None) -> int: ...


class CoreFactory(Protocol):
    """Makes a core: an empty one, or the one that the database remembers."""

    reach_back_ms: int

    def empty(self) -> PartitionCore: ...
    def restore(
        self,
        *,
        state: bytes,
        watermark_ms: int | None,
        entity_states: Mapping[str, bytes],
        recent: Iterable[ScoredMention],
    ) -> PartitionCore: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLoopPolicy:
    """`idle_tick_s`: how often event time is moved on in a partition in which nobody speaks. `engine`: what score is to run on.
    `answer_wait_s`: how long event time stands at most while the group of score does not answer; see `_wait_for_score`.

    A purge takes at most `purge_rows_max` rows of a table, so that it never holds the database for long; when that was
    not all, it goes on after `purge_again_s`.
    """

    engine: str = "cpu"
    batch_mentions_max: int = 1_000
    poll_ms: int = 200
    idle_tick_s: float = 5.0
    answer_wait_s: float = 60.0
    retention_ms: int = 90 * 86_400_000
    purge_every_s: float = 3_600.0
    purge_again_s: float = 5.0
    purge_rows_max: int = 10_000


@dataclass(slots=True, kw_only=True)
class WatchCounts:
    """What this process has done since it started."""

    mentions: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    transitions: int = 0


@dataclass(slots=True, kw_only=True)
class _Owned:
    """A partition that is ours: its core and the offset that the database holds for it (None: none yet).

    `known` is what score told that holds here; `asked` what it told last, and which offset must be reached before it does.
    `waits_ms`: event time waits for an answer that was asked for then or later; None: it has it. `spoke`: a mention was heard.
    """

    core: PartitionCore
    stored: int | None
    active_s: float
    known: Progress | None = None
    asked: tuple[Progress, int] | None = None
    waits_ms: int | None = None
    spoke: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Everything that one batch writes."""

    following: int
    outcome: Outcome
    mentions: list[ScoredMention]
    late: set[str]
    early: set[str]
    other_engine: int
    letters: list[DeadLetter]


class WatchLoop:
    """`turn()` polls and folds each partition's batch in a transaction of its own."""

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        cores: CoreFactory,
        paging: Pages | None = None,
        watchkeeping: Watchkeeper | None = None,
        topic_mentions: str,
        clock: Clock,
        policy: WatchLoopPolicy,
        seen: Callable[[str], None] = lambda _beat: None,
        metrics: Metrics | None = None,
        upstream: Callable[[], Progress] | None = None,
        trouble: Callable[[str | None], None] = lambda _what: None,
        unheard: Callable[[str | None], None] = lambda _what: None,
    ) -> None:
        """`upstream`: until when all mentions of the raw partitions are in our topic; see `_hear`. `unheard`: told at each turn
        at which we go on although it does not answer, and None when it does."""
        self._source, self._store, self._cores = source, store, cores
        self._paging, self._watchkeeping, self._topic = paging, watchkeeping, topic_mentions
        self._clock, self._policy, self._seen = clock, policy, seen
        self._metrics = metrics or Metrics()
        self._upstream, self._trouble, self._unheard = upstream, trouble, unheard
        self._polled_ms = 0
        self._unanswered_ms: dict[Partition, int] = {}  # since when; a core that is thrown away does not wait anew
        self._gone_on: set[Partition] = set()
        self._progress: Progress | None = None
        self._heard: Progress | None = None
        self._purge_at_s = 0.0
        self._steps = WallSteps(clock)
        self._lag = LagGauge(clock, self._metrics)
        self._owned: dict[Partition, _Owned] = {}
        self._reported: dict[tuple[str, str, int], int] = {}
        self.counts = WatchCounts()

    def turn(self) -> int:
        """One step; returns how many messages moved. Raises Retryable when the database or the broker was not there."""
        for partition in self._source.lost():
            self._owned.pop(partition, None)
            self._unanswered_ms.pop(partition, None)
            self._gone_on.discard(partition)
        stepped = self.counts.transitions
        messages = self._source.poll(self._policy.batch_mentions_max, self._policy.poll_ms)
        self._seen("poll")
        if self._upstream is not None:
            self._polled_ms = self._steady_ms()
            self._progress = self._upstream()
            self._tell_unheard()
        batches: dict[Partition, list[Message]] = {}
        for message in messages:
            batches.setdefault((message.place.topic, message.place.partition), []).append(message)
        failures = [failure for partition, batch in batches.items() if (failure := self._attempt(partition, batch))]
        self._hear()
        failures += [failure for partition in self._idle() if (failure := self._attempt(partition, []))]
        if failures:
            raise failures[0]
        if self._paging is not None:
            self._paging.turn(hurry=self.counts.transitions > stepped)
        if self._watchkeeping is not None:
            self._watchkeeping.turn(self._source.lag, self._progress.settled if self._progress else None)
        self._purge()
        self._lag.measure(self._source.lag)
        return len(messages)

    def _purge(self) -> None:
        """Once an hour: forget what is older than the retention, counted in event time, so that a replay keeps its own."""
        now_s = self._clock.monotonic_s()
        reached = [at_ms for at_ms in self.watermarks().values() if at_ms is not None]
        if now_s < self._purge_at_s or not reached:
            return
        policy = self._policy
        gone = self._store.purge(min(reached) - policy.retention_ms, rows_max=policy.purge_rows_max)
        self._purge_at_s = now_s + (policy.purge_every_s if gone < policy.purge_rows_max else policy.purge_again_s)
        if gone:
            log.info("watch.purged", rows=gone)

    def run(self, stop: threading.Event) -> None:
        """Turn until told to stop. What was not committed is read again by whoever comes next."""
        waited_s = 0.5
        while not stop.is_set():
            try:
                if self.turn():
                    self._trouble(None)  # a turn in which nothing was to be done has mended nothing
                waited_s = 0.5
            except Retryable as err:
                self._metrics.count("retries_total")
                self._trouble(str(err))
                log.warning("watch.retry", error=str(err), wait_s=waited_s)
                stop.wait(err.retry_after_s or waited_s)
                waited_s = min(30.0, waited_s * 2)

    def watermarks(self) -> dict[Partition, int | None]:
        """How far event time has come, per partition of ours."""
        return {partition: owned.core.watermark_ms for partition, owned in self._owned.items()}

    def _attempt(self, partition: Partition, batch: list[Message]) -> Retryable | None:
        """Another partition's failure must not lose this one's messages: each is tried, each is read again on its own."""
        try:
            if partition[0] == self._topic:
                self._fold(partition, batch)
            else:
                self._keep_letters(partition, batch)
        except Retryable as err:
            self._owned.pop(partition, None)
            self._source.restart([partition])
            if isinstance(err, Fenced):
                log.warning("watch.fenced", partition=f"{partition[0]}/{partition[1]}", error=str(err))
            return err
        return None

    def _fold(self, partition: Partition, batch: list[Message]) -> None:
        """Gather, decide, apply: everything that this batch changes, in one transaction."""
        owned = self._owned.get(partition) or self._restore(partition)
        if batch and owned.stored is not None:
            # Behind the stored position: fetched before a seek took effect. The offset must never go back.
            batch = [message for message in batch if message.place.offset >= owned.stored]
            if not batch:
                return
        now_ms, steady_ms = self._steps.latest_ms(), self._steady_ms()
        fresh, letters = self._gather(batch)
        if self._progress is not None:
            owned.core.expect(self._progress.spoken)
            self._wait_for_score(partition, owned, speaks=bool(fresh))
        fates = {
            m.id: owned.core.take(m, origin=_header(message, ORIGIN_HEADER), now_ms=now_ms, steady_ms=steady_ms)
            for m, message in fresh
        }
        engines = [_header(message, ENGINE_HEADER) for _, message in fresh]
        silent_until_ms = self._silent_until_ms(owned, steady_ms)
        if batch:
            outcome = owned.core.advance()
        elif silent_until_ms:
            outcome = owned.core.tick(silent_until_ms, drained=True)
        else:
            outcome = Outcome()
        owned.active_s = self._clock.monotonic_s()
        following = batch[-1].place.offset + 1 if batch else owned.stored
        if following is None or not (batch or _changed(outcome)):
            return
        self._apply(
            partition,
            owned,
            _Change(
                following=following,
                outcome=outcome,
                mentions=[m for m, _ in fresh],
                late={key for key, fate in fates.items() if fate is not Fate.FOLDED},
                early={key for key, fate in fates.items() if fate is Fate.FUTURE},
                other_engine=sum(engine not in {"", self._policy.engine} for engine in engines),
                letters=letters,
            ),
        )
        owned.stored = following
        self.counts.mentions += len(fresh)
        self.counts.dead_letters += len(letters)
        self.counts.transitions += len(outcome.transitions)
        for fate in fates.values():
            self._metrics.count("watch_mentions_total", label=str(fate))
        self._report_clocks([(m, fates[m.id]) for m, _ in fresh if fates[m.id] in (Fate.LATE, Fate.FUTURE)], now_ms)
        for transition in outcome.transitions:
            self._metrics.count("watch_transitions_total", label=transition.change)
        for notice in outcome.notices:
            self._report(notice)
        self._tell_group(partition, following)
        if batch:
            log.debug("watch.batch", partition=partition[1], mentions=len(fresh), transitions=len(outcome.transitions))
        for transition in outcome.transitions:
            log.info(
                f"alert.{transition.change}",
                alert=transition.alert.id,
                entity=transition.alert.entity,
                kind=transition.alert.kind,
                direction=transition.alert.direction,
                reason=transition.reason,
            )

    def _report_clocks(self, off: Sequence[tuple[ScoredMention, Fate]], now_ms: int) -> None:
        """Which sources came late or ahead of their time, and by how much: one line a source and batch."""
        by_source: dict[tuple[str, Fate], list[int]] = {}
        for mention, fate in off:
            by_source.setdefault((mention.source, fate), []).append(mention.published_at_ms - now_ms)
        for (source, fate), ahead_ms in sorted(by_source.items()):
            middle_s = round(sorted(ahead_ms)[len(ahead_ms) // 2] / 1000)
            log.warning("watch.off_time", source=source[:80], fate=str(fate), count=len(ahead_ms), ahead_s=middle_s)

    def _report(self, notice: Notice) -> None:
        """Count what is new of a brigade, and tell its beginning."""
        key = (notice.entity, notice.channel, notice.since_ms)
        before = self._reported.get(key, 0)
        self._reported = {key: notice.accounts, **{k: v for k, v in self._reported.items() if k[:2] != key[:2]}}
        self._metrics.count("watch_brigade_accounts_total", max(notice.accounts - before, 0))
        if not before:
            self._metrics.count("watch_brigades_total")
            log.warning(
                "watch.brigade",
                entity=notice.entity,
                channel=notice.channel,
                accounts=notice.accounts,
                voices=notice.voices,
                document=notice.document,
            )

    def _apply(self, partition: Partition, owned: _Owned, change: _Change) -> None:
        now_ms, started_s = self._clock.now_ms(), self._clock.monotonic_s()
        with self._store.transaction() as transaction:
            transaction.advance_offset(
                *partition,
                expected=owned.stored,
                following=change.following,
                watermark_ms=owned.core.watermark_ms,
                state=owned.core.state(),
            )
            transaction.insert_mentions(change.mentions, partition[1], late=change.late)
            for letter in change.letters:
                transaction.keep_dead_letter(letter)
            transaction.upsert_buckets(change.outcome.buckets)
            transaction.save_entity_states(change.outcome.entity_states, partition=partition[1], at_ms=now_ms)
            transaction.record_transitions(change.outcome.transitions)
            transaction.keep_suppressions(change.outcome.suppressed)
            transaction.keep_notices(change.outcome.notices)
            transaction.note_heard(
                [m for m in change.mentions if m.id not in change.early], partition[1], now_ms=now_ms
            )
            transaction.note_intake(
                *partition,
                now_ms=now_ms,
                mentions=len(change.mentions),
                abstained=sum(m.abstained for m in change.mentions),
                other_engine=change.other_engine,
                dead_letters=len(change.letters),
            )
        self._seen("database")
        self._metrics.observe("watch_transaction_seconds", self._clock.monotonic_s() - started_s)
        if owned.core.watermark_ms is not None:
            self._metrics.gauge("watch_watermark_seconds", owned.core.watermark_ms / 1000, label=str(partition[1]))

    def _gather(self, batch: list[Message]) -> tuple[list[tuple[ScoredMention, Message]], list[DeadLetter]]:
        """Decode, leave out what is stored or twice in the batch, quarantine what is no mention."""
        decoded: dict[str, tuple[ScoredMention, Message]] = {}
        letters = []
        for message in batch:
            try:
                mention = decode_mention(message)
            except Rejectable as err:
                letters.append(_letter(message, err, self._clock.now_ms()))
                continue
            if mention.id in decoded:
                self.counts.duplicates += 1
                self._metrics.count("watch_duplicates_total")
            decoded.setdefault(mention.id, (mention, message))
        known = self._store.known_mentions(decoded.keys()) if decoded else set()
        self.counts.duplicates += len(known)
        self._metrics.count("watch_duplicates_total", len(known))
        return [pair for key, pair in decoded.items() if key not in known], letters

    def _restore(self, partition: Partition) -> _Owned:
        place = self._store.partition_state(*partition)
        if place is None:
            core = self._cores.empty()
        else:
            since_ms = (place.watermark_ms or 0) - self._cores.reach_back_ms
            core = self._cores.restore(
                state=place.state,
                watermark_ms=place.watermark_ms,
                entity_states=self._store.entity_states(partition[1]),
                recent=self._store.mentions_since(partition[1], since_ms),
            )
        owned = _Owned(core=core, stored=place.next if place else None, active_s=self._clock.monotonic_s())
        if self._upstream is not None:
            self._hold(partition, owned)
        self._owned[partition] = owned
        return owned

    def _keep_letters(self, partition: Partition, batch: list[Message]) -> None:
        """Dead letters go to their table, offset and rows together, as mentions do."""
        place = self._store.partition_state(*partition)
        stored = place.next if place else None
        fresh = [message for message in batch if stored is None or message.place.offset >= stored]
        if not fresh:
            return
        following = fresh[-1].place.offset + 1
        with self._store.transaction() as transaction:
            transaction.advance_offset(*partition, expected=stored, following=following, watermark_ms=None, state=b"")
            for message in fresh:
                transaction.keep_dead_letter(decode_letter(message, self._clock.now_ms()))
            transaction.note_intake(*partition, now_ms=self._clock.now_ms(), dead_letters=len(fresh))
        self.counts.dead_letters += len(fresh)
        self._metrics.count("watch_dead_letters_total", len(fresh))
        self._tell_group(partition, following)

    def _tell_group(self, partition: Partition, following: int) -> None:
        """For tools that show lag. Our offset is in the database, so nothing is to be undone if the group can't be told."""
        try:
            self._source.commit({partition: following})
        except Retryable as err:
            log.debug("watch.group_not_told", partition=f"{partition[0]}/{partition[1]}", error=str(err))

    def _idle(self) -> list[Partition]:
        """Partitions of ours in which event time must be moved on, because nobody speaks and nothing waits.

        Nothing waits when our own topic is read to its end, asked after `score` was: it goes on only as far as `score` is.
        """
        now_s = self._clock.monotonic_s()
        for partition in self._source.assignment():
            if partition[0] == self._topic and partition not in self._owned:
                self._restore(partition)
        quiet = [p for p, owned in self._owned.items() if now_s - owned.active_s >= self._policy.idle_tick_s]
        if not quiet:
            return []
        lag = self._source.lag()
        return [partition for partition in quiet if lag.get(partition, 1) <= 0]

    def _hear(self) -> None:
        """What score told of its progress holds for a partition of ours once all that lay before us then is read: what is
        unread is no silence either."""
        progress = self._progress
        if progress is not None and progress is not self._heard:
            lag = self._source.lag()
            for partition, owned in self._owned.items():
                if progress.asked_ms is not None:
                    owned.core.note(progress.asked_ms)  # what we have folded was fetched before it was asked for
                behind = lag.get(partition)
                if behind is not None and behind <= 0:
                    owned.asked = progress, 0
                elif behind is not None and owned.asked is None and owned.stored is not None:
                    owned.asked = progress, owned.stored + behind
            self._heard = progress
        for owned in self._owned.values():
            if owned.asked is not None and (owned.stored or 0) >= owned.asked[1]:
                owned.known, owned.asked = owned.asked[0], None
                owned.core.settle(owned.known.settled, since_ms=owned.known.since_ms)

    def _hold(self, partition: Partition, owned: _Owned) -> None:
        owned.waits_ms = self._polled_ms
        self._unanswered_ms.setdefault(partition, self._polled_ms)
        owned.core.hold()

    def _wait_for_score(self, partition: Partition, owned: _Owned, *, speaks: bool) -> None:
        """Event time stands until we know which raw partitions hold messages: one of which nothing was heard yet may hold older
        ones than those that were. What score told before our first mention may be of a time when all of them were empty.

        A group that does not answer stops nobody: after `answer_wait_s` we go on by what was heard, and say so.
        """
        if speaks and not owned.spoke:
            owned.spoke = True
            self._hold(partition, owned)
        if owned.waits_ms is None:
            return
        asked_ms = self._progress.asked_ms if self._progress is not None else None
        if asked_ms is not None and asked_ms >= owned.waits_ms:
            owned.waits_ms = None
            self._unanswered_ms.pop(partition, None)
            self._gone_on.discard(partition)
            owned.core.release()
        elif self._steady_ms() - self._unanswered_ms[partition] >= 1000 * self._policy.answer_wait_s:
            if partition not in self._gone_on:
                log.warning("watch.goes_on_unheard", partition=partition[1], waited_s=self._policy.answer_wait_s)
            self._gone_on.add(partition)
            owned.core.release()

    def _tell_unheard(self) -> None:
        names = ", ".join(f"{topic}/{number}" for topic, number in sorted(self._gone_on))
        self._unheard(
            f"{names}: how far score is has not been answered for {self._policy.answer_wait_s:.0f} s and more; event time goes"
            " on by what was heard, and what other raw partitions still hold may come late"
            if names
            else None
        )

    def _steady_ms(self) -> int:
        return round(1000 * self._clock.monotonic_s())

    def _silent_until_ms(self, owned: _Owned, steady_ms: int) -> int:
        """Silence counts only as far as every raw partition has been judged; 0 while that is not known."""
        if self._upstream is None:
            return steady_ms
        return min(owned.known.settled.values(), default=0) if owned.known is not None else 0


def decode_mention(message: Message) -> ScoredMention:
    """Raises Rejectable for bytes that no score role of ours wrote."""
    try:
        return msgspec.json.decode(message.value or b"", type=ScoredMention)
    except UNDECODABLE as err:
        raise Rejectable(f"{message.place}: not a scored mention: {err}", reason="not_a_mention") from err


def decode_letter(message: Message, now_ms: int) -> DeadLetter:
    """A dead letter as score wrote it; foreign bytes on that topic are kept as a letter of their own."""
    try:
        return msgspec.json.decode(message.value or b"", type=DeadLetter)
    except UNDECODABLE as err:
        return _letter(message, Rejectable(f"{message.place}: not a dead letter: {err}", reason="not_a_letter"), now_ms)


def _letter(message: Message, err: Rejectable, now_ms: int) -> DeadLetter:
    return DeadLetter(
        place=message.place,
        key=message.key,
        value=message.value,
        headers=tuple(message.headers),
        reason=err.reason,
        detail=str(err),
        failed_at_ms=now_ms,
    )


def _header(message: Message, wanted: str) -> str:
    """The raw partition that a mention came from, by which event time is as far as the slowest; the engine that judged it."""
    return next((value.decode("utf-8", "replace") for name, value in message.headers if name == wanted), "")


def _changed(outcome: Outcome) -> bool:
    return bool(outcome.buckets or outcome.entity_states or outcome.transitions or outcome.suppressed)
