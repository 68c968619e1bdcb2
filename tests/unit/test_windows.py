"""Event time, novelty and sums."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitor.windows import (
    UNIT,
    Arrival,
    NoveltyMemory,
    NoveltyPolicy,
    SlidingSums,
    Story,
    Watermark,
    WatermarkPolicy,
    fingerprint,
    is_copy,
)
from monitor.windows.watermark import NOTES_MAX

POLICY = WatermarkPolicy(lateness_ms=1_000, idle_after_ms=30_000, future_max_ms=5_000)


def test_the_slowest_active_origin_holds_the_watermark() -> None:
    mark = Watermark(policy=POLICY, newest_ms={"news/0": 0, "news/1": 0})
    mark.observe("news/0", 9_000)
    assert mark.value_ms == -1_000
    mark.observe("news/1", 5_000)
    assert mark.value_ms == 4_000


def test_a_silent_origin_lets_the_others_go_when_it_counts_as_idle() -> None:
    mark = Watermark(policy=POLICY)
    mark.observe("news/0", 5_000, now_ms=5_000)
    mark.observe("social/0", 6_000, now_ms=6_000)
    mark.observe("news/0", 100_000, now_ms=100_000)
    assert mark.value_ms == 99_000


def test_an_origin_with_a_backlog_before_us_is_not_idle() -> None:
    """Nothing came from social/0, but nobody has read it to its end either: its silence is not known yet."""
    mark = Watermark(policy=POLICY)
    mark.observe("news/0", 5_000, now_ms=5_000)
    mark.observe("social/0", 6_000, now_ms=6_000)
    mark.settle({"news/0": 99_000, "social/0": 20_000})
    mark.observe("news/0", 100_000, now_ms=100_000)
    assert mark.value_ms == 5_000, "6_000 of social/0 less the lateness"
    mark.settle({"news/0": 99_000, "social/0": 36_000})
    mark.observe("news/0", 101_000, now_ms=101_000)
    assert mark.value_ms == 100_000


def test_score_that_is_stuck_behind_an_idle_origin_makes_nothing_late() -> None:
    """social/0 was silent for a minute, then speaks, and score does not get to it for longer than the lateness. Event time goes
    ten times as fast as ours here: a replay knows no wall clock."""
    mark = Watermark(policy=POLICY)
    mark.observe("social/0", 60_000, now_ms=10**9, steady_ms=6_000)
    reached = []
    for steady_ms in range(60_000, 100_000, 5_000):
        mark.observe("news/0", 10 * steady_ms, now_ms=10**9, steady_ms=steady_ms)
        mark.note(steady_ms)
        mark.settle({"news/0": steady_ms, "social/0": min(steady_ms, 70_000)})
        reached.append(mark.value_ms)
    assert reached[-1] == 699_000, "what the others had said when it was last known to be silent"
    assert mark.observe("social/0", 700_000, now_ms=10**9, steady_ms=100_000) is Arrival.ON_TIME
    mark.note(101_000)
    mark.settle({"news/0": 140_000, "social/0": 140_000})
    mark.observe("news/0", 1_400_000, now_ms=10**9, steady_ms=140_000)
    assert mark.value_ms == 955_000, "idle again: at 101_000 event time was six seconds past 950_000"


def test_an_origin_that_is_stuck_since_before_we_came_holds_where_it_was() -> None:
    mark = Watermark(policy=POLICY, newest_ms={"news/0": 50_000, "social/0": 9_000})
    mark.observe("news/0", 60_000, now_ms=100_000)
    mark.note(101_000)
    mark.settle({"news/0": 101_000, "social/0": 40_000})
    mark.observe("news/0", 102_000, now_ms=140_000)
    assert mark.value_ms == 8_000


def test_an_origin_that_is_stuck_for_days_costs_no_memory() -> None:
    mark = Watermark(policy=POLICY)
    mark.observe("social/0", 1_000, now_ms=1_000)
    for at_ms in range(60_000, 20_060_000, 1_000):
        mark.observe("news/0", at_ms, now_ms=at_ms)
        mark.note(at_ms)
        mark.settle({"news/0": at_ms, "social/0": 70_000})
    assert len(mark._notes) <= NOTES_MAX
    assert mark.value_ms == 69_000, "as exact as with all of them"


def test_an_origin_that_was_not_heard_yet_holds_the_others() -> None:
    """Two processes begin with a backlog, and the one that reads news/1 is slower: its older messages must not come late."""
    mark = Watermark(policy=POLICY)
    mark.expect(["news/0", "news/1"])
    mark.observe("news/0", 90_000, now_ms=90_000)
    mark.settle({"news/0": 90_000, "news/1": 0})
    assert mark.tick(120_000) is None, "nobody knows what news/1 holds"
    assert mark.observe("news/1", 5_000, now_ms=121_000) is Arrival.ON_TIME
    assert mark.value_ms == 4_000


def test_an_origin_that_has_nothing_to_say_to_us_holds_nobody_for_long() -> None:
    mark = Watermark(policy=POLICY)
    mark.expect(["news/0", "news/1"])
    mark.observe("news/0", 9_000, now_ms=10_000)
    mark.settle({"news/0": 39_000, "news/1": 39_000})
    assert mark.tick(39_000) is None
    mark.settle({"news/0": 40_000, "news/1": 40_000})
    mark.observe("news/0", 39_500, now_ms=40_000)
    assert mark.value_ms == 38_500
    assert mark.newest_ms == {"news/0": 39_500}


def test_an_origin_that_was_known_to_be_empty_holds_the_others_once_it_speaks() -> None:
    """When score was first asked nobody had said anything: that all was worked off then is no reason not to wait now."""
    mark = Watermark(policy=POLICY)
    mark.settle({"news/0": 1_000, "news/1": 1_000})
    mark.expect(["news/0", "news/1"])
    mark.observe("news/0", 20_000, now_ms=20_000)
    assert mark.value_ms is None, "nobody knows what news/1 holds"
    assert mark.observe("news/1", 5_000, now_ms=21_000) is Arrival.ON_TIME
    assert mark.value_ms == 4_000


def test_event_time_that_is_held_notes_what_it_hears_and_goes_there_when_released() -> None:
    mark = Watermark(policy=POLICY)
    mark.hold()
    mark.observe("news/0", 90_000, now_ms=90_000)
    assert mark.tick(200_000) is None
    assert mark.observe("news/1", 5_000, now_ms=200_000) is Arrival.ON_TIME
    mark.release()
    assert mark.value_ms == 4_000


def test_nobody_is_silent_while_the_broker_is_away() -> None:
    # news/0  ──●            [away]      ●──   what news/1 has to say arrives a moment after it
    # news/1  ──●            [away]       ●─
    mark = Watermark(policy=POLICY)
    for origin in ("news/0", "news/1"):
        mark.observe(origin, 5_000, now_ms=5_000)
    mark.settle(dict.fromkeys(("news/0", "news/1"), 100_000), since_ms=99_000)
    mark.observe("news/0", 100_000, now_ms=100_000)
    assert mark.value_ms == 4_000
    assert mark.observe("news/1", 8_000, now_ms=100_500) is Arrival.ON_TIME


def test_event_time_does_not_flow_while_the_broker_is_away() -> None:
    mark = Watermark(policy=POLICY)
    mark.observe("news/0", 5_000, now_ms=5_000)
    mark.settle({"news/0": 140_000}, since_ms=100_000)
    assert mark.tick(140_000) == 44_000, "forty seconds of silence, not 135"


def test_an_event_from_the_future_moves_nothing() -> None:
    mark = Watermark(policy=POLICY)
    assert mark.observe("news/0", 99_000, now_ms=1_000) is Arrival.FUTURE
    assert mark.value_ms is None


def test_an_item_in_a_bucket_that_is_still_open_is_not_late() -> None:
    # [0 ──── 60)[60 ──●── 120)   watermark at 70: 65 still counts, 59 does not
    mark = Watermark(policy=POLICY)
    mark.observe("news/0", 71_000)
    assert mark.observe("news/0", 65_000, floor_ms=60_000) is Arrival.ON_TIME
    assert mark.observe("news/0", 59_000, floor_ms=60_000) is Arrival.LATE


def test_when_all_are_silent_event_time_flows_on_from_where_it_stood() -> None:
    mark = Watermark(policy=POLICY)
    mark.observe("news/0", 10_000, now_ms=10_000)
    assert mark.tick(20_000) == 9_000
    assert mark.tick(50_000) == 49_000
    assert mark.tick(60_000, drained=False) == 49_000


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 10**6)), max_size=40))
def test_the_watermark_never_goes_back(events: list[tuple[str, int]]) -> None:
    mark, last = Watermark(policy=POLICY), None
    for origin, at_ms in events:
        mark.observe(origin, at_ms)
        assert last is None or (mark.value_ms is not None and mark.value_ms >= last)
        last = mark.value_ms


def test_an_edited_headline_is_a_copy_and_another_report_is_not() -> None:
    policy = NoveltyPolicy()
    first = fingerprint("Acme to cut 4,000 jobs as demand for pumps falls")
    assert is_copy(first, fingerprint("UPDATE 2-Acme to cut 4,000 jobs as demand for pumps falls sharply"), policy)
    assert not is_copy(first, fingerprint("Pump maker announces thousands of layoffs, shares slide"), policy)


def test_a_chorus_is_counted_and_forgotten_with_the_horizon() -> None:
    memory = NoveltyMemory(NoveltyPolicy(horizon_ms=1_000))
    crowds = [
        memory.hear(k, f"sell this stock now before it is too late {k} {k + 900} {k + 70}", f"u{k}", None).crowd
        for k in range(30)
    ]
    assert crowds[0] == 0
    assert max(crowds) > 3
    memory.forget_before(10_000)
    assert len(memory) == 0
    assert memory.hear(10_001, "sell this stock now before it is too late", "u", None).crowd == 0


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 2 * UNIT)), max_size=30), st.integers(0, 9_000))
def test_sliding_sums_are_those_of_the_stories_inside(stories: list[tuple[int, int]], now_ms: int) -> None:
    sums = SlidingSums((100, 2_000))
    for at_ms, weight in sorted(stories):
        sums.add(Story(at_ms=at_ms, total_u=weight, negative_u=weight, positive_u=0, polarity_u=-weight, mention=None))
    sums.move_to(now_ms)
    for index, length in enumerate((100, 2_000)):
        inside = sum(weight for at_ms, weight in stories if at_ms >= now_ms - length)
        assert sums.window(index).total == sums.total(index) == inside / UNIT
        assert sums.said(index) == (sums.total(index), sums.window(index).polarity)
        assert sum(story.total_u for story in sums.inside(index)) == inside
