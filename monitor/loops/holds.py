"""Partitions that wait for an operator: the role is not ready, a gauge counts them, and receivers of operator's notices are told.

A notice has the place and the first moment of the refusal in its id, so that it is sent once, whoever finds it again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Any, Literal, Protocol

import structlog

from monitor.clock import Clock, to_rfc3339
from monitor.errors import Retryable
from monitor.loops.offsets import Partition
from monitor.records import Record
from monitor.telemetry import Health, Metrics

log = structlog.get_logger()


class Hold(Protocol):
    """Why a partition is not read: a short reason of a closed set, and a line that says what to do."""

    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> str: ...


class Refusal(Protocol):
    """What is stored of a partition that is refused."""

    @property
    def consumer_group(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def refused_reason(self) -> str | None: ...
    @property
    def refused_detail(self) -> str | None: ...
    @property
    def refused_at_ms(self) -> int | None: ...


class Transaction(Protocol):
    """Where notices are put for delivery."""

    def tell(
        self, messages: Sequence[Notice], receivers: Sequence[Any], *, now_ms: int, topic: Literal["operator"]
    ) -> int: ...


class Store(Protocol):
    """The refusals, and the outbox."""

    def anchors(self, *, group: str | None = None) -> Sequence[Refusal]: ...
    def transaction(self) -> AbstractContextManager[Any]: ...


class Notice(Record, frozen=True, kw_only=True):
    """A message to operators, as the outbox takes them."""

    page: str
    sequence: int
    event: str
    change: Literal["opened", "resolved"]
    at_ms: int
    severity: Literal["critical"] = "critical"
    alert: None = None
    body: Mapping[str, Any]


class HoldNotices:
    """Called with all held partitions whenever they change. `reasons`: all that there are, for the gauge."""

    def __init__(
        self,
        *,
        store: Store,
        group: str,
        receivers: Sequence[Any],
        reasons: Collection[str],
        health: Health,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._store, self._group, self._receivers = store, group, receivers
        self._reasons, self._health, self._metrics, self._clock = reasons, health, metrics, clock

    def __call__(self, held: Mapping[Partition, Hold]) -> None:
        """Never raises: what could not be told for want of a database is told again with the next change or restart."""
        self._health.hold([hold.detail for hold in held.values()])
        found = [str(hold.reason) for hold in held.values()]
        for reason in self._reasons:
            self._metrics.gauge("held_partitions", float(found.count(str(reason))), label=str(reason))
        if not held:
            return
        try:
            self._tell(set(held))
        except Retryable as err:
            log.warning("holds.not_told", error=str(err))

    def _tell(self, held: Collection[Partition]) -> None:
        refused = [
            anchor
            for anchor in self._store.anchors(group=self._group)
            if anchor.refused_at_ms is not None and (anchor.topic, anchor.partition) in held
        ]
        if refused:
            with self._store.transaction() as transaction:
                transaction.tell(
                    [notice_of(anchor) for anchor in refused],
                    self._receivers,
                    now_ms=self._clock.now_ms(),
                    topic="operator",
                )


def notice_of(refusal: Refusal, *, accepted_next: int | None = None, at_ms: int | None = None) -> Notice:
    """That it is refused or, with `accepted_next`, that an operator let it go on there."""
    assert refusal.refused_at_ms is not None, "only a refusal is told"
    place = f"{refusal.consumer_group}\x1f{refusal.topic}\x1f{refusal.partition}\x1f{refusal.refused_at_ms}"
    body: dict[str, Any] = {
        "group": refusal.consumer_group,
        "topic": refusal.topic,
        "partition": refusal.partition,
        "reason": refusal.refused_reason,
        "detail": refusal.refused_detail,
        "since": to_rfc3339(refusal.refused_at_ms),
    }
    accepted = accepted_next is not None
    return Notice(
        page="held_" + sha256(place.encode()).hexdigest()[:32],
        sequence=2 if accepted else 1,
        event="operator.partition_accepted" if accepted else "operator.partition_held",
        change="resolved" if accepted else "opened",
        at_ms=at_ms if at_ms is not None else refusal.refused_at_ms,
        body=body | ({"next": accepted_next} if accepted else {}),
    )
