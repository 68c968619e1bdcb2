"""One voice per story: copies, other reports, choruses, newcomers, sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.windows import (
    Chorus,
    ChorusPolicy,
    Newcomers,
    NoveltyMemory,
    NoveltyPolicy,
    Shares,
    Tellers,
    Told,
    fingerprint,
    is_copy,
)
from tests.bench.novelty import Pair, figures

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PAIRS = Path(__file__).parents[1] / "data" / "novelty_pairs.txt"
POLICY = NoveltyPolicy()
WORDS = [f"{a}{b}" for a in ("ba", "ko", "mi", "tru", "sel") for b in ("ran", "dop", "lim", "ket", "vus", "jor")]
texts = st.lists(st.sampled_from(WORDS), min_size=6, max_size=14, unique=True).map(" ".join)


def pairs() -> list[Pair]:
    lines = [line.split(" | ") for line in PAIRS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [Pair(one.strip(), other.strip(), label.strip()) for label, one, other in lines]


def test_copies_are_told_from_other_reports_and_other_stories() -> None:
    found = figures(pairs())
    print(f"precision {found['precision']}, recall {found['recall']} on {found['pairs']} invented pairs")  # noqa: T201
    assert found["pairs"] >= 60
    assert found["precision"] >= 0.97
    assert found["recall"] >= 0.95


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tarn gas unit back in service", "Tarn gas unit shut for service"),
        ("Norland will not ground Sable vans", "Norland will ground Sable vans"),
        ("Kestrel to raise prices by 5 percent", "Kestrel to raise prices by 9 percent"),
        ("Regulator clears Vale", "Regulator probes Vale"),
    ],
)
def test_one_other_word_or_figure_in_a_short_headline_is_another_fact(one: str, other: str) -> None:
    assert not is_copy(fingerprint(one), fingerprint(other), POLICY)


@given(texts, st.integers(0, 10**9))
def test_whatever_is_said_again_within_the_horizon_is_a_copy_and_nothing_new(text: str, at_ms: int) -> None:
    memory = NoveltyMemory(POLICY)
    first = memory.hear(at_ms, text, None, None)
    again = memory.hear(at_ms, f"RT @desk: {text} https://t.example/x", None, None)
    assert first.fresh == 1.0
    assert again.heard.root is first.heard
    assert again.fresh == 0.0


@given(texts, texts)
def test_being_a_copy_does_not_depend_on_which_came_first(one: str, other: str) -> None:
    assert is_copy(fingerprint(one), fingerprint(other), POLICY) == is_copy(
        fingerprint(other), fingerprint(one), POLICY
    )


@given(st.lists(st.tuples(st.integers(0, 2 * DAY_MS), texts, st.sampled_from(["a", "b", None])), max_size=30))
def test_memory_forgets_everything_it_learned(told: list[tuple[int, str, str | None]]) -> None:
    """What is left after the horizon is what a new memory has: nothing."""
    memory = NoveltyMemory(POLICY)
    for at_ms, text, author in sorted(told, key=lambda each: each[0]):
        memory.hear(at_ms, text, author, None)
    memory.forget_before(4 * DAY_MS)
    assert len(memory) == 0
    for _, text, author in told:
        hearing = memory.hear(5 * DAY_MS, text, author, None)
        assert (hearing.fresh, hearing.spoken, hearing.crowd) == (1.0, 0, 0)
        assert hearing.heard.root is hearing.heard
        memory.forget_before(5 * DAY_MS + 1)


@given(st.lists(st.tuples(st.integers(0, DAY_MS), texts), min_size=1, max_size=25), st.integers(0, DAY_MS))
def test_a_verdict_depends_on_the_horizon_before_it_alone(told: list[tuple[int, str]], gap_ms: int) -> None:
    """A memory that heard only the last day decides what one that heard everything decides."""
    told = sorted(told)
    at_ms = told[-1][0] + gap_ms
    whole, short = NoveltyMemory(POLICY), NoveltyMemory(POLICY)
    for each_ms, text in told:
        whole.hear(each_ms, text, None, None)
        if each_ms >= at_ms - DAY_MS:
            short.hear(each_ms, text, None, None)
    one, other = (memory.hear(at_ms, told[0][1], None, None) for memory in (whole, short))
    assert (one.fresh, one.spoken, one.crowd) == (other.fresh, other.spoken, other.crowd)
    assert (one.heard.root is one.heard) == (other.heard.root is other.heard)


@given(texts, st.integers(1, DAY_MS), st.integers(1, DAY_MS))
def test_novelty_falls_with_repetition_and_returns_with_age(text: str, one_ms: int, other_ms: int) -> None:
    """What was said is new again by the share of the horizon that has passed since."""

    def fresh(gap_ms: int) -> float:
        memory = NoveltyMemory(POLICY)
        memory.hear(0, text, None, None)
        return memory.hear(gap_ms, text, None, None).fresh

    soon, late = sorted((one_ms, other_ms))
    assert 0.0 < fresh(soon) <= fresh(late) <= 1.0


def test_varied_posts_from_one_mould_are_a_chorus() -> None:
    memory = NoveltyMemory(POLICY)
    crowds = [
        memory.hear(k, f"sell this stock now before the {w} hits zero", f"u{k}", None).crowd
        for k, w in enumerate(WORDS)
    ]
    assert crowds[0] == 0
    assert crowds[-1] > 10


def test_the_same_text_in_any_script_is_heard_again() -> None:
    memory = NoveltyMemory(POLICY)
    first = memory.hear(0, "Прибыль компании упала втрое", None, None).heard
    assert memory.hear(1, "Прибыль компании упала втрое", None, None).heard.root is first
    assert memory.hear(2, "株価が急落", None, None).heard.root is not first
    tags = memory.hear(3, "#win $ABC https://t.example/1", None, None).heard
    assert memory.hear(4, "#lose $XYZ https://t.example/2", None, None).heard.root is not tags


def brigade(count: int, *, every_ms: int, policy: ChorusPolicy, echo: bool = True) -> Chorus:
    chorus = Chorus(policy)
    for k in range(count):
        chorus.hear(k * every_ms, echo, 100, k)
    return chorus


def test_newcomers_that_echo_one_another_are_a_brigade_from_the_fortieth_on() -> None:
    policy = ChorusPolicy(accounts_min=40)
    assert brigade(39, every_ms=1_000, policy=policy).brigade is None
    found = brigade(500, every_ms=20_000, policy=policy).brigade
    assert found is not None
    assert (found.since_ms, found.last_ms, found.accounts, found.voices_u) == (0, 499 * 20_000, 500, 50_000)
    assert brigade(500, every_ms=20_000, policy=policy, echo=False).brigade is None
    assert brigade(500, every_ms=HOUR_MS, policy=policy).brigade is None


def test_echoes_among_much_other_talk_are_no_brigade() -> None:
    chorus = Chorus(ChorusPolicy(accounts_min=40))
    for k in range(300):
        chorus.hear(k * 10_000, k % 3 == 0, 100, k)
    assert chorus.brigade is None


def test_a_brigade_is_over_when_few_echo_any_longer() -> None:
    chorus = brigade(60, every_ms=60_000, policy=ChorusPolicy(accounts_min=40))
    assert chorus.brigade is not None
    chorus.hear(10 * HOUR_MS, False, 100, None)
    assert chorus.brigade is None


def test_forwarding_by_name_and_known_voices_are_no_echo() -> None:
    chorus = Chorus(ChorusPolicy())
    assert chorus.is_echo("dump it now", copy=True, crowd=0, spoken=0)
    assert chorus.is_echo("dump it now", copy=False, crowd=3, spoken=0)
    assert not chorus.is_echo("RT @wire: Vale cuts forecast", copy=True, crowd=9, spoken=0)
    assert not chorus.is_echo("dump it now", copy=True, crowd=9, spoken=1)
    assert not chorus.is_echo("I like Vale for its dams", copy=False, crowd=0, spoken=0)


def test_an_account_is_new_all_its_first_day_and_known_for_weeks_after() -> None:
    known = Newcomers()
    assert known.hear(0, "ann")
    assert known.hear(DAY_MS - 1, "ann")
    assert not known.hear(DAY_MS, "ann")
    assert known.hear(DAY_MS, "bob")
    assert not known.hear(12 * DAY_MS, "bob")
    assert known.hear(12 * DAY_MS, "cat")
    assert known.hear(90 * DAY_MS, "ann")


@given(st.lists(st.tuples(st.integers(0, 9 * DAY_MS), st.integers(0, 30)), min_size=1, max_size=60), st.integers(0, 59))
def test_a_restart_finds_the_same_newcomers(told: list[tuple[int, int]], cut: int) -> None:
    """State as of any moment, and the two days before it heard again, give every verdict that there was."""
    told = sorted(told)
    whole, before = Newcomers(), Newcomers()
    verdicts = [whole.hear(at_ms, f"u{author}") for at_ms, author in told]
    cut = min(cut, len(told) - 1)
    for at_ms, author in told[: cut + 1]:
        before.hear(at_ms, f"u{author}")
    after = Newcomers(before.state)
    for (at_ms, author), verdict in zip(told, verdicts, strict=True):
        if at_ms >= told[cut][0] - 2 * DAY_MS:
            assert after.hear(at_ms, f"u{author}") == verdict
    assert after.state == whole.state


def test_a_source_has_the_share_that_it_had_before_this_hour() -> None:
    shares = Shares()
    assert shares.hear(0, "news", "wire") == 1.0
    for k in range(9):
        shares.hear(k, "news", "gazette")
    assert shares.hear(30 * 60_000, "news", "wire") == 1.0
    assert shares.hear(HOUR_MS, "news", "wire") == pytest.approx(2 / 11)
    assert shares.hear(HOUR_MS, "social", "wire") == 1.0
    assert shares.hear(26 * HOUR_MS, "news", "wire") == 1.0


def test_stories_of_the_last_hours_are_counted_by_who_told_them() -> None:
    tellers = Tellers()
    tellers.hear(0, "wire", newcomer=True)
    tellers.hear(1, "wire", newcomer=False)
    assert tellers.hear(2 * HOUR_MS, "wire", newcomer=True) == Told(2, 0, 1, 1, 0, 0, 0)
    assert tellers.hear(5 * HOUR_MS, "gazette", newcomer=False) == Told(0, 1, 1, 0, 0, 0, 1)
    assert tellers.hear(20 * HOUR_MS, "wire", newcomer=True, echo=True) == Told(0, 0, 0, 0, 0, 0, 2)
    assert tellers.hear(27 * HOUR_MS, "wire", newcomer=False) == Told(0, 0, 0, 0, 0, 0, 2)
    assert not tellers.forget_before(29 * HOUR_MS)
    assert tellers.forget_before(60 * HOUR_MS)
