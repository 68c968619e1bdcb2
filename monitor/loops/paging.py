"""Paging within the watch role: steps of alerts from all partitions in, messages for receivers out, in one transaction.

Every watch process does it, one at a time: the pager's state is a row that is compared and swapped, so that whoever comes
second writes nothing and reads again. Event time has come as far as the slowest partition that speaks; a partition that is
silent or dead holds the others back only while it is close behind them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from monitor.alerting import Hours, KeeperState, Message, Pager, PagerState, Rules, Settled, Silence, Step, Verdict
from monitor.alerting.silence_states import troubles
from monitor.alerting.silences import DAYS
from monitor.clock import Clock
from monitor.errors import Fatal, Fenced
from monitor.records import AlertTransition
from monitor.store import PAGER, WATCHKEEPER, StoredMark, StoredSilence
from monitor.telemetry import Metrics

log = structlog.get_logger()
T = TypeVar("T")


class WaitingStep(Protocol):
    """A step that nobody has decided about."""

    @property
    def transition(self) -> AlertTransition: ...
    @property
    def sequence(self) -> int: ...


class Transaction(Protocol):
    """All of it is written, or nothing."""

    def save_paging(self, *, expected: int, state: bytes) -> None: ...
    def settle(self, decisions: Iterable[Settled], *, now_ms: int) -> None: ...
    def tell(self, messages: Iterable[Message], receivers: Sequence[Any], *, now_ms: int) -> int: ...


class Store(Protocol):
    """Where steps wait, and what the desk has said."""

    def partition_marks(self, topic: str) -> Sequence[StoredMark]: ...
    def waiting_steps(self, until_ms: int, *, limit: int) -> Sequence[WaitingStep]: ...
    def paging_state(self, keeper: int) -> tuple[int, bytes]: ...
    def silences(self, *, ended_before_ms: int | None = None) -> Sequence[StoredSilence]: ...
    def acknowledged(self, alert_ids: Collection[str]) -> Mapping[str, str]: ...
    def transaction(self) -> AbstractContextManager[Transaction]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PagingPolicy:
    """`bucket_ms`: event time is complete only up to the last closed bucket. A turn takes at most `steps_max` steps."""

    every_s: float = 1.0
    steps_max: int = 2_000
    bucket_ms: int = 60_000


class Paging:
    """`turn()` decides what is due; cheap when nothing is."""

    def __init__(
        self,
        *,
        store: Store,
        rules: Rules,
        sectors: Mapping[str, str],
        receivers: Sequence[Any],
        topic_mentions: str,
        clock: Clock,
        metrics: Metrics,
        policy: PagingPolicy | None = None,
    ) -> None:
        self._store, self._rules, self._sectors, self._receivers = store, rules, sectors, receivers
        self._topic, self._clock, self._metrics = topic_mentions, clock, metrics
        self._policy = policy or PagingPolicy()
        self._marks: dict[int, tuple[int, float]] = {}
        self._next_s = 0.0

    def turn(self, *, hurry: bool = False) -> int:
        """Returns how many messages were written. `hurry`: alerts have just taken steps. Raises Retryable."""
        now_s = self._clock.monotonic_s()
        if not hurry and now_s < self._next_s:
            return 0
        self._next_s = now_s + self._policy.every_s
        reached_ms = self.reached_ms(self._store.partition_marks(self._topic))
        if reached_ms is None:
            return 0
        try:
            return self._decide(reached_ms)
        except Fenced:
            log.debug("paging.fenced")  # another process was faster: the next turn sees what it wrote
            return 0

    def reached_ms(self, marks: Sequence[StoredMark]) -> int | None:
        """Up to where event time is complete in every partition that counts; None before the first mention."""
        now_s, own = self._clock.monotonic_s(), self._rules.paging
        known = [(mark, mark.watermark_ms) for mark in marks if mark.watermark_ms is not None]
        if not known:
            return None
        newest_ms = max(watermark_ms for _, watermark_ms in known)
        counting = [newest_ms]
        for mark, watermark_ms in known:
            position, since_s = self._marks.get(mark.partition, (-1, now_s))
            if position != mark.next:
                since_s = now_s
            self._marks[mark.partition] = (mark.next, since_s)
            speaks = now_s - since_s < own.silent_after_s
            if speaks or newest_ms - watermark_ms <= own.straggler_s * 1000:
                counting.append(watermark_ms)
        reached_ms = min(counting)
        return reached_ms - reached_ms % self._policy.bucket_ms

    def _decide(self, reached_ms: int) -> int:
        """Gather, decide, apply."""
        version, blob = self._store.paging_state(PAGER)
        state = _decoded(blob, PagerState) if version else PagerState()
        pager = Pager(rules=self._rules, sectors=self._sectors, state=state)
        steps = list(self._store.waiting_steps(reached_ms, limit=self._policy.steps_max))
        if len(steps) >= self._policy.steps_max:
            # There may be more: no further than what was read, and of its last moment nothing but when it is all there is.
            last_ms = steps[-1].transition.at_ms
            reached_ms = last_ms - 1
            steps = [step for step in steps if step.transition.at_ms < last_ms] or steps
            self._next_s = 0.0
        due_ms = pager.due_ms()
        if not steps and (due_ms is None or due_ms > reached_ms):
            return 0
        open_alerts = [alert for page in state.pages for alert in page.members]
        told = pager.advance(
            [Step(transition=step.transition, sequence=step.sequence) for step in steps],
            reached_ms=reached_ms,
            silences=[silence_of(row) for row in self._store.silences(ended_before_ms=state.clock_ms)],
            acknowledged=self._store.acknowledged(open_alerts),
        )
        now_ms = self._clock.now_ms()
        messages = self._with_health(told.messages)
        with self._store.transaction() as transaction:
            transaction.save_paging(expected=version, state=msgspec.msgpack.encode(pager.state))
            transaction.settle(told.settled, now_ms=now_ms)
            transaction.tell(messages, self._receivers, now_ms=now_ms)
        for message in told.messages:
            self._metrics.count("paging_messages_total", label=str(message.reason))
            log.info("page.told", page=message.page, change=message.event, reason=message.reason)
        for settled in told.settled:
            if settled.verdict not in {Verdict.TOLD, Verdict.PENDING}:
                self._metrics.count("paging_silent_total", label=str(settled.reason))
                log.info("page.silent", alert=settled.alert, reason=settled.reason, silence=settled.silence)
        return len(told.messages)

    def _with_health(self, messages: Sequence[Message]) -> list[Message]:
        """What was wrong with the service when an alert was told stands beside it: lag, dead feeds, degraded scoring."""
        if not messages:
            return []
        version, blob = self._store.paging_state(WATCHKEEPER)
        shown = troubles(_decoded(blob, KeeperState)) if version else []
        if not shown:
            return list(messages)
        replace = msgspec.structs.replace
        return [
            replace(m, alert=replace(m.alert, details={**m.alert.details, "health": shown})) if m.alert else m
            for m in messages
        ]


def silence_of(row: StoredSilence) -> Silence:
    """A stored silence as the pager takes it."""
    hours = None
    if row.days is not None:
        assert row.start_minute is not None, "a mute time has hours"
        assert row.until_minute is not None, "a mute time has hours"
        days = tuple(DAYS.index(day) for day in row.days.split(","))
        hours = Hours(days=days, start_minute=row.start_minute, until_minute=row.until_minute)
    return Silence(
        id=row.id,
        author=row.author,
        reason=row.reason,
        created_ms=row.created_at_ms,
        starts_ms=row.starts_at_ms,
        ends_ms=row.ends_at_ms,
        entity=row.entity,
        sector=row.sector,
        kind=row.kind,
        direction=row.direction,
        severity_max=row.severity_max,
        hours=hours,
    )


def _decoded(blob: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(blob, type=kind)
    except msgspec.MsgspecError as err:
        raise Fatal(f"stored state of the pager can't be read: {err}; was it written by a newer version?") from err
