"""From alerts to pages: one page a sector, one about the market, silences, repeats, a digest instead of a storm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.alerting import (
    Hours,
    Message,
    Pager,
    PageReason,
    PagerState,
    Rules,
    Settled,
    Silence,
    Step,
    Verdict,
    page_history,
    parse_rules,
)
from monitor.clock import ManualClock, to_rfc3339
from monitor.loops.paging import Paging, PagingPolicy, silence_of
from monitor.records import Alert, AlertTransition
from monitor.store import Store, StoredMark
from monitor.telemetry import Metrics
from tests.builders import an_alert

START_MS = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000  # midnight, a Friday
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
SECTORS = {
    **{f"T{n}": "Technology" for n in range(9)},
    **{f"B{n}": "Banks" for n in range(9)},
    **{f"E{n}": "Energy" for n in range(9)},
}
RULES = parse_rules({}, "test")


def alert(entity: str, *, severity: str = "medium", direction: str = "negative", mark: str = "") -> Alert:
    return an_alert(
        id=f"{entity}-{direction}{mark}",
        entity=entity,
        direction=direction,
        opened_at=to_rfc3339(START_MS),
        severity=severity,
        effective_n=5,
        raw_n=5,
        flip_margin=0.5,
        brief=f"{entity} fell.",
    )


def step(at_ms: int, entity: str, change: str = "opened", sequence: int = 0, **facts: str) -> Step:
    """At so many milliseconds after the start; numbered as an alert's life goes."""
    number = sequence or {"opened": 1, "updated": 2, "resolved": 9}[change]
    told = alert(entity, **facts)  # type: ignore[arg-type]
    if change == "resolved":
        told = msgspec.structs.replace(told, resolved_at=to_rfc3339(START_MS + at_ms))
    transition = AlertTransition(alert=told, change=change, reason="test", at_ms=START_MS + at_ms)  # type: ignore[arg-type]
    return Step(transition=transition, sequence=number)


class Desk:
    """A pager that is written down and read back after every turn, and all that it decided."""

    def __init__(self, rules: Rules = RULES, silences: Sequence[Silence] = ()) -> None:
        self.rules, self.silences, self.blob = rules, silences, b""
        self.acknowledged: set[str] = set()
        self.messages: list[Message] = []
        self.settled: dict[tuple[str, int], Settled] = {}

    def turn(self, steps: Sequence[Step], until_ms: int) -> list[tuple[str, str, list[str]]]:
        """What is told: change, reason, and who is on the page."""
        state = msgspec.msgpack.decode(self.blob, type=PagerState) if self.blob else None
        pager = Pager(rules=self.rules, sectors=SECTORS, state=state)
        told = pager.advance(
            steps, reached_ms=START_MS + until_ms, silences=self.silences, acknowledged=self.acknowledged
        )
        self.blob = msgspec.msgpack.encode(pager.state)
        self.messages += told.messages
        self.settled |= {(s.alert, s.sequence): s for s in told.settled}
        return [(m.change, str(m.reason), members(m)) for m in told.messages]


def members(message: Message) -> list[str]:
    if message.alert is None:
        assert message.body is not None
        return [line["entity"] for line in message.body["alerts"]]
    group = message.alert.details.get("group")
    return sorted(m["entity"] for m in group["members"]) if group else [message.alert.entity]


# Grouping.


def test_one_company_alone_is_paged_as_the_alert_that_it_is() -> None:
    desk = Desk()
    assert desk.turn([step(0, "T0")], 29 * SECOND) == []
    assert desk.turn([], 30 * SECOND) == [("opened", "opened", ["T0"])]
    assert desk.messages[0].alert == alert("T0")
    assert desk.turn([step(HOUR, "T0", "resolved")], 2 * HOUR) == [("resolved", "resolved", ["T0"])]
    assert desk.messages[1].page == desk.messages[0].page == "T0-negative"
    assert [m.sequence for m in desk.messages] == [1, 2]


