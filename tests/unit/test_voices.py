"""Sums that can't be bought: brigades, floods of one wire, loud authors, followers, reprints."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.alerting import Rules, parse_rules
from monitor.backtest import BacktestResult, run_backtest
from monitor.loops.core import PartitionCore, WatchPolicy
from monitor.records import ScoredMention
from tests.unit.test_core import START_MS, history
from tests.unit.test_core import mention as item
from tests.voices import HOUR_MS, brigade, chatter, said, stories, wires

RULES = parse_rules({}, "test")
EVENT_MS = START_MS + 264 * HOUR_MS + 30 * 60_000


def run(told: Sequence[ScoredMention], rules: Rules = RULES) -> BacktestResult:
    return run_backtest(told, rules=rules, partitions=1)


def fired(result: BacktestResult) -> list[str]:
    """Kinds of alerts on BBB since shortly before the event."""
    return [
        a.kind
        for t in result.transitions
        if t.change == "opened"
        and (a := t.alert).entity == "BBB"
        and t.at_ms > EVENT_MS - HOUR_MS
        and t.at_ms < EVENT_MS + 8 * HOUR_MS
    ]


def voices(result: BacktestResult) -> float:
    return sum(
        r.effective_n for r in result.buckets if r.entity == "BBB" and EVENT_MS <= r.start_ms < EVENT_MS + 8 * HOUR_MS
    )


@pytest.mark.parametrize("moulds", [1, 12])
@pytest.mark.parametrize("hours", [1.0, 6.0])
@pytest.mark.parametrize("per_day", [4.0, 40.0])
def test_a_brigade_fires_nothing_and_is_told_as_what_it_is(moulds: int, hours: float, per_day: float) -> None:
    rng = random.Random(4)
    quiet = chatter(rng, start_ms=START_MS, days=12, per_day=per_day)
    alone = run(quiet)
    result = run([*quiet, *brigade(rng, start_ms=EVENT_MS, hours=hours, moulds=moulds)])
    assert fired(result) == fired(alone), "the quiet talk may fire by chance, for that is what a budget is"
    assert not [
        t for t in result.transitions if t.alert.entity == "BBB" and t.at_ms >= EVENT_MS and t.change == "opened"
    ]
    assert voices(result) - voices(alone) < 20
    (notice,) = result.notices
    assert (notice.kind, notice.entity, notice.channel) == ("brigade", "BBB", "social")
    assert 400 <= notice.accounts <= 500
    assert notice.voices < 10
    assert EVENT_MS <= notice.since_ms < notice.last_ms <= EVENT_MS + hours * HOUR_MS
    assert (
        sum(r.raw_n for r in result.buckets if r.entity == "BBB")
        == sum(r.raw_n for r in alone.buckets if r.entity == "BBB") + 500
    )


def test_the_same_number_of_known_accounts_with_words_of_their_own_fires() -> None:
    rng = random.Random(3)
    quiet = chatter(rng, start_ms=START_MS, days=12, per_day=40.0)
    outcry = [
        said(f"own:{k}", "BBB", EVENT_MS + k * 60_000, text, polarity=-0.85, author=author)
        for k, (author, text) in enumerate(
            dict.fromkeys((m.author, f"{m.text} o{k}") for k, m in enumerate(quiet[:40]) if m.author is not None)
        )
    ]
    assert fired(run([*quiet, *outcry])) != []


def test_an_outcry_of_accounts_that_nobody_knows_waits() -> None:
    """Under a budget that lets a few voices fire, regulars are heard at once, and newcomers turn nothing for an hour."""
    rng = random.Random(8)
    quiet = chatter(rng, start_ms=START_MS, days=12, per_day=8.0, regulars=12)
    rules = parse_rules({"budget": {"false_alerts_per_day": 10.0, "tone": 0, "drift": 0, "divergence": 0}}, "test")

    def outcry(author: str) -> BacktestResult:
        told = [
            said(f"own:{k}", "BBB", EVENT_MS + k * 90_000, text, polarity=-0.85, author=f"{author}{k % 12}")
            for k, text in enumerate(" ".join(rng.choices([f"z{n}" for n in range(400)], k=9)) for _ in range(8))
        ]
        return run([*quiet, *told], rules)

    def soon(result: BacktestResult) -> list[str]:
        return [t.change for t in result.transitions if t.alert.entity == "BBB" and 0 < t.at_ms - EVENT_MS < HOUR_MS]

    assert "opened" in soon(outcry("u"))
    assert soon(outcry("stranger")) == []


@pytest.mark.parametrize(("sources", "fires"), [(["small"], False), (["big", "mid", "small", "other"], True)])
def test_one_small_wire_alone_makes_no_burst(sources: list[str], fires: bool) -> None:
    rng = random.Random(6)
    quiet = wires(rng, start_ms=START_MS, days=12, shares={"big": 4, "mid": 3, "other": 2, "small": 1})
    alone, rng = run(quiet), random.Random(16)
    result = run([*quiet, *stories(rng, start_ms=EVENT_MS, minutes=40, sources=sources)])
    assert (fired(result) != []) == fires
    assert (voices(result) - voices(alone) > 20) == fires
    for step in result.transitions:
        if step.alert.entity == "BBB" and step.at_ms > EVENT_MS:
            assert step.alert.details["top_sources"]
            assert step.alert.details["fires_without_top_sources"] in (True, False)


def test_where_there_is_but_one_wire_it_is_believed() -> None:
    rng = random.Random(4)
    quiet = wires(rng, start_ms=START_MS, days=12, shares={"only": 8})
    assert fired(run([*quiet, *stories(rng, start_ms=EVENT_MS, minutes=40, sources=["only"])])) != []


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 200), st.integers(1, 60_000))
def test_no_author_has_more_than_two_voices(posts: int, every_ms: int) -> None:
    """Σ 1 / (1 + k)² < 1.65, however many and however different the posts."""
    told = [
        said(f"x:{k}", "BBB", START_MS + k * every_ms, f"a{k} b{k} c{k} d{k} e{k}", polarity=-0.2, author="loud")
        for k in range(posts)
    ]
    assert sum(row.effective_n for row in run(told).buckets) < 1.65


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_followers_buy_nothing(rng: random.Random) -> None:
    told = [msgspec.structs.replace(m, author=f"a{k % 7}") for k, m in enumerate(history())]
    famous = [msgspec.structs.replace(m, author_followers=rng.randrange(10**8)) for m in told]

    def decided(result: BacktestResult) -> list[tuple[str, str, int]]:
        return [(t.alert.id, t.change, t.at_ms) for t in result.transitions]

    assert decided(run(told)) == decided(run(famous))
    assert run(told).buckets == run(famous).buckets


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 300), st.sampled_from(["{}", "UPDATE 1-{}", "RT @wire: {}", "{} https://t.example/z"]))
def test_reprints_decide_what_one_story_decides(copies: int, form: str) -> None:
    """The same alerts at the same moments with the same voices; only the raw counts differ, and both are kept."""
    quiet, text = history(), "Regulator opens probe into the accounts of the company after auditor resigns"
    base_ms = START_MS + 80 * HOUR_MS
    one = [item("BBB", base_ms, 2_000, text=text)]
    more = [item("BBB", base_ms + k * 10_000, 2_000 + k, text=form.format(text)) for k in range(1, copies)]
    rules = parse_rules({"budget": {"false_alerts_per_day": 20.0}}, "test")
    single, reprinted = run([*quiet, *one], rules), run([*quiet, *one, *more], rules)

    def decided(result: BacktestResult) -> list[tuple[str, str, str, float, float]]:
        return [
            (t.alert.id, t.change, t.reason, t.alert.effective_n, t.alert.p_value)
            for t in result.transitions
            if t.change == "opened"
        ]

    assert decided(reprinted) == decided(single)
    assert sum(r.effective_n for r in reprinted.buckets) == pytest.approx(sum(r.effective_n for r in single.buckets))
    assert sum(r.raw_n for r in reprinted.buckets) == sum(r.raw_n for r in single.buckets) + copies - 1


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=3))
def test_a_restart_amid_a_brigade_changes_nothing(cuts: list[int]) -> None:
    """Newcomers, room and brigade are read back with the rest."""
    rng = random.Random(5)
    told = sorted(
        [
            *chatter(rng, start_ms=START_MS, days=4, per_day=30.0, regulars=300),
            *brigade(rng, start_ms=START_MS + 70 * HOUR_MS, hours=6.0, posts=200),
        ],
        key=lambda m: (m.published_at_ms, m.id),
    )
    whole, broken = played(told, []), played(told, sorted(cuts))
    assert broken == whole
    assert any(whole[1])


def played(told: Sequence[ScoredMention], cuts: Sequence[int]) -> tuple[list[object], list[object], bytes]:
    """Transitions, notices and state; the process dies after each cut and comes back."""
    policy = WatchPolicy.of(RULES, partitions=1)
    core, states = PartitionCore(policy=policy, rules=RULES), {}
    transitions: list[object] = []
    notices: dict[tuple[str, int], object] = {}
    for start, end in zip([0, *cuts], [*cuts, len(told)], strict=True):
        for each in told[start:end]:
            core.take(each, origin="", now_ms=None)
        outcome = core.advance() if end < len(told) else core.finish()
        states.update(outcome.entity_states)
        transitions += outcome.transitions
        notices.update({(n.entity, n.since_ms): n for n in outcome.notices})
        if end < len(told):
            since_ms = (core.watermark_ms or 0) - policy.reach_back_ms
            core = PartitionCore.restore(
                policy=policy,
                rules=RULES,
                names={},
                state=core.state(),
                watermark_ms=core.watermark_ms,
                entity_states=states,
                recent=[m for m in told[:end] if m.published_at_ms >= since_ms],
            )
    return transitions, list(notices.values()), core.state()


def test_when_everything_falls_the_index_fires_and_its_members_stay_under_it() -> None:
    """Twelve quiet days, then an hour of bad news about the index, and a little later about every company."""
    rng = random.Random(9)
    members = [f"C{n}" for n in range(10)]
    told = []

    def tell(entity: str, at_ms: int, polarity: float) -> None:
        text = " ".join(rng.choices([f"v{n}" for n in range(500)], k=9))
        told.append(
            said(f"n{len(told)}", entity, at_ms, text, polarity=polarity, source=f"s{len(told) % 7}", channel="news")
        )

    for entity in ["SPY", *members]:
        for _ in range(60):
            tell(entity, START_MS + rng.randrange(264 * HOUR_MS), rng.choice((-0.4, 0.0, 0.0, 0.4)))
    for minute in range(0, 40, 2):
        tell("SPY", EVENT_MS + minute * 60_000, -0.85)
    for index, entity in enumerate(members):
        for k in range(8):
            tell(entity, EVENT_MS + (30 + 3 * k) * 60_000 + index * 1_000, -0.8)
    rules = parse_rules({"paging": {"market_entities": ["SPY"]}}, "test")
    result = run_backtest(told, rules=rules, sectors=dict.fromkeys(members, "Things"), partitions=1)
    opened = [t.alert for t in result.transitions if t.change == "opened" and t.at_ms > EVENT_MS]
    assert opened[0].entity == "SPY"
    members_told = {step.alert for step in result.told.settled if step.reason == "under_market_alert"}
    assert len(opened) > 2
    assert len(members_told) >= len(opened) - 2


@pytest.mark.parametrize("hours", [1.0, 6.0])
def test_a_brigade_beside_talk_that_nearly_fires_adds_no_alert(hours: float) -> None:
    """Its own posts make newcomers usual for a day, and are a large part of what is said before they can echo."""
    rng = random.Random(5)
    quiet = chatter(rng, start_ms=START_MS, days=12, per_day=40.0)
    result = run([*quiet, *brigade(rng, start_ms=EVENT_MS, hours=hours, moulds=1)])
    assert fired(result) == fired(run(quiet))
    assert result.notices
