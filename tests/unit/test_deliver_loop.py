"""One failing receiver harms nobody else, is not hammered, and what is remembered of it outlives the process."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from monitor.clock import ManualClock
from monitor.delivery import Answer, DeliveryPolicy
from monitor.loops.deliver import DeliverLoop, DeliverLoopPolicy
from monitor.records import Alert, AlertTransition
from monitor.store import ClaimedDelivery, Store
from tests.builders import SettableClock, an_alert, told

RETRY = DeliveryPolicy(pause_s=1, pause_max_s=100, failures_open=3, open_s=60, open_max_s=240, give_up_after_s=100_000)


@dataclass
class FakeReceiver:
    """Answers as told, again and again with the last; `tries` keeps (time, id)."""

    name: str
    clock: ManualClock
    answers: list[int | tuple[int, str]] = field(default_factory=lambda: [204])
    timeout_s: float = 10.0
    tries: list[tuple[float, str]] = field(default_factory=list)

    def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
        self.tries.append((self.clock.monotonic_s(), message_id))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status, wait = answer if isinstance(answer, tuple) else (answer, None)
        return Answer(status=status, detail=f"HTTP {status}", retry_after=wait)


@dataclass
class Subscriber:
    name: str

    def wants(self, _alert: Alert, /) -> bool:
        return True

    def hears(self, _topic: str, _severity: str, /) -> bool:
        return True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'outbox.db'}")
    yield opened
    opened.close()


def write(store: Store, names: Sequence[str], *, alerts: Sequence[str], now_ms: int = 0) -> None:
    """One opened alert each, for each receiver."""
    with store.transaction() as t:
        for key in alerts:
            step = AlertTransition(alert=an_alert(id=key), change="opened", reason="test", at_ms=now_ms)
            t.tell(told([step]), [Subscriber(name) for name in names], now_ms=now_ms)


def loop_of(store: Store, clock: ManualClock, receivers: Sequence[FakeReceiver], owner: str = "one") -> DeliverLoop:
    return DeliverLoop(
        store=store,
        receivers=receivers,
        clock=clock,
        policy=DeliverLoopPolicy(retry=RETRY),
        owner=owner,
        rng=random.Random(1),
    )


def test_one_failing_receiver_never_sends_again_to_the_others(store: Store) -> None:
    clock = ManualClock()
    good, bad = FakeReceiver("good", clock), FakeReceiver("bad", clock, answers=[500])
    write(store, ["good", "bad"], alerts=["a", "b"])
    loop = loop_of(store, clock, [good, bad])
    for _ in range(60):
        loop.turn(good)
        loop.turn(bad)
        clock.advance(5)
    assert len(good.tries) == 2
    assert len(bad.tries) > 2
    assert {key for _, key in bad.tries}.isdisjoint(key for _, key in good.tries)
    assert {d.status for d in store.deliveries(receiver="good")} == {"delivered"}
    assert {d.status for d in store.deliveries(receiver="bad")} == {"pending"}


def test_after_some_failures_the_receiver_rests_and_each_rest_ends_with_one_try(store: Store) -> None:
    clock = ManualClock()
    bad = FakeReceiver("bad", clock, answers=[500])
    write(store, ["bad"], alerts=[f"a{n:02d}" for n in range(20)])
    loop = loop_of(store, clock, [bad])
    for _ in range(240):
        loop.turn(bad)
        clock.advance(5)
    times = [at_s for at_s, _ in bad.tries]
    assert times[:3] == [0, 0, 0], "the batch ends with the third failure in a row, seventeen messages untried"
    rests = [round(later - earlier) for earlier, later in pairwise(times[2:])]
    assert rests[:4] == [60, 120, 240, 240]
    assert len(times) == 9, "twenty minutes and twenty messages, and still only these tries"


def test_what_was_claimed_but_not_tried_is_due_as_if_it_had_never_been_claimed(store: Store) -> None:
    clock = ManualClock()
    write(store, ["bad"], alerts=[f"a{n:02d}" for n in range(8)])
    loop_of(store, clock, [bad := FakeReceiver("bad", clock, answers=[500])]).turn(bad)
    assert sorted(d.attempts for d in store.deliveries()) == [0, 0, 0, 0, 0, 1, 1, 1]
    clock.advance(61)
    good = FakeReceiver("bad", clock)
    other = loop_of(store, clock, [good], owner="two")
    while other.turn(good):
        pass
    assert len(good.tries) == 8, "nothing waits for a lease to end"


def test_the_rest_is_kept_over_a_restart_and_shared_by_processes(store: Store) -> None:
    clock = ManualClock()
    bad = FakeReceiver("bad", clock, answers=[500])
    write(store, ["bad"], alerts=[f"a{n:02d}" for n in range(20)])
    loop_of(store, clock, [bad]).turn(bad)
    assert len(bad.tries) == 3
    for number in range(5):  # five restarts, five processes
        loop_of(store, clock, [bad], owner=f"p{number}").turn(bad)
    assert len(bad.tries) == 3
    clock.advance(61)
    first, second = loop_of(store, clock, [bad], "p7"), loop_of(store, clock, [bad], "p8")
    first.turn(bad)
    second.turn(bad)
    assert len(bad.tries) == 4, "one probe, whoever makes it"


def test_two_processes_after_a_rest_make_one_probe(store: Store) -> None:
    """Both saw that the rest is over; the database lets one of them try."""
    clock = ManualClock()
    write(store, ["bad"], alerts=[f"a{n:02d}" for n in range(9)])
    loop_of(store, clock, [bad := FakeReceiver("bad", clock, answers=[500])]).turn(bad)
    clock.advance(61)
    assert store.take_probe("bad", now_ms=clock.now_ms(), until_ms=clock.now_ms() + 70_000)
    assert not store.take_probe("bad", now_ms=clock.now_ms(), until_ms=clock.now_ms() + 70_000)


def test_a_probe_that_is_taken_elsewhere_leaves_the_message_as_it_was(store: Store) -> None:
    clock = ManualClock()
    write(store, ["bad"], alerts=["a1", "a2", "a3", "a4"])
    loop_of(store, clock, [bad := FakeReceiver("bad", clock, answers=[500])]).turn(bad)
    clock.advance(61)

    class Late(Store):
        """The other process was faster between our look and our try."""

        def take_probe(self, name: str, *, now_ms: int, until_ms: int) -> bool:
            super().take_probe(name, now_ms=now_ms, until_ms=until_ms)
            return False

    before = [(d.id, d.attempts) for d in store.deliveries()]
    assert loop_of(Late(store._engine), clock, [bad]).turn(bad) == 0
    assert [(d.id, d.attempts) for d in store.deliveries()] == before
    assert len(bad.tries) == 3


def test_one_success_ends_the_rest(store: Store) -> None:
    clock = ManualClock()
    flaky = FakeReceiver("flaky", clock, answers=[500, 500, 500, 204])
    write(store, ["flaky"], alerts=[f"a{n}" for n in range(8)])
    loop = loop_of(store, clock, [flaky])
    loop.turn(flaky)
    clock.advance(61)
    assert loop.turn(flaky) == 1, "the probe"
    assert loop.turn(flaky) == 7, "and then everything"
    assert store.receiver_state("flaky").consecutive_failures == 0
    assert len({key for _, key in flaky.tries}) == 8


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_that_asks_to_wait_is_asked_nothing_meanwhile(store: Store, status: int) -> None:
    """Not only the refused message waits: the others would be refused as well."""
    clock = ManualClock()
    busy = FakeReceiver("busy", clock, answers=[(status, "300"), 204])
    write(store, ["busy"], alerts=["a", "b", "c"])
    loop = loop_of(store, clock, [busy])
    for _ in range(299):
        loop.turn(busy)
        clock.advance(1)
    assert len(busy.tries) == 1
    clock.advance(1)
    loop.turn(busy)
    assert [at_s for at_s, _ in busy.tries] == [0, 300, 300, 300]


def test_410_disables_and_what_is_written_later_is_parked_until_somebody_retries(store: Store) -> None:
    clock = ManualClock()
    gone = FakeReceiver("gone", clock, answers=[410])
    write(store, ["gone"], alerts=["a", "b"])
    loop = loop_of(store, clock, [gone])
    loop.turn(gone)
    write(store, ["gone"], alerts=["c"])
    for _ in range(5):
        clock.advance(3_600)
        assert loop.turn(gone) == 0
    assert len(gone.tries) == 1
    assert {d.status for d in store.deliveries()} == {"disabled"}
    assert "HTTP 410" in (store.receiver_state("gone").disabled_reason or "")
    gone.answers = [204]
    assert store.retry_deliveries(now_ms=clock.now_ms(), receiver="gone") == 3
    assert loop.turn(gone) == 3
    assert {d.status for d in store.deliveries()} == {"delivered"}


def test_a_lease_outlasts_every_try_of_its_batch(store: Store) -> None:
    """Slow tries: what would not end within the lease is not begun, so no other process sends it meanwhile."""
    clock = ManualClock()
    timed = Store(store._engine, clock_ms=lambda _connection: clock.now_ms())

    @dataclass
    class Slow(FakeReceiver):
        def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
            answer = super().send(message_id, body, now_s=now_s)
            self.clock.advance(30)  # the lookup hangs: three times what a try should take
            other = loop_of(timed, self.clock, [watching], owner="two")
            other.turn(watching)
            return answer

    slow, watching = Slow("desk", clock), FakeReceiver("desk", clock)
    write(store, ["desk"], alerts=[f"a{n}" for n in range(10)])
    loop_of(timed, clock, [slow]).turn(slow)
    assert 1 < len(slow.tries) < 10
    assert not {key for _, key in slow.tries} & {key for _, key in watching.tries}


@pytest.mark.parametrize(("claim_s", "tries"), [(149, 1), (150, 0)])
def test_what_the_claim_took_is_taken_off_the_lease(store: Store, claim_s: int, tries: int) -> None:
    """A lease of 160 s and a try of 10 s: when in that call it began is not known, so the earliest moment counts."""
    clock = ManualClock()

    class Slow(Store):
        def claim_deliveries(self, receiver: str, **asked: Any) -> list[ClaimedDelivery]:
            claimed = super().claim_deliveries(receiver, **asked)
            clock.advance(claim_s)
            return claimed

    write(store, ["desk"], alerts=["a"])
    desk = FakeReceiver("desk", clock)
    assert loop_of(Slow(store._engine), clock, [desk]).turn(desk) == tries


@pytest.mark.parametrize("hours", [-1, 1])
def test_two_processes_whose_clocks_are_apart_do_not_send_the_same(store: Store, hours: int) -> None:
    """The other acts in the middle of a try: by its clock the lease has long ended, or has not begun."""
    clock, apart = SettableClock(1_780_000_000_000), SettableClock(1_780_000_000_000)
    apart.offset_ms = hours * 3_600_000
    other = FakeReceiver("desk", apart)

    @dataclass
    class Overtaken(FakeReceiver):
        def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
            loop_of(store, apart, [other], owner="two").turn(other)
            return super().send(message_id, body, now_s=now_s)

    desk = Overtaken("desk", clock)
    write(store, ["desk"], alerts=["a", "b"], now_ms=clock.now_ms())
    assert loop_of(store, clock, [desk]).turn(desk) == 2
    assert other.tries == []


def test_stopping_ends_a_batch_between_two_tries_and_gives_the_rest_back(store: Store) -> None:
    clock, stop = ManualClock(), threading.Event()

    @dataclass
    class Stopping(FakeReceiver):
        def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
            stop.set()
            return super().send(message_id, body, now_s=now_s)

    desk = Stopping("desk", clock)
    write(store, ["desk"], alerts=["a", "b", "c"])
    assert loop_of(store, clock, [desk]).turn(desk, stop) == 1
    assert sorted(d.status for d in store.deliveries()) == ["delivered", "pending", "pending"]
    assert len(store.claim_deliveries("desk", owner="next", now_ms=clock.now_ms(), lease_ms=1, limit=9)) == 2


def test_a_try_that_hangs_does_not_hold_the_end_of_the_service(store: Store) -> None:
    clock, stop, release = ManualClock(), threading.Event(), threading.Event()

    @dataclass
    class Hanging(FakeReceiver):
        def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
            stop.set()
            release.wait()
            return super().send(message_id, body, now_s=now_s)

    desk = Hanging("desk", clock)
    write(store, ["desk"], alerts=["a"])
    loop_of(store, clock, [desk]).run(stop, drain_s=0.05)
    assert [d.status for d in store.deliveries()] == ["pending"], "its lease ends, and it goes out with the same id"
    release.set()
    for thread in threading.enumerate():
        if thread.name == "deliver-desk":
            thread.join()


@pytest.mark.parametrize("hours", [-1, 1, 48])
def test_a_clock_that_is_set_neither_holds_nor_hurries_nor_ends_what_is_tried(store: Store, hours: int) -> None:
    """Set by an hour, or by two days, which is longer than anything is tried: the next try comes when it was due."""
    clock = SettableClock(1_780_000_000_000)
    desk = FakeReceiver("desk", clock, answers=[500, 500, 204])
    write(store, ["desk"], alerts=["a"], now_ms=clock.now_ms())
    loop = loop_of(store, clock, [desk])
    begun_s = clock.monotonic_s()
    for second in range(10):
        if second == 1:
            clock.offset_ms = hours * 3_600_000
        loop.turn(desk)
        clock.advance(1)
    assert [round(at_s - begun_s) for at_s, _ in desk.tries] == [0, 1, 3], "pauses of up to one and two seconds"
    assert [d.status for d in store.deliveries()] == ["delivered"]