def test_companies_of_one_sector_are_one_page_and_it_ends_with_the_last_of_them() -> None:
    desk = Desk()
    told = desk.turn([step(0, "T0"), step(10 * SECOND, "T1", severity="high"), step(5 * SECOND, "B0")], MINUTE)
    assert told == [("opened", "opened", ["T0", "T1"]), ("opened", "opened", ["B0"])]
    page = desk.messages[0]
    assert page.severity == "high"
    assert page.alert is not None
    assert page.alert.brief.startswith("Technology: 2 companies turned negative (T1, T0).")
    assert desk.turn([step(10 * MINUTE, "T2")], 11 * MINUTE) == [("updated", "joined", ["T0", "T1", "T2"])]
    assert desk.turn([step(20 * MINUTE, "T0", "resolved")], 30 * MINUTE) == []
    assert desk.settled["T0-negative", 9].reason is PageReason.PART_RESOLVED
    ended = desk.turn([step(40 * MINUTE, "T1", "resolved"), step(41 * MINUTE, "T2", "resolved")], HOUR)
    assert ended == [("resolved", "resolved", ["T0", "T1", "T2"])]
    assert {m.page for m in desk.messages if "T0" in members(m)} == {"T0-negative"}


def test_the_other_direction_and_a_later_hour_are_pages_of_their_own() -> None:
    desk = Desk()
    told = desk.turn([step(0, "T0"), step(0, "T1", direction="positive"), step(2 * HOUR, "T2")], 3 * HOUR)
    assert [who for _, _, who in told] == [["T0"], ["T1"], ["T2"]]


STEPS = [
    step(k * 7 * MINUTE + n * 11 * SECOND, f"{s}{n}", change)
    for n in range(5)
    for s in "TBE"
    for k, change in ((n, "opened"), (n + 4, "updated"), (n + 9, "resolved"))
]


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 100), max_size=8))
def test_partitions_and_restarts_change_no_page(rng: object, cuts: list[int]) -> None:
    """Steps come in any order within what is reached, the process ends after any turn: the same messages, the same reasons."""
    silences = [silence("T1", 0, 30 * MINUTE)]
    whole = Desk(silences=silences)
    whole.turn(STEPS, 3 * HOUR)
    broken = Desk(silences=silences)
    before_ms = -1
    for until_ms in [*sorted(cut * MINUTE for cut in cuts), 3 * HOUR]:
        part = [s for s in STEPS if before_ms < s.transition.at_ms - START_MS <= until_ms]
        rng.shuffle(part)  # type: ignore[attr-defined]
        broken.turn(part, until_ms)
        before_ms = until_ms
    assert broken.messages == whole.messages
    assert broken.settled == whole.settled
    assert broken.blob == whole.blob
    assert set(whole.settled) == {(s.transition.alert.id, s.sequence) for s in STEPS}, "each has its reason"


def test_a_history_is_paged_as_the_live_stream_would_have_been() -> None:
    desk = Desk()
    desk.turn(STEPS, 3 * HOUR)
    history = page_history([s.transition for s in STEPS], rules=RULES, sectors=SECTORS)
    assert history.messages == tuple(desk.messages)


# The market.


def fall(count: int, *, at_ms: int = 0) -> list[Step]:
    return [step(at_ms + n * SECOND, f"{'TBE'[n % 3]}{n // 3}") for n in range(count)]


def test_when_everything_falls_there_is_one_page_and_what_follows_stays_under_it() -> None:
    desk = Desk()
    assert desk.turn(fall(12), MINUTE) == [("opened", "opened", sorted(s.transition.alert.entity for s in fall(12)))]
    assert desk.messages[0].alert is not None
    assert desk.messages[0].alert.brief.startswith("The market: 12 companies turned negative")
    later = [step(5 * MINUTE, "T7"), step(5 * MINUTE, "B7", direction="positive")]
    assert desk.turn(later, 10 * MINUTE) == [("opened", "opened", ["B7"])]
    assert desk.settled["T7-negative", 1].reason is PageReason.UNDER_MARKET_ALERT
    assert desk.turn([step(15 * MINUTE, "E7", severity="critical")], 20 * MINUTE) == [("opened", "opened", ["E7"])]


def test_what_stood_under_the_market_is_told_when_the_market_has_calmed() -> None:
    desk = Desk()
    desk.turn([*fall(9), step(5 * MINUTE, "T7")], HOUR)
    calm = [step(HOUR + n, s.transition.alert.entity, "resolved") for n, s in enumerate(fall(9))]
    assert [(c, who) for c, _, who in desk.turn(calm, 2 * HOUR)] == [
        ("resolved", sorted([*(s.transition.alert.entity for s in fall(9)), "T7"])),
        ("opened", ["T7"]),
    ]
    assert desk.settled["T7-negative", 1].verdict is Verdict.TOLD


