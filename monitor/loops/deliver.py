"""The deliver role: the outbox goes to its receivers, each on a thread of its own, so that none waits for another.

A row is claimed with a lease before it is sent and closed afterwards. The database's clock says who holds it; we count
what is left of it on our monotonic clock: claimants whose wall clocks are apart do not send it twice. A crash in between
sends it again when the lease ends, with the same id: receivers drop the repeat by that id. A receiver that fails again and
again is left in peace for a while; how long is kept in the database, for the next start and for other deliver processes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog

from monitor.clock import Clock, WallSteps, to_rfc3339
from monitor.delivery import (
    Answer,
    Circuit,
    Decision,
    DeliveryPolicy,
    Outcome,
    Passage,
    after_failure,
    decide,
    passage,
)
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


class ReceiverState(Protocol):
    """What the database remembers of a receiver."""

    @property
    def name(self) -> str: ...
    @property
    def disabled_at_ms(self) -> int | None: ...
    @property
    def open_until_ms(self) -> int | None: ...
    @property
    def consecutive_failures(self) -> int: ...


class Store(Protocol):
    """The outbox."""

    def claim_deliveries(
        self, receiver: str, *, owner: str, now_ms: int, lease_ms: int, limit: int
    ) -> Sequence[Delivery]: ...
    def mark_delivered(self, delivery_id: str, *, owner: str, now_ms: int) -> bool: ...
    def retry_later(self, delivery_id: str, *, owner: str, next_attempt_at_ms: int, error: str) -> bool: ...
    def give_up(self, delivery_id: str, *, owner: str, error: str) -> bool: ...
    def release_deliveries(self, ids: Sequence[str], *, owner: str) -> int: ...
    def park_deliveries(self, receiver: str) -> int: ...
    def disable_receiver(self, receiver: str, *, reason: str, now_ms: int) -> None: ...
    def receiver_state(self, name: str) -> ReceiverState: ...
    def change_receiver(self, name: str, change: Callable[[Any], Any]) -> ReceiverState: ...
    def take_probe(self, name: str, *, now_ms: int, until_ms: int) -> bool: ...
    def oldest_pending_ms(self) -> int | None: ...


class Receiver(Protocol):
    """Sends one message to one place."""

    @property
    def name(self) -> str: ...
    @property
    def timeout_s(self) -> float: ...
    def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverLoopPolicy:
    """`lease_ms` is what one try may take beyond the receiver's time limit: a name's lookup, the database."""

    poll_ms: int = 500
    batch_max: int = 10
    lease_ms: int = 60_000
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
        trouble: Callable[[str | None], None] = lambda _what: None,
    ) -> None:
        self._store, self._receivers, self._clock, self._policy = store, receivers, clock, policy
        self._owner, self._rng, self._seen, self._count = owner, rng, seen, count
        self._oldest_s, self._trouble = oldest_s, trouble
        self._steps = WallSteps(clock)  # waits are kept in wall time, and must not jump with it

    def turn(self, receiver: Receiver, stop: threading.Event | None = None) -> int:
        """Send what is due; returns how many tries were made. Raises Retryable when the database is not there.

        What is claimed but not tried, because the receiver now rests, the lease runs out or the service stops, is given back.
        """
        now_ms, retry = self._steps.steady_ms(), self._policy.retry
        way = passage(_circuit(self._store.receiver_state(receiver.name)), now_ms=now_ms, policy=retry)
        if way is Passage.DISABLED:
            self._store.park_deliveries(receiver.name)
            return 0
        if way is Passage.RESTING:
            return 0
        limit = 1 if way is Passage.PROBING else self._policy.batch_max
        try_ms = round(receiver.timeout_s * 1000)
        lease_ms = limit * try_ms + self._policy.lease_ms
        # Our share of the lease, from before it can have begun: the database counts the rest by a clock that isn't ours.
        lease_end_s = self._clock.monotonic_s() + lease_ms / 1000
        waiting = list(
            self._store.claim_deliveries(
                receiver.name,
                owner=self._owner,
                now_ms=now_ms,
                lease_ms=lease_ms,
                limit=limit,
            )
        )
        tries = 0
        try:
            if waiting and way is Passage.PROBING:
                rest_ms = try_ms + round(retry.open_s * 1000)
                if not self._store.take_probe(receiver.name, now_ms=now_ms, until_ms=now_ms + rest_ms):
                    return 0
            while waiting and not (stop and stop.is_set()):
                if self._clock.monotonic_s() + receiver.timeout_s >= lease_end_s:
                    break
                tries += 1
                self._seen(f"receiver {receiver.name}")
                if not self._try(receiver, waiting.pop(0)):
                    break
        finally:
            if waiting:
                self._store.release_deliveries([delivery.id for delivery in waiting], owner=self._owner)
        return tries

    def run(self, stop: threading.Event, *, drain_s: float) -> None:
        """Until told to stop; a try that is under way is given `drain_s`, then it is left: its lease ends, and it is sent
        again with the same id."""
        threads = [
            threading.Thread(target=self._serve, args=(receiver, stop), name=f"deliver-{receiver.name}", daemon=True)
            for receiver in self._receivers
        ]
        for thread in threads:
            thread.start()
        while not stop.wait(self._policy.poll_ms / 1000):
            self._seen("poll")
            with suppress(Retryable):  # the receivers' threads say so, and try again
                self._tell_oldest()
        give_up_s = self._clock.monotonic_s() + drain_s
        for thread in threads:
            thread.join(max(0.0, give_up_s - self._clock.monotonic_s()))
            if thread.is_alive():
                log.warning("deliver.left", receiver=thread.name.removeprefix("deliver-"), drain_s=drain_s)

    def _tell_oldest(self) -> None:
        created_ms = self._store.oldest_pending_ms()
        self._oldest_s(0.0 if created_ms is None else max(0.0, (self._clock.now_ms() - created_ms) / 1000))

    def _serve(self, receiver: Receiver, stop: threading.Event) -> None:
        waited_s = 0.5
        while not stop.is_set():
            try:
                sent = self.turn(receiver, stop)
                self._seen(f"receiver {receiver.name}")
                if sent:
                    self._trouble(None)
                waited_s = 0.5
            except Retryable as err:
                self._seen(f"receiver {receiver.name}")  # waiting for the database is being alive
                self._trouble(str(err))
                log.warning("deliver.retry", receiver=receiver.name, error=str(err), wait_s=waited_s)
                stop.wait(waited_s)
                waited_s = min(30.0, waited_s * 2)
                continue
            if not sent:
                stop.wait(self._policy.poll_ms / 1000)

    def _try(self, receiver: Receiver, delivery: Delivery) -> bool:
        """One message: gather (body), decide (what follows from the answer), apply (to the outbox). False: let it rest."""
        body = msgspec.json.encode(
            Body(
                type=delivery.event,
                timestamp=to_rfc3339(delivery.at_ms),
                data=msgspec.Raw(delivery.alert_json),
            )
        )
        answer = receiver.send(delivery.id, body, now_s=self._clock.now_ms() // 1000)
        now_ms = self._steps.steady_ms()
        decision = decide(
            answer,
            attempts=delivery.attempts,
            first_attempt_at_ms=delivery.first_attempt_at_ms or now_ms,
            now_ms=now_ms,
            policy=self._policy.retry,
            rng=self._rng,
        )
        self._count(decision.outcome)
        return self._apply(receiver, delivery, answer, decision, now_ms)

    def _apply(self, receiver: Receiver, delivery: Delivery, answer: Answer, decision: Decision, now_ms: int) -> bool:
        error = f"{decision.outcome}: {answer.detail}"
        if decision.outcome is Outcome.DELIVERED:
            self._store.mark_delivered(delivery.id, owner=self._owner, now_ms=self._clock.now_ms())
            if _circuit(self._store.receiver_state(receiver.name)) != Circuit():
                self._store.change_receiver(receiver.name, lambda state: _remembered(state, Circuit()))
            log.info("delivery.done", receiver=receiver.name, delivery=delivery.id, tries=delivery.attempts)
            return True
        log.warning(
            "delivery.failed", receiver=receiver.name, delivery=delivery.id, tries=delivery.attempts, error=error
        )
        if decision.disable:
            self._store.disable_receiver(receiver.name, reason=error, now_ms=now_ms)
            return False
        if decision.retry_at_ms is None:
            self._store.give_up(delivery.id, owner=self._owner, error=error)
        else:
            self._store.retry_later(
                delivery.id, owner=self._owner, next_attempt_at_ms=decision.retry_at_ms, error=error
            )
        return self._note_failure(receiver.name, answer, decision.outcome, now_ms)

    def _note_failure(self, name: str, answer: Answer, outcome: Outcome, now_ms: int) -> bool:
        """Remember it; True while the receiver may be tried further."""
        retry = self._policy.retry

        def failed(state: Any) -> Any:
            after = after_failure(_circuit(state), outcome, retry_after=answer.retry_after, now_ms=now_ms, policy=retry)
            return _remembered(state, after)

        after = _circuit(self._store.change_receiver(name, failed))
        if passage(after, now_ms=now_ms, policy=retry) is Passage.FLOWING:
            return True
        rest_ms = max(0, (after.open_until_ms or now_ms) - now_ms)
        log.warning("receiver.rests", receiver=name, failures=after.consecutive_failures, rest_s=rest_ms / 1000)
        return False


def _circuit(state: ReceiverState) -> Circuit:
    return Circuit(
        disabled=state.disabled_at_ms is not None,
        open_until_ms=state.open_until_ms,
        consecutive_failures=state.consecutive_failures,
    )


def _remembered(state: Any, circuit: Circuit) -> Any:
    """The stored state with the circuit's figures; who disabled it stays as it is."""
    return msgspec.structs.replace(
        state, open_until_ms=circuit.open_until_ms, consecutive_failures=circuit.consecutive_failures
    )
