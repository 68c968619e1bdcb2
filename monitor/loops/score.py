"""The score role: raw topics in, scored mentions out, keyed by entity.

Perceive: decode, link, batch, judge. At least once: an offset is committed only when every mention of that document,
or its dead letter, has been acknowledged by the broker; mention ids are deterministic, so a repeat is harmless.
The model runs on a thread of its own, so that polling goes on whatever a batch costs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from monitor.clock import Clock
from monitor.errors import NotNow, Rejectable, Retryable
from monitor.loops.attempts import AttemptGuard
from monitor.loops.lag import LagGauge
from monitor.loops.offsets import OffsetTracker, Partition
from monitor.records import DeadLetter, Document, LinkedEntity, Place, ScoredMention
from monitor.telemetry import Metrics

log = structlog.get_logger()
_ALONE_PER_TURN = 8


class Message(Protocol):
    """A raw message as the broker hands it over."""

    @property
    def place(self) -> Place: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Source(Protocol):
    """Where messages come from. `lost()` names partitions taken from us since the last call."""

    def poll(self, messages_max: int, timeout_ms: int) -> Sequence[Message]: ...
    def lost(self) -> Sequence[Partition]: ...
    def assignment(self) -> Sequence[Partition]: ...
    def restart(self, partitions: Sequence[Partition]) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def commit(self, positions: dict[Partition, int]) -> None: ...
    def lag(self) -> Mapping[Partition, int]: ...


class Sink(Protocol):
    """Where results go. `flush` returns when everything sent is acknowledged; raises Retryable otherwise."""

    def send_mention(self, mention: ScoredMention, *, origin: str) -> None: ...
    def send_dead_letter(self, letter: DeadLetter) -> None: ...
    def flush(self) -> None: ...


class Reader(Protocol):
    """Decodes and links one message; raises Rejectable for a message that will never be usable."""

    def read(self, message: Message) -> tuple[Document, tuple[LinkedEntity, ...]]: ...


class Judge(Protocol):
    """Scores documents with their entities, in one padded batch; one sequence of mentions a document."""

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePolicy:
    """Limits of the loop. Documents wait at most `deadline_ms` for company; above `queue_documents_max` we pause.

    Offsets are committed at most every `commit_ms`: a crash repeats that much, and a repeat is harmless. With two
    `batches_in_flight` one is cleaned, tokenized or written out while the model computes the other.
    """

    batch_documents_max: int = 256
    deadline_ms: int = 200
    queue_documents_max: int = 1_024
    poll_messages_max: int = 1_000
    commit_ms: int = 500
    batches_in_flight: int = 2
    model_wait_s: float = 0.25  # polling goes on at least so often, however long the model takes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    message: Message
    document: Document
    entities: tuple[LinkedEntity, ...]
    since_s: float

    @property
    def place(self) -> Place:
        return self.message.place


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    batch: list[_Waiting]
    answer: Future[Sequence[Sequence[ScoredMention]]]
    started_s: float


@dataclass(slots=True, kw_only=True)
class ScoreCounts:
    """What this process has done since it started."""

    documents: int = 0
    unlinked: int = 0
    scored: int = 0
    mentions: int = 0
    dead_letters: int = 0


class ScoreLoop:
    """`turn()` polls, reads, hands full batches to the model and publishes what came back."""

    def __init__(
        self,
        *,
        source: Source,
        sink: Sink,
        reader: Reader,
        judge: Judge,
        clock: Clock,
        policy: ScorePolicy,
        seen: Callable[[str], None] = lambda _beat: None,
        metrics: Metrics | None = None,
        attempts: AttemptGuard | None = None,
        trouble: Callable[[str | None], None] = lambda _what: None,
    ) -> None:
        self._source, self._sink, self._reader, self._judge = source, sink, reader, judge
        self._attempts, self._trouble = attempts, trouble
        self._clock, self._policy, self._seen = clock, policy, seen
        self._metrics = metrics or Metrics()
        self._offsets = OffsetTracker()
        self._unread: deque[Message] = deque()
        self._waiting: list[_Waiting] = []
        self._halves: list[list[_Waiting]] = []
        self._running: deque[_Running] = deque()
        self._model = ThreadPoolExecutor(policy.batches_in_flight, thread_name_prefix="model")
        self._paused = False
        # Intervals never by the wall clock: set back, it would stop us for as long.
        self._committed_s = clock.monotonic_s()
        self._lag = LagGauge(clock, self._metrics)
        self.counts = ScoreCounts()

    def turn(self) -> int:
        """One step; returns how many documents moved.

        Raises Retryable if the broker did not take our results: everything in flight is dropped then and read again.
        """
        try:
            return self._turn()
        except Retryable:
            self._abandon()
            raise

    def run(self, stop: threading.Event, *, drain_s: float) -> None:
        """Turn until told to stop, then finish what is in flight within `drain_s`; the rest is read again later."""
        waited_s = 0.5
        while not stop.is_set():
            try:
                if self.turn():
                    self._trouble(None)
                waited_s = 0.5
            except Retryable as err:
                self._metrics.count("retries_total")
                self._trouble(str(err))
                log.warning("score.retry", error=str(err), wait_s=waited_s)
                stop.wait(err.retry_after_s or waited_s)
                waited_s = min(30.0, waited_s * 2)
        try:
            self.drain(drain_s)
        except Retryable as err:
            log.warning("score.drain_failed", error=str(err))  # uncommitted: the next start reads it again

    def _turn(self) -> int:
        self._drop_lost()
        messages = self._source.poll(self._policy.poll_messages_max, self._poll_timeout_ms())
        self._seen("poll")
        if not self._running:
            self._seen("model")  # nothing asked of it: only a batch that does not end makes it look stuck
        self._metrics.count("score_documents_total", len(messages))
        self._unread.extend(messages)
        self._read_on(messages)
        self._start_batches()
        moved = len(messages) + self._collect(wait_s=0.0 if messages else self._policy.model_wait_s)
        self._start_batches()
        self._adjust_pressure()
        self._lag.measure(self._source.lag)
        if self._clock.monotonic_s() - self._committed_s >= self._policy.commit_ms / 1000:
            self._commit()
        return moved

    def _poll_timeout_ms(self) -> int:
        """Polling waits for messages only while there is nothing else to do."""
        if self._running or self._unread:
            return 0  # `_collect` waits for the model instead
        return 10 if self._waiting or self._halves else 100

    def _abandon(self) -> None:
        """What the broker did not acknowledge must be scored again: back to the committed offsets."""
        for running in self._running:
            running.answer.cancel()
        self._running, self._waiting, self._halves = deque(), [], []
        self._unread.clear()
        partitions = list(self._source.assignment())
        for partition in partitions:
            self._offsets.forget(partition)
        self._source.restart(partitions)

    def drain(self, drain_s: float) -> None:
        """Score what was read already, as far as the time goes: batches are begun in its first part only, and the last part
        belongs to the broker's acknowledgement. What is left is not committed, and read again by whoever comes next."""
        now_s = self._clock.monotonic_s()
        begin_until_s, give_up_s = now_s + 0.4 * drain_s, now_s + 0.7 * drain_s
        while (self._waiting or self._halves or self._running) and self._clock.monotonic_s() < give_up_s:
            if self._clock.monotonic_s() < begin_until_s:
                self._start_batches(force=True)
            elif not self._running:
                break
            self._collect(wait_s=max(0.0, give_up_s - self._clock.monotonic_s()))
        self._commit()
        if self._attempts:
            self._attempts.close()
        self._model.shutdown(wait=False, cancel_futures=True)

    def _read_on(self, fresh: Sequence[Message]) -> None:
        """Take what was polled. What may have killed an earlier process is taken alone, a few in a turn, and everything
        behind it waits, so that the order stays."""
        if self._attempts and fresh:
            self._attempts.begin(message.place for message in fresh)
        alone = 0
        while self._unread and alone < _ALONE_PER_TURN:
            if self._attempts and self._attempts.suspects(self._unread[0].place):
                alone += 1
                self._take_alone(self._unread.popleft(), self._attempts)
            else:
                self._take(self._unread.popleft())
        if self._attempts and alone:
            self._attempts.rest()

    def _take_alone(self, message: Message, attempts: AttemptGuard) -> None:
        self._finish_all()  # whoever dies now dies of this message
        if attempts.begin_alone(message.place):
            self._take(message)
            self._finish_all()
            attempts.survive(message.place)
            return
        self._offsets.received(message.place)
        self.counts.documents += 1
        self._quarantine(
            message, Rejectable(f"{message.place}: the process died each time it was tried", reason="kills_the_process")
        )

    def _finish_all(self) -> None:
        while self._waiting or self._halves or self._running:
            self._start_batches(force=True)
            self._collect(wait_s=self._policy.model_wait_s)

    def _take(self, message: Message) -> None:
        self._offsets.received(message.place)
        self.counts.documents += 1
        try:
            document, entities = self._reader.read(message)
        except Rejectable as err:
            self._quarantine(message, err)
            return
        if not entities:
            self.counts.unlinked += 1
            self._metrics.count("score_unlinked_total")
            self._offsets.finished(message.place)
            return
        self._waiting.append(
            _Waiting(message=message, document=document, entities=entities, since_s=self._clock.monotonic_s())
        )

    def _quarantine(self, message: Message, err: Rejectable) -> None:
        self.counts.dead_letters += 1
        self._metrics.count("score_dead_letters_total", label=err.reason)
        self._sink.send_dead_letter(
            DeadLetter(
                place=message.place,
                key=message.key,
                value=message.value,
                headers=tuple(message.headers),
                reason=err.reason,
                detail=str(err),
                failed_at_ms=self._clock.now_ms(),
            )
        )
        self._offsets.finished(message.place)

    def _start_batches(self, *, force: bool = False) -> None:
        """Keep the model busy: halves of a failed batch first, then what is full or has waited long enough."""
        while len(self._running) < self._policy.batches_in_flight:
            if self._halves:
                self._submit(self._halves.pop(0))
                continue
            if not self._waiting:
                return
            full = len(self._waiting) >= self._policy.batch_documents_max
            due = self._clock.monotonic_s() - self._waiting[0].since_s >= self._policy.deadline_ms / 1000
            if not (full or due or force):
                return
            batch = self._waiting[: self._policy.batch_documents_max]
            del self._waiting[: len(batch)]
            self._submit(batch)

    def _submit(self, batch: list[_Waiting]) -> None:
        documents = [(item.document, item.entities) for item in batch]
        answer = self._model.submit(self._judge.judge, documents, now_ms=self._clock.now_ms())
        self._running.append(_Running(batch=batch, answer=answer, started_s=self._clock.monotonic_s()))

    def _collect(self, *, wait_s: float) -> int:
        """Publish the oldest batch, once the model has answered; the others go on meanwhile."""
        if not self._running:
            return 0
        answer = self._running[0].answer
        if not answer.done() and not wait((answer,), timeout=wait_s).done:
            return 0
        running = self._running.popleft()
        batch = running.batch
        try:
            results = answer.result()
        except Retryable:
            raise
        except Exception as err:  # noqa: BLE001 - whatever the model died of, one document of this batch caused it
            self._bisect(batch, err)
            return 0
        assert len(results) == len(batch), "the model answered for another batch"
        self._seen("model")
        self._metrics.observe("score_batch_seconds", self._clock.monotonic_s() - running.started_s)
        for item, mentions in zip(batch, results, strict=True):
            for mention in mentions:
                self._sink.send_mention(mention, origin=f"{item.place.topic}/{item.place.partition}")
            self.counts.mentions += len(mentions)
            self._offsets.finished(item.place)
        self.counts.scored += len(batch)
        self._metrics.count("score_mentions_total", sum(map(len, results)))
        log.debug("score.batch", documents=len(batch), mentions=sum(len(m) for m in results))
        return len(batch)

    def _bisect(self, batch: list[_Waiting], err: Exception) -> None:
        """Halve a failing batch until the document that fails stands alone, and quarantine that one only."""
        log.warning("score.batch_failed", documents=len(batch), error=f"{type(err).__name__}: {err}")
        if len(batch) > 1:
            middle = len(batch) // 2
            self._halves[:0] = [batch[:middle], batch[middle:]]
            return
        item = batch[0]
        self._quarantine(
            item.message,
            Rejectable(f"{item.place}: scoring failed: {type(err).__name__}: {err}", reason="not_scorable"),
        )

    def _adjust_pressure(self) -> None:
        """Pause above the limit, resume below half of it: polling goes on, so the broker keeps us in the group."""
        self._metrics.gauge("score_queue_documents", len(self._waiting))
        self._metrics.gauge("score_paused", float(self._paused))
        if not self._paused and len(self._waiting) + len(self._unread) >= self._policy.queue_documents_max:
            self._source.pause()
            self._paused = True
        elif self._paused and len(self._waiting) + len(self._unread) <= self._policy.queue_documents_max // 2:
            self._source.resume()
            self._paused = False

    def _drop_lost(self) -> None:
        lost = list(self._source.lost())
        if self._attempts and lost:
            self._attempts.give_up(lost)
        for partition in lost:
            self._offsets.forget(partition)
            self._unread = deque(m for m in self._unread if (m.place.topic, m.place.partition) != partition)
            self._waiting = [w for w in self._waiting if (w.place.topic, w.place.partition) != partition]
            self._halves = [
                kept
                for half in self._halves
                if (kept := [w for w in half if (w.place.topic, w.place.partition) != partition])
            ]

    def _commit(self) -> None:
        """Results first, offsets after: a crash between the two repeats work and loses none."""
        self._committed_s = self._clock.monotonic_s()
        positions = self._offsets.committable()
        if not positions:
            return
        self._sink.flush()
        try:
            self._source.commit(positions)
        except NotNow:
            return  # what is ours stays ours meanwhile: nothing need be scored again
        self._offsets.committed(positions)
        if self._attempts:
            self._attempts.committed(positions)


def encode_mention(mention: ScoredMention) -> tuple[bytes, bytes]:
    """Key and value for topic `mentions`: the entity, so that its whole history lies in one partition."""
    return mention.entity.encode(), msgspec.json.encode(mention)


def encode_dead_letter(letter: DeadLetter) -> tuple[bytes | None, bytes]:
    """Bytes travel as base64 in JSON."""
    return letter.key, msgspec.json.encode(letter)