def test_an_alert_about_the_index_is_a_market_page_at_once() -> None:
    desk = Desk(parse_rules({"paging": {"market_entities": ["SPY"]}}, "test"))
    told = desk.turn([step(0, "SPY"), step(5 * MINUTE, "T0")], HOUR)
    assert told == [("opened", "opened", ["SPY"])]
    assert desk.settled["T0-negative", 1].reason is PageReason.UNDER_MARKET_ALERT


def test_eight_companies_of_one_sector_are_no_market() -> None:
    told = Desk().turn([step(n, f"T{n}") for n in range(9)], HOUR)
    assert len(told) == 1
    assert Desk().turn([step(n, f"{'TB'[n % 2]}{n // 2}") for n in range(12)], HOUR)[0][2] == [
        f"T{n}" for n in range(6)
    ]


# Silences and mute times.


def silence(entity: str | None, start: int, end: int, **facts: object) -> Silence:
    return Silence(
        id=4,
        author="ann",
        reason="earnings",
        created_ms=0,
        starts_ms=START_MS + start,
        ends_ms=START_MS + end,
        entity=entity,
        **facts,  # type: ignore[arg-type]
    )


def test_a_silenced_alert_is_kept_quiet_with_the_silence_named_and_told_when_it_ends() -> None:
    desk = Desk(silences=[silence("T0", 0, HOUR)])
    assert desk.turn([step(MINUTE, "T0"), step(MINUTE, "B0")], 59 * MINUTE) == [("opened", "opened", ["B0"])]
    noted = desk.settled["T0-negative", 1]
    assert (noted.verdict, noted.reason, noted.silence) == (Verdict.SILENT, PageReason.SILENCED, 4)
    assert desk.turn([], HOUR) == [("opened", "opened", ["T0"])]
    assert desk.settled["T0-negative", 1].verdict is Verdict.TOLD


def test_an_alert_that_ends_within_its_silence_is_never_told() -> None:
    desk = Desk(silences=[silence("T0", 0, 2 * HOUR)])
    assert desk.turn([step(MINUTE, "T0"), step(HOUR, "T0", "resolved")], DAY) == []
    assert {s.reason for s in desk.settled.values()} == {PageReason.SILENCED}


def test_what_was_told_before_a_silence_still_ends_aloud() -> None:
    desk = Desk()
    desk.turn([step(0, "T0")], MINUTE)
    desk.silences = [silence("T0", 2 * MINUTE, DAY)]
    assert desk.turn([step(3 * MINUTE, "T0", "updated", severity="high")], HOUR) == []
    assert desk.settled["T0-negative", 2].reason is PageReason.SILENCED
    assert desk.turn([step(2 * HOUR, "T0", "resolved")], 3 * HOUR) == [("resolved", "resolved", ["T0"])]


def test_a_sector_can_fall_silent_up_to_a_severity() -> None:
    desk = Desk(silences=[silence(None, 0, DAY, sector="Technology", severity_max="medium")])
    told = desk.turn([step(0, "T0"), step(0, "T1", severity="high"), step(0, "B0")], HOUR)
    assert sorted(who for _, _, who in told) == [["B0"], ["T1"]]


@pytest.mark.parametrize(
    ("hour", "quiet"), [(3, True), (5.9, True), (6, False), (21, False), (22, True), (24 + 3, True), (48 + 3, False)]
)
def test_a_mute_time_holds_over_midnight_of_its_days(hour: float, quiet: bool) -> None:
    """22:00 to 06:00 on Thursday and Friday nights; the start is a Friday."""
    hours = Hours(days=(3, 4), start_minute=22 * 60, until_minute=6 * 60)
    at_ms = START_MS + round(hour * HOUR)
    found = silence(None, 0, 30 * DAY, hours=hours).until_ms(at_ms)
    assert (found is not None) == quiet
    if found is not None:
        assert (found - START_MS) % DAY == 6 * HOUR


# Acknowledgement, repeats, the full hour.


