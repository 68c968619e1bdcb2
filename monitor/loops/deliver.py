"""The deliver role: the outbox goes to its receivers, each on a thread of its own, so that none waits for another.

A row is claimed with a lease before it is sent and closed afterwards. A crash in between sends it again when the lease
ends, with the same id: receivers drop the repeat by that id.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from monitor.clock import Clock, to_rfc3339
from monitor.delivery import Answer, Decision, DeliveryPolicy, Outcome, decide
from monitor.errors import Retryable
from monitor.records import Record

log = structlog.get_logger()


class Delivery(Protocol):
    """A claimed row of the outbox."""

    @property
    def id(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def alert_json(self) -> bytes: ...
    @property
    def attempts(self) -> int: ...
    @property
    def first_attempt_at_ms(self) -> int | None: ...


class Store(Protocol):
    """The outbox."""

    def claim_deliveries(
        self, receiver: str, *, owner: str, now_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Delivery]: ...
    def mark_delivered(self, delivery_id: str, *, owner: str, now_ms: int) -> bool: ...
    def retry_later(self, delivery_id: str, *, owner: str, next_attempt_at_ms: int, error: str) -> bool: ...
    def give_up(self, delivery_id: str, *, owner: str, error: str) -> bool: ...
    def disable_receiver(self, receiver: str, *, reason: str, now_ms: int) -> None: ...
    def oldest_pending_ms(self) -> int | None: ...


class Receiver(Protocol):
    """Sends one message to one place."""

    @property
    def name(self) -> str: ...
    def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverLoopPolicy:
    """`lease_ms` must outlast one batch of slow tries: batch_max × the receiver's time limit."""

    poll_ms: int = 500
    batch_max: int = 10
    lease_ms: int = 180_000
    retry: DeliveryPolicy = field(default_factory=DeliveryPolicy)


class Body(Record, frozen=True, kw_only=True):
    """What is signed and sent."""

    type: str
    timestamp: str
    data: msgspec.Raw


class DeliverLoop:
    """`turn(receiver)` sends what is due to one receiver; `run` gives each receiver a thread."""

    def __init__(
        self,
        *,
        store: Store,
        receivers: Sequence[Receiver],
        clock: Clock,
        policy: DeliverLoopPolicy,
        owner: str,
        rng: random.Random,
        seen: Callable[[str], None] = lambda _beat: None,
        count: Callable[[Outcome], None] = lambda _outcome: None,
        oldest_s: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._store, self._receivers, self._clock, self._policy = store, receivers, clock, policy
        self._owner, self._rng, self._seen, self._count = owner, rng, seen, count
        self._oldest_s = oldest_s
        self._failures: dict[str, int] = {}
        self._open_until_ms: dict[str, int] = {}

    def turn(self, receiver: Receiver) -> int:
        """Send what is due; returns how many tries were made. Raises Retryable when the database is not there."""
        now_ms = self._clock.now_ms()
        if now_ms < self._open_until_ms.get(receiver.name, 0):
            return 0
        probing = self._failures.get(receiver.name, 0) >= self._policy.retry.failures_open
        claimed = self._store.claim_deliveries(
            receiver.name,
            owner=self._owner,
            now_ms=now_ms,
            lease_ms=self._policy.lease_ms,
            limit=1 if probing else self._policy.batch_max,
        )
        for delivery in claimed:
            decision = self._try(receiver, delivery)
            if decision.disable:
                break
        return len(claimed)

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; a try that is under way is finished, what is claimed but unsent is sent after its lease."""
        threads = [
            threading.Thread(target=self._serve, args=(receiver, stop), name=f"deliver-{receiver.name}", daemon=True)
            for receiver in self._receivers
        ]
        for thread in threads:
            thread.start()
        while not stop.wait(self._policy.poll_ms / 1000):
            if not threads:
                self._seen("poll")
            with suppress(Retryable):  # the receivers' threads say so, and try again
                self._tell_oldest()
        for thread in threads:
            thread.join()

    def _tell_oldest(self) -> None:
        created_ms = self._store.oldest_pending_ms()
        self._oldest_s(0.0 if created_ms is None else max(0.0, (self._clock.now_ms() - created_ms) / 1000))

    def _serve(self, receiver: Receiver, stop: threading.Event) -> None:
        waited_s = 0.5
        while not stop.is_set():
            try:
                sent = self.turn(receiver)
                self._seen("poll")
                waited_s = 0.5
            except Retryable as err:
                log.warning("deliver.retry", receiver=receiver.name, error=str(err), wait_s=waited_s)
                stop.wait(waited_s)
                waited_s = min(30.0, waited_s * 2)
                continue
            if not sent:
                stop.wait(self._policy.poll_ms / 1000)

    def _try(self, receiver: Receiver, delivery: Delivery) -> Decision:
        """One message: gather (body), decide (what follows from the answer), apply (to the outbox)."""
        body = msgspec.json.encode(
            Body(
                type=delivery.event,
                timestamp=to_rfc3339(delivery.at_ms),
                data=msgspec.Raw(delivery.alert_json),
            )
        )
        answer = receiver.send(delivery.id, body, now_s=self._clock.now_ms() // 1000)
        now_ms = self._clock.now_ms()
        decision = decide(
            answer,
            attempts=delivery.attempts,
            first_attempt_at_ms=delivery.first_attempt_at_ms or now_ms,
            now_ms=now_ms,
            policy=self._policy.retry,
            rng=self._rng,
        )
        self._apply(receiver, delivery, answer, decision, now_ms)
        self._count(decision.outcome)
        return decision

    def _apply(self, receiver: Receiver, delivery: Delivery, answer: Answer, decision: Decision, now_ms: int) -> None:
        error = f"{decision.outcome}: {answer.detail}"
        if decision.outcome is Outcome.DELIVERED:
            self._failures[receiver.name] = 0
            self._store.mark_delivered(delivery.id, owner=self._owner, now_ms=now_ms)
            log.info("delivery.done", receiver=receiver.name, delivery=delivery.id, tries=delivery.attempts)
            return
        self._failures[receiver.name] = self._failures.get(receiver.name, 0) + 1
        if self._failures[receiver.name] >= self._policy.retry.failures_open:
            self._open_until_ms[receiver.name] = now_ms + round(self._policy.retry.open_s * 1000)
        log.warning(
            "delivery.failed", receiver=receiver.name, delivery=delivery.id, tries=delivery.attempts, error=error
        )
        if decision.disable:
            self._store.disable_receiver(receiver.name, reason=error, now_ms=now_ms)
        elif decision.retry_at_ms is None:
            self._store.give_up(delivery.id, owner=self._owner, error=error)
        else:
            self._store.retry_later(
                delivery.id, owner=self._owner, next_attempt_at_ms=decision.retry_at_ms, error=error
            )
