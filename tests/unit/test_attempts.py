"""The guard: marks before work, suspicion after a death, care that costs innocents nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.clock import ManualClock
from monitor.errors import Retryable
from monitor.loops.attempts import AttemptGuard
from monitor.loops.score import ScoreLoop, ScorePolicy
from monitor.records import Place
from monitor.store import Store
from tests.unit.test_score_loop import FakeJudge, FakeReader, FakeSink, FakeSource, Raw, place

NEWS = ("news", 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'marks.db'}")
    yield opened
    opened.close()


def guard_of(store: Store, owner: str, clock: ManualClock | None = None) -> AttemptGuard:
    return AttemptGuard(store, owner=owner, clock=clock or ManualClock(), attempts_max=3, ahead=4)


def die(store: Store, *offsets: int) -> None:
    """Two processes in a row die with these in hand: one death alone makes nobody suspicious."""
    for name in ("first", "second"):
        guard_of(store, name).begin(places(*offsets))


def places(*offsets: int) -> list[Place]:
    return [place(offset) for offset in offsets]


def test_two_deaths_make_everything_up_to_the_mark_suspect_and_nothing_beyond(store: Store) -> None:
    # two processes  0 1 2 3 (4 5 6 7)  mark at 8, both die
    die(store, 0, 1, 2, 3)
    third = guard_of(store, "third")
    third.begin(places(2, 3, 4))
    assert [third.suspects(p) for p in places(2, 7, 8)] == [True, True, False]
    assert not third.suspects(place(2, partition=1))


def test_one_death_is_nobodys_fault_and_what_passes_the_mark_is_cleared(store: Store) -> None:
    """Kills from outside must not cost a batch each; only deaths in a row, before the mark is passed, add up."""
    for number in range(5):
        guard = guard_of(store, f"p{number}")
        guard.begin(places(10 * number, 10 * number + 1))
        assert not guard.suspects(place(10 * number)), f"death {number}"
        guard.committed({NEWS: 10 * number + 6})


def test_an_end_in_order_leaves_no_suspicion(store: Store) -> None:
    first = guard_of(store, "first")
    first.begin(places(0, 1))
    first.close()
    second = guard_of(store, "second")
    second.begin(places(2))
    assert not second.suspects(place(2))


def test_a_partition_that_is_given_up_in_order_is_not_suspect_and_the_new_owner_s_mark_stays(store: Store) -> None:
    first, second = guard_of(store, "first"), guard_of(store, "second")
    first.begin(places(0))
    second.begin(places(1))  # the new owner was faster than our giving up
    first.give_up([NEWS])
    assert store.marks_left([NEWS], owner="third")[NEWS].reach == 6


def test_marks_run_ahead_so_that_few_are_written(store: Store) -> None:
    written = []

    class Counting(Store):
        def note_marks(self, marks, *, owner):  # type: ignore[no-untyped-def]
            written.append({partition: mark.reach for partition, mark in marks.items()})
            super().note_marks(marks, owner=owner)

    guard = guard_of(Counting(store._engine), "first")
    for offset in range(20):
        guard.begin(places(offset))
    assert written == [{NEWS: reach} for reach in (5, 10, 15, 20)]


def test_only_the_message_in_hand_at_each_death_is_used_up(store: Store) -> None:
    die(store, 0, 1, 2)
    for number in range(3):
        dying = guard_of(store, f"p{number}")
        dying.begin(places(0, 1, 2))
        assert dying.begin_alone(place(0))
        dying.survive(place(0))
        assert dying.begin_alone(place(1)), "and it dies here"
    last = guard_of(store, "last")
    last.begin(places(0, 1, 2))
    assert last.begin_alone(place(0)), "it survived each time"
    last.survive(place(0))
    assert not last.begin_alone(place(1))
    assert last.begin_alone(place(2))
    last.survive(place(2))
    last.rest()
    assert store.note_attempt(place(2)) == 1
    assert store.note_attempt(place(1)) == 5, (
        "kept until its offset is committed: a death before that finds it condemned"
    )
    last.committed({NEWS: 2})
    assert store.note_attempt(place(1)) == 1


def test_ending_in_order_amid_suspects_leaves_the_rest_suspect(store: Store) -> None:
    die(store, 0, 1)
    third = guard_of(store, "third")
    third.begin(places(0, 1))
    assert third.begin_alone(place(0))
    third.survive(place(0))
    third.close()
    fourth = guard_of(store, "fourth")
    fourth.begin(places(1))
    assert fourth.suspects(place(1))


def test_without_the_database_the_line_goes_on_and_marks_come_back_later(store: Store) -> None:
    class Away(Store):
        away = True
        asked = 0

        def marks_left(self, partitions, *, owner):  # type: ignore[no-untyped-def]
            self.asked += 1
            if self.away:
                raise Retryable("database: away")
            return super().marks_left(partitions, owner=owner)

    die(store, 0)
    clock, flaky = ManualClock(), Away(store._engine)
    guard = guard_of(flaky, "third", clock)
    for offset in range(3):
        guard.begin(places(offset))
    assert flaky.asked == 1, "a database that is away is not asked at every poll"
    assert not guard.suspects(place(0))
    flaky.away = False
    clock.advance(61)
    guard.begin(places(3))
    assert guard.suspects(place(3)), "what the dead left is found when the database answers again"


def test_suspects_are_judged_alone_in_order_and_the_rest_in_batches_again(store: Store) -> None:
    die(store, *range(10))
    sizes: list[list[str]] = []

    class Watching(FakeJudge):
        def judge(self, documents, *, now_ms):  # type: ignore[no-untyped-def]
            sizes.append([document.text for document, _ in documents])
            return super().judge(documents, now_ms=now_ms)

    messages = [Raw(place(n), f"$A {n:02d}".encode()) for n in range(40)]
    source, sink = FakeSource(messages), FakeSink()
    loop = ScoreLoop(
        source=source,
        sink=sink,
        reader=FakeReader(),
        judge=Watching(),
        clock=ManualClock(),
        policy=ScorePolicy(commit_ms=0, deadline_ms=0),
        attempts=guard_of(store, "next"),
    )
    loop.turn()
    assert [len(batch) for batch in sizes] == [1] * 8, "a turn ends after some, so that polling goes on"
    for _ in range(4):
        loop.turn()
    loop.drain(5)
    assert [len(batch) for batch in sizes[:14]] == [1] * 14, "ten in hand and four ahead of them"
    assert [m.text[-2:] for m in sink.mentions] == [f"{n:02d}" for n in range(40)]
    assert max(len(batch) for batch in sizes[14:]) > 1
    assert source.commits[-1] == {NEWS: 40}
    assert store.marks_left([NEWS], owner="nobody") == {}


def test_a_lost_partition_takes_what_was_not_read_yet_with_it(store: Store) -> None:
    die(store, *range(20))
    source, sink = FakeSource([Raw(place(n), b"$A %d" % n) for n in range(20)]), FakeSink()
    loop = ScoreLoop(
        source=source,
        sink=sink,
        reader=FakeReader(),
        judge=FakeJudge(),
        clock=ManualClock(),
        policy=ScorePolicy(commit_ms=0),
        attempts=guard_of(store, "next"),
    )
    loop.turn()
    source.taken.append(NEWS)
    loop.turn()
    loop.drain(5)
    assert len(sink.mentions) == 8, "what was taken alone in the first turn; the rest is the new owner's"