def test_what_nobody_takes_on_is_repeated_and_what_somebody_did_is_not() -> None:
    desk = Desk()
    desk.turn([step(0, "T0")], MINUTE)
    assert desk.turn([], 13 * HOUR) == [("updated", "repeated", ["T0"])]
    assert desk.turn([], 25 * HOUR) == [("updated", "repeated", ["T0"])]
    desk.acknowledged = {"T0-negative"}
    assert desk.turn([step(26 * HOUR, "T0", "updated")], 50 * HOUR) == []
    assert desk.settled["T0-negative", 2].reason is PageReason.ACKNOWLEDGED
    worse = step(51 * HOUR, "T0", "updated", sequence=3, severity="critical")
    assert desk.turn([worse], 52 * HOUR) == [("updated", "stronger", ["T0"])]


def test_a_storm_becomes_a_digest_that_says_what_was_held_back() -> None:
    """Each company without a sector is a page of its own: the hour takes three, the rest comes in one message."""
    rules = parse_rules({"budget": {"alerts_per_hour_max": 3}, "paging": {"market_members_min": 99}}, "test")
    desk = Desk(rules)
    storm = [step(n * MINUTE, f"X{n}", severity="high" if n == 7 else "low") for n in range(10)]
    told = desk.turn(storm, HOUR)
    assert [who for _, _, who in told[:3]] == [["X0"], ["X1"], ["X2"]]
    assert len(told) == 4
    digest = desk.messages[3]
    assert (digest.event, digest.severity) == ("alert.digest", "high")
    assert digest.body is not None
    assert digest.body["held_back"] == 7
    assert members(digest)[0] == "X7", "the loudest first"
    assert desk.settled["X5-negative", 1] == Settled(
        alert="X5-negative", sequence=1, verdict=Verdict.DIGESTED, reason=PageReason.HOUR_FULL, page="X5-negative"
    )
    assert desk.turn([step(2 * HOUR, "X5", "updated")], 3 * HOUR) == [("opened", "opened", ["X5"])]


def test_no_hour_has_more_messages_than_the_maximum() -> None:
    rules = parse_rules({"budget": {"alerts_per_hour_max": 4}, "paging": {"market_members_min": 99}}, "test")
    desk = Desk(rules)
    desk.turn([step(n * 97 * SECOND, f"X{n}") for n in range(300)], 2 * DAY)
    moments = [m.at_ms for m in desk.messages if m.event != "alert.digest"]
    assert all(sum(at_ms - HOUR < other <= at_ms for other in moments) <= 4 for at_ms in moments)
    told = {who for m in desk.messages for who in members(m)}
    assert told == {f"X{n}" for n in range(300)}, "nobody is forgotten: told one by one or in a digest"


# The watch role's part.


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'paging.db'}")
    yield opened
    opened.close()


class Sink:
    name = "desk"

    def wants(self, _alert: Alert, /) -> bool:
        return True

    def hears(self, _topic: str, _severity: str, /) -> bool:
        return True


def paging(store: Store, clock: ManualClock) -> Paging:
    return Paging(
        store=store,
        rules=RULES,
        sectors=SECTORS,
        receivers=[Sink()],
        topic_mentions="mentions",
        clock=clock,
        metrics=Metrics(),
    )


def write(store: Store, partition: int, steps: Sequence[Step], *, watermark: int, following: int) -> None:
    with store.transaction() as t:
        t.advance_offset(
            "mentions",
            partition,
            expected=following - 1 if following > 1 else None,
            following=following,
            watermark_ms=START_MS + watermark,
            state=b"",
        )
        t.record_transitions([s.transition for s in steps])


def test_a_page_waits_for_the_slower_partition_and_holds_its_members_from_both(store: Store) -> None:
    clock = ManualClock(START_MS)
    pager = paging(store, clock)
    write(store, 0, [step(MINUTE, "T0")], watermark=10 * MINUTE, following=1)
    write(store, 1, [], watermark=MINUTE, following=1)
    assert pager.turn(hurry=True) == 0, "the other partition has not come so far"
    write(store, 1, [step(MINUTE + 5 * SECOND, "T1")], watermark=10 * MINUTE, following=2)
    assert pager.turn(hurry=True) == 1
    (row,) = store.deliveries()
    (claimed,) = store.claim_deliveries("desk", owner="o", now_ms=START_MS, lease_ms=1, limit=9)
    assert (row.alert_id, claimed.event) == ("T0-negative", "alert.opened")
    body = msgspec.json.decode(claimed.alert_json, type=Alert)
    assert [m["entity"] for m in body.details["group"]["members"]] == ["T0", "T1"]
    assert [d.page_id for d in store.decisions("T1-negative")] == ["T0-negative"]


