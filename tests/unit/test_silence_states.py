"""No news, a dead feed, lag and degraded scoring are told apart, and none of them is shown as calm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.alerting import Feed, Finding, Hearing, KeeperState, Shares, Trouble, parse_rules
from monitor.alerting.silence_states import (
    EVERY,
    LagTrend,
    Pace,
    TroubleReason,
    clock_ms,
    feed_findings,
    hear,
    keep_watch,
    lag_finding,
    late_finding,
    pace,
    scoring_findings,
)
from monitor.clock import ManualClock
from monitor.loops.watchkeeping import Watchkeeping, WatchkeepingPolicy, feeds_of
from monitor.records import Alert, ScoredMention, mention_id
from monitor.store import Store, StoredFeedHour
from monitor.telemetry import Health, Metrics

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MONDAY_MS = 1_800_000_000_000 - 1_800_000_000_000 % DAY + 3 * DAY
MONDAY_H = MONDAY_MS // HOUR
RULES = parse_rules({}, "test").health


def rows(source: str, per_hour: float, hours: range, *, channel: str = "news", behind: int = 0) -> list[StoredFeedHour]:
    """So many mentions in each of these hours after Monday, the last at its end, heard so much later."""
    rng = Random(source)
    found = []
    for hour in hours:
        count = round(per_hour) if per_hour >= 1 else int(rng.random() < per_hour)
        if count:
            newest_ms = (MONDAY_H + hour + 1) * HOUR - 1
            found.append(
                StoredFeedHour(
                    channel=channel,  # type: ignore[arg-type]
                    source=source,
                    hour=MONDAY_H + hour,
                    mentions=count,
                    newest_ms=newest_ms,
                    seen_at_ms=newest_ms + behind,
                )
            )
    return found


def feed(per_hour: float, hours: range, *, source: str = "wire", behind: int = 0) -> Feed:
    return feeds_of(rows(source, per_hour, hours, behind=behind))[0]


def at(hour: float) -> int:
    return MONDAY_MS + round(hour * HOUR)


# What a silence means.


@pytest.mark.parametrize(
    ("per_hour", "silent_h", "hearing"),
    [
        (20, 0.05, Hearing.AS_USUAL),
        (20, 6, Hearing.SILENT),
        (5, 1, Hearing.QUIET),
        (5, 12, Hearing.SILENT),
        (0.1, 6, Hearing.AS_USUAL),
    ],
)
def test_a_silence_is_judged_by_the_habit_of_its_source(per_hour: float, silent_h: float, hearing: Hearing) -> None:
    own = feed(per_hour, range(4 * 24))
    assert hear(own, at_ms=own.newest_ms + round(silent_h * HOUR), rules=RULES).hearing is hearing


def test_of_a_young_source_nothing_is_said() -> None:
    own = feed(50, range(48))
    assert hear(own, at_ms=own.newest_ms + 2 * DAY, rules=RULES).hearing is Hearing.UNKNOWN


def test_a_night_that_is_always_quiet_is_no_silence_and_a_day_that_never_was_is() -> None:
    """A source of office hours: after 18:00 nothing is expected until 8:00 of the next working day."""
    office = [hour for day in range(4) for hour in range(day * 24 + 8, day * 24 + 18)]
    own = feeds_of([row for hour in office for row in rows("wire", 10, range(hour, hour + 1))])[0]
    assert hear(own, at_ms=at(4 * 24 + 7.9), rules=RULES).hearing is Hearing.AS_USUAL
    assert hear(own, at_ms=at(4 * 24 + 16), rules=RULES).hearing is Hearing.SILENT


def test_the_first_weekend_of_a_record_is_no_silence() -> None:
    own = feed(10, range(5 * 24))  # Monday to Friday
    assert hear(own, at_ms=at(6.9 * 24), rules=RULES).hearing is Hearing.AS_USUAL
    assert hear(own, at_ms=at(7 * 24 + 8), rules=RULES).hearing is Hearing.SILENT


def test_a_silent_channel_speaks_for_its_sources_and_a_silent_source_for_itself() -> None:
    whole = range(96)
    news = [*rows("a", 10, whole), *rows("b", 10, whole)]
    social = rows("x", 10, range(108), channel="social")
    (found,) = feed_findings(feeds_of([*news, *social]), at_ms=at(108), rules=RULES)
    assert (found.subject, found.reason, found.severity) == ("news", TroubleReason.CHANNEL_SILENT, "critical")
    (found,) = feed_findings(
        feeds_of([*rows("a", 10, range(108)), *rows("b", 10, whole), *social]), at_ms=at(108), rules=RULES
    )
    assert (found.subject, found.reason) == ("news/b", TroubleReason.SOURCE_SILENT)
    assert found.facts["silent_s"] == 12 * 3_600
    assert "no data, not no news" in found.brief


# Which clock counts.


def test_a_replay_of_the_past_that_has_ended_is_no_silence() -> None:
    old = feeds_of(rows("wire", 20, range(96), behind=900 * DAY))
    now_ms = at(96) + 900 * DAY + 3 * DAY
    assert pace(old, rules=RULES) is Pace.HISTORY
    at_ms = clock_ms(old, now_ms=now_ms, drained=True, rules=RULES)
    assert at_ms == max(each.newest_ms for each in old)
    assert feed_findings(old, at_ms=at_ms, rules=RULES) == []
    assert late_finding(old, rules=RULES) == []


def test_a_live_stream_that_stops_is_a_silence_unless_it_is_our_own_backlog() -> None:
    live = feeds_of(rows("wire", 20, range(96), behind=MINUTE))
    now_ms = at(96) + 6 * HOUR
    waiting = clock_ms(live, now_ms=now_ms, drained=False, rules=RULES)
    assert feed_findings(live, at_ms=waiting, rules=RULES) == []
    drained = clock_ms(live, now_ms=now_ms, drained=True, rules=RULES)
    assert [found.subject for found in feed_findings(live, at_ms=drained, rules=RULES)] == ["news"]


def test_mentions_that_are_heard_late_are_lag_and_much_later_are_history() -> None:
    (found,) = late_finding(feeds_of(rows("wire", 20, range(96), behind=40 * MINUTE)), rules=RULES)
    assert (found.trouble, found.reason, found.facts) == (Trouble.LAG, TroubleReason.HEARD_LATE, {"behind_s": 2_400})
    assert late_finding(feeds_of(rows("wire", 20, range(96), behind=5 * MINUTE)), rules=RULES) == []
    assert late_finding(feeds_of(rows("wire", 20, range(96), behind=3 * DAY)), rules=RULES) == []


def test_a_backlog_that_shrinks_is_no_lag_and_one_that_does_not_is() -> None:
    trend = LagTrend(RULES)
    assert not any(trend.observe(100_000 - k, 60.0 * k) for k in range(100))
    assert not trend.observe(99_901, 6_000.0)
    assert not trend.observe(99_950, 6_200.0)
    assert trend.observe(120_000, 6_300.0)
    assert not trend.observe(0, 6_301.0)
    assert not trend.observe(5, 6_302.0)


# Scoring.


def test_scoring_is_degraded_by_another_engine_by_abstaining_and_by_dead_letters() -> None:
    before = Shares(mentions=5_000, abstained=150, dead_letters=20)
    calm = Shares(mentions=400, abstained=14, dead_letters=2)
    assert scoring_findings(calm, before, rules=RULES) == []

    def reasons(**facts: int) -> list[TroubleReason]:
        return [f.reason for f in scoring_findings(msgspec.structs.replace(calm, **facts), before, rules=RULES)]

    assert reasons(other_engine=3) == [TroubleReason.OTHER_ENGINE]
    assert reasons(abstained=120) == [TroubleReason.ABSTAINING_MORE]
    assert reasons(dead_letters=100) == [TroubleReason.MORE_DEAD_LETTERS]
    assert reasons(mentions=20, abstained=20) == [], "twenty are too few to say anything"
    young = Shares(mentions=300, abstained=3)
    assert scoring_findings(msgspec.structs.replace(calm, abstained=120), young, rules=RULES) == [], (
        "nor is a young record"
    )


# The life of a trouble.


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=80))
def test_a_trouble_does_not_flap_and_survives_restarts(looks: list[tuple[int, bool]]) -> None:
    """Told after it has lasted, over after it has been clear: messages alternate and are never closer than the calm."""
    finding = lag_finding("mentions/0", 9)
    whole, broken = KeeperState(), KeeperState()
    told, again = [], []
    now_ms = 0
    for wait_s, present in looks:
        now_ms += wait_s * 1000
        found = [finding] if present else []
        told += keep_watch(whole, found, now_ms=now_ms, rules=RULES)
        broken = msgspec.msgpack.decode(msgspec.msgpack.encode(broken), type=KeeperState)
        again += keep_watch(broken, found, now_ms=now_ms, rules=RULES)
    assert told == again
    assert [m.change for m in told] == ["opened", "resolved"] * (len(told) // 2) + ["opened"] * (len(told) % 2)
    for one, other in pairwise(told):
        if one.change == "resolved":
            assert other.at_ms - one.at_ms >= RULES.pending_s * 1000
        else:
            assert other.at_ms - one.at_ms >= RULES.calm_s * 1000
            assert other.page == one.page


def test_another_process_says_nothing_about_a_partition_that_is_not_its_own() -> None:
    state = KeeperState()
    for now_ms in (0, 60_000):
        keep_watch(state, [lag_finding("mentions/0", 9)], now_ms=now_ms, rules=RULES, mine={"lag mentions/0"})
    other = {"lag mentions/1"}
    for now_ms in (100_000, 900_000):
        assert keep_watch(state, [], now_ms=now_ms, rules=RULES, mine=other) == []
    assert "lag mentions/0" in state.known
    messages = [
        m
        for now_ms in (1_000_000, 1_400_000)
        for m in keep_watch(state, [], now_ms=now_ms, rules=RULES, mine={"lag mentions/0"})
    ]
    assert [m.change for m in messages] == ["resolved"]


# The watch role's part.


class Operators:
    name = "operators"

    def wants(self, _alert: Alert, /) -> bool:
        return False

    def hears(self, topic: str, _severity: str, /) -> bool:
        return topic == "operator"


class Analysts(Operators):
    name = "analysts"

    def hears(self, topic: str, _severity: str, /) -> bool:
        return topic == "alerts"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'health.db'}")
    yield opened
    opened.close()


def spoken(hour: float, number: int) -> ScoredMention:
    return ScoredMention(
        id=mention_id(f"d:{number}", "AAA"),
        entity="AAA",
        document=f"d:{number}",
        source="wire",
        channel="news",
        published_at_ms=at(hour),
        text="t",
        probabilities=(0.1, 0.8, 0.1),
        polarity=0.0,
        model="m",
        scored_at_ms=0,
    )


class Rig:
    """A watchkeeper on a real database, with a clock that moves when told."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock, self.metrics = store, ManualClock(at(0)), Metrics()
        self.health = Health({})
        self.behind_s: float | None = None
        self.lag: Mapping[tuple[str, int], int] = {("mentions", 0): 0}
        self.keeper = Watchkeeping(
            store=store,
            rules=parse_rules({}, "test"),
            receivers=[Operators(), Analysts()],
            clock=self.clock,
            metrics=self.metrics,
            show=self.health.show_degraded,
            policy=WatchkeepingPolicy(every_s=60.0),
        )

    def pass_to(self, hour: float) -> int:
        """Look around once a quarter of an hour until then."""
        told = 0
        while self.clock.now_ms() < at(hour):
            self.clock.advance(900)
            steady_ms = round(self.clock.monotonic_s() * 1000)
            settled = None if self.behind_s is None else {"news/0": steady_ms - round(self.behind_s * 1000)}
            told += self.keeper.turn(lambda: self.lag, settled)
        return told

    def speak(self, first: int, last: int) -> None:
        with self.store.transaction() as t:
            for hour in range(first, last):
                mentions = [spoken(hour + k / 20, hour * 20 + k) for k in range(20)]
                t.note_heard(mentions, 0, now_ms=mentions[-1].published_at_ms + MINUTE)


