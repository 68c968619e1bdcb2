"""Partitions read as one: oldest first, nothing lost, nobody waits for a partition that has nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitor.intake.merge import EventTimeMerge
from monitor.records import Place, Record


class Item(Record, frozen=True, kw_only=True):
    place: Place
    timestamp_ms: int


def item(partition: int, offset: int, at_ms: int) -> Item:
    return Item(place=Place(topic="news", partition=partition, offset=offset), timestamp_ms=at_ms)


def run(partition: int, times: list[int]) -> list[Item]:
    return [item(partition, offset, at_ms) for offset, at_ms in enumerate(sorted(times))]


@given(st.lists(st.lists(st.integers(0, 100), max_size=20), max_size=4))
def test_everything_comes_out_once_and_in_order(times: list[list[int]]) -> None:
    merge: EventTimeMerge[Item] = EventTimeMerge()
    items = [item for partition, run_times in enumerate(times) for item in run(partition, run_times)]
    merge.add(items)
    released = merge.release((), 1_000)
    assert sorted(map(str, (i.place for i in released))) == sorted(map(str, (i.place for i in items)))
    assert [i.timestamp_ms for i in released] == sorted(i.timestamp_ms for i in items)
    assert len(merge) == 0


def test_a_partition_that_is_behind_holds_the_others_until_it_shows_its_next() -> None:
    merge: EventTimeMerge[Item] = EventTimeMerge()
    merge.add(run(0, [1, 2, 3]))
    assert merge.release({("news", 0), ("news", 1)}, 10) == []
    merge.add(run(1, [2]))
    assert [i.timestamp_ms for i in merge.release({("news", 0), ("news", 1)}, 10)] == [1, 2, 2]


def test_a_full_partition_stays_full_until_it_is_half_empty() -> None:
    merge: EventTimeMerge[Item] = EventTimeMerge(messages_max=4)
    merge.add(run(0, [1, 2, 3, 4]))
    assert merge.full() == {("news", 0)}
    merge.release((), 1)
    assert merge.full() == {("news", 0)}
    merge.release((), 1)
    assert merge.full() == set()


def test_what_was_held_of_a_lost_partition_is_forgotten() -> None:
    merge: EventTimeMerge[Item] = EventTimeMerge()
    merge.add(run(0, [1]) + run(1, [2]))
    merge.forget([("news", 0)])
    assert [i.place.partition for i in merge.release((), 10)] == [1]


def test_a_message_waits_a_moment_for_older_ones_of_a_quiet_partition() -> None:
    """news/1 was read to its end a moment ago; what its producer is just sending may be older."""
    merge: EventTimeMerge[Item] = EventTimeMerge()
    quiet = {("news", 0), ("news", 1)}
    merge.add(run(0, [5]), now_s=10.0)
    assert merge.release((), 10, quiet=quiet, arrived_by_s=9.9) == []
    merge.add(run(1, [4]), now_s=10.1)
    assert [i.timestamp_ms for i in merge.release((), 10, quiet=quiet, arrived_by_s=9.9)] == [4]
    assert [i.timestamp_ms for i in merge.release((), 10, quiet=quiet, arrived_by_s=10.0)] == [5]