def test_a_step_that_waits_for_its_group_is_taken_once(store: Store) -> None:
    clock = ManualClock(START_MS)
    pager = paging(store, clock)
    rules = RULES.model_copy(update={"paging": RULES.paging.model_copy(update={"group_wait_s": 600.0})})
    pager._rules = rules
    write(store, 0, [step(MINUTE, "T0"), step(2 * MINUTE, "T0", "resolved")], watermark=5 * MINUTE, following=1)
    for _ in range(3):
        assert pager.turn(hurry=True) == 0
    assert {d.verdict for d in store.decisions("T0-negative")} == {"pending"}
    write(store, 0, [], watermark=20 * MINUTE, following=2)
    assert pager.turn(hurry=True) == 0
    assert {(d.verdict, d.reason) for d in store.decisions("T0-negative")} == {("silent", "ended_untold")}


def test_two_processes_page_once(store: Store) -> None:
    clock = ManualClock(START_MS)
    one, other = paging(store, clock), paging(store, clock)
    write(store, 0, [step(MINUTE, "T0")], watermark=10 * MINUTE, following=1)
    state = store.paging_state()
    assert one.turn(hurry=True) == 1
    late = store.paging_state
    store.paging_state = lambda _keeper=1: state  # type: ignore[method-assign]  # it had read before the first one wrote
    waiting = store.waiting_steps
    store.waiting_steps = lambda _until, *, limit: [step(MINUTE, "T0")]  # type: ignore[method-assign,assignment,return-value]
    assert other.turn(hurry=True) == 0
    store.paging_state, store.waiting_steps = late, waiting  # type: ignore[method-assign]
    assert other.turn(hurry=True) == 0
    assert len(store.deliveries()) == 1


@pytest.mark.parametrize("steps_max", [1, 2, 5, 99])
def test_a_backlog_of_steps_is_paged_as_if_it_had_been_read_at_once(store: Store, steps_max: int) -> None:
    clock = ManualClock(START_MS)
    pager = paging(store, clock)
    pager._policy = PagingPolicy(steps_max=steps_max)
    steps = [s for s in STEPS if s.transition.at_ms - START_MS < 30 * MINUTE]
    write(store, 0, sorted(steps, key=lambda s: s.transition.at_ms), watermark=3 * HOUR, following=1)
    for _ in range(2 * len(steps)):
        pager.turn(hurry=True)
    assert store.waiting_steps(START_MS + 3 * HOUR) == []
    whole = page_history([s.transition for s in steps], rules=RULES, sectors=SECTORS)
    assert sorted((d.alert_id, d.sequence, d.change) for d in store.deliveries()) == sorted(
        (m.page, m.sequence, m.change) for m in whole.messages
    )


@pytest.mark.parametrize(
    ("behind", "waited_s", "holds"),
    [(10 * MINUTE, 0.0, True), (10 * MINUTE, 16.0, False), (MINUTE, 16.0, True)],
)
def test_a_silent_partition_holds_others_back_only_while_it_is_close(
    store: Store, behind: int, waited_s: float, holds: bool
) -> None:
    clock = ManualClock(START_MS)
    pager = paging(store, clock)
    marks = [
        StoredMark(partition=0, next=5, watermark_ms=START_MS + HOUR),
        StoredMark(partition=1, next=5, watermark_ms=START_MS + HOUR - behind),
        StoredMark(partition=2, next=0, watermark_ms=None),
    ]
    pager.reached_ms(marks)
    clock.advance(waited_s)
    assert pager.reached_ms(marks) == START_MS + HOUR - (behind if holds else 0)


def test_a_stored_mute_time_is_the_silence_that_was_asked_for(store: Store) -> None:
    store.add_silence(
        author="ann",
        reason="nights",
        created_at_ms=1,
        starts_at_ms=2,
        ends_at_ms=3,
        sector="Banks",
        severity_max="high",
        days="sat,sun",
        start_minute=0,
        until_minute=0,
    )
    (row,) = store.silences()
    found = silence_of(row)
    assert found.hours == Hours(days=(5, 6), start_minute=0, until_minute=0)
    assert (found.sector, found.severity_max, found.starts_ms, found.ends_ms) == ("Banks", "high", 2, 3)