def test_a_dead_feed_is_told_to_operators_shown_and_over_when_it_speaks_again(store: Store) -> None:
    rig = Rig(store)
    rig.speak(0, 96)
    rig.clock.advance((at(96) - at(0)) / 1000)
    assert rig.pass_to(97) == 0
    assert rig.health.degraded == ()
    assert rig.pass_to(102) == 1
    (row,) = store.deliveries()
    assert (row.receiver, row.change) == ("operators", "opened")
    (claimed,) = store.claim_deliveries("operators", owner="o", now_ms=rig.clock.now_ms(), lease_ms=1, limit=9)
    assert claimed.event == "operator.feed_down"
    body = msgspec.json.decode(claimed.alert_json)
    assert (body["subject"], body["reason"], body["resolved_at"]) == ("news", "channel_silent", None)
    assert rig.health.degraded[0].startswith("feed_down news: news has said nothing")
    assert 'operator_troubles{trouble="feed_down"} 1.0' in rig.metrics.exposition().decode()
    rig.speak(101, 102)
    assert rig.pass_to(103) == 1
    assert rig.health.degraded == ()
    assert [(s.change, s.trouble, s.reason) for s in store.operator_alerts()] == [
        ("resolved", "feed_down", "over"),
        ("opened", "feed_down", "channel_silent"),
    ]


def test_a_watchkeeper_that_starts_again_does_not_tell_the_same_again(store: Store) -> None:
    rig = Rig(store)
    rig.speak(0, 96)
    rig.clock.advance((at(96) - at(0)) / 1000)
    rig.pass_to(102)
    other = Rig(store)
    other.clock.advance((at(102) - at(0)) / 1000)
    assert other.pass_to(110) == 0
    assert other.health.degraded, "but it shows it"
    assert len(store.deliveries()) == 1


def test_our_own_backlog_is_lag_and_not_a_dead_feed(store: Store) -> None:
    rig = Rig(store)
    rig.speak(0, 96)
    rig.clock.advance((at(96) - at(0)) / 1000)
    rig.lag = {("mentions", 0): 7}
    assert rig.pass_to(102) == 1
    assert [s.trouble for s in store.operator_alerts()] == ["lag"]
    assert rig.health.degraded[0].startswith("lag mentions/0: 7 messages wait")


@pytest.mark.parametrize(("behind_s", "told"), [(5.0, ["feed_down"]), (120.0, []), (3_000.0, ["lag"])])
def test_a_silence_behind_a_slow_score_is_not_a_dead_feed(store: Store, behind_s: float, told: list[str]) -> None:
    rig = Rig(store)
    rig.speak(0, 96)
    rig.clock.advance((at(96) - at(0)) / 1000)
    rig.behind_s = behind_s
    rig.pass_to(102)
    assert [s.trouble for s in store.operator_alerts()] == told


def test_a_look_around_is_a_finding_only_while_it_lasts() -> None:
    finding = Finding(
        trouble=Trouble.FEED_DOWN,
        subject="news",
        reason=TroubleReason.CHANNEL_SILENT,
        severity="critical",
        brief="b",
    )
    state = KeeperState()
    assert keep_watch(state, [finding], now_ms=0, rules=RULES) == []
    assert keep_watch(state, [], now_ms=30_000, rules=RULES) == []
    assert state.known == {}
    assert feeds_of(rows("a", 1, range(3)))[-1].source == EVERY
