"""Life cycle, evidence and model versions: no flapping, no evidence in vain, no alert from a change of the model."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import combinations, pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.alerting import Rules, Said, Signal, Weight, confirm, decompose, parse_rules, reasons, severity
from monitor.alerting.baselines import Expected
from monitor.alerting.levels import MARKS, LevelledMention, Levels
from monitor.alerting.lifecycle import OpenAlert, Reason, cooling_down, step
from monitor.alerting.rules import LifeRules
from monitor.alerting.sources import SOURCES_MAX, Sources
from monitor.loops.core import PartitionCore
from monitor.records import AlertTransition, ScoredMention, Voices
from tests.unit.test_alerting import open_alert
from tests.unit.test_core import HOUR_MS, MINUTE_MS, POLICY, RULES, START_MS, Written, history, mention, play

QUARTER_MS = 15 * MINUTE_MS
USUAL = Expected(voices=1.0, size=2.0, tone=0.0, variance=0.2, exposure_h=99.0, market=1.0)


def signal(score: float, direction: str = "negative") -> Signal:
    voices = Voices(total=5.0, negative=4.0, positive=0.5, polarity=-3.0)
    return Signal(
        kind="burst",
        direction=direction,  # type: ignore[arg-type]
        score=score,
        window_s=3_600,
        voices=voices,
        expected=USUAL,
        tone=-0.6,
    )


# Pending.


def test_a_clear_signal_opens_at_once_and_a_faint_one_must_last() -> None:
    rules = LifeRules(clear_share=1.2, pending_s=120)
    assert confirm(None, signal(6.0), needed=5.0, at_ms=0, rules=rules) is None
    waits = confirm(None, signal(5.5), needed=5.0, at_ms=0, rules=rules)
    assert waits is not None
    assert confirm(waits, signal(5.5), needed=5.0, at_ms=60_000, rules=rules) is waits
    assert confirm(waits, signal(5.5), needed=5.0, at_ms=120_000, rules=rules) is None
    turned = confirm(waits, signal(5.5, "positive"), needed=5.0, at_ms=120_000, rules=rules)
    assert turned is not None
    assert (turned.direction, turned.due_ms) == ("positive", 240_000)


def pending_rules(pending_s: float):
    return parse_rules(
        {"budget": {"false_alerts_per_day": 1.0}, "life": {"clear_share": 1_000.0, "pending_s": pending_s}}, "test"
    )


def test_a_pending_alert_opens_by_its_timer_although_nobody_speaks() -> None:
    """The last story is the one that fires: two minutes of silence later the alert opens, at the timer's moment."""
    crash = [mention("BBB", START_MS + 80 * HOUR_MS + k * 3_000, 6_000 + k) for k in range(14)]
    told = [*history(crash_at_h=None), *crash, mention("AAA", START_MS + 120 * HOUR_MS, 5_000, polarity=0.0)]
    told.sort(key=lambda m: (m.published_at_ms, m.id))
    at_once = _run(told, pending_rules(0.0)).transitions
    later = _run(told, pending_rules(120.0)).transitions
    crash_ms = START_MS + 80 * HOUR_MS
    first = {t.alert.entity: t.at_ms for t in reversed(at_once) if t.change == "opened" and t.at_ms > crash_ms}
    waited = {t.alert.entity: t.at_ms for t in reversed(later) if t.change == "opened" and t.at_ms > crash_ms}
    assert waited["BBB"] - first["BBB"] == 120_000


def _run(told: list[ScoredMention], rules: Rules) -> Written:
    written, core = Written(), PartitionCore(policy=POLICY, rules=rules)
    for each in told:
        core.take(each, origin="news/0", now_ms=None)
    written.apply(core, core.advance())
    written.apply(core, core.finish())
    return written


# Flapping.


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0) | st.floats(1.0, 5.0), st.integers(1, 8)), min_size=1, max_size=60))
def test_however_the_score_jumps_an_alert_does_not_flap(stretches: list[tuple[float, int]]) -> None:
    """At most one opening a cool-down, but for one each time that it is half as loud again; none closes before its calm.

    A look is how loud it is: the score over the one it needed; some loudness lasts for several looks, so that alerts close.
    """
    looks = [loudness for loudness, times in stretches for _ in range(times)]
    rules = LifeRules()
    own: OpenAlert | None = None
    last: tuple[int, float] | None = None
    openings: list[tuple[int, float]] = []
    calm_ms, cool_ms = round(rules.calm_s * 1000), round(rules.cooldown_s * 1000)
    for index, loudness in enumerate(looks):
        at_ms = index * QUARTER_MS
        if own is not None:
            reason = step(own, loudness=loudness, reversed_by=False, at_ms=at_ms, rules=rules)
            if reason is Reason.CALMED:
                assert at_ms - own.opened_ms >= calm_ms
                quiet = looks[index - calm_ms // QUARTER_MS : index + 1]
                assert max(quiet) < rules.close_share, "every look of the calm was below what closes"
                own = None
        if own is None and loudness >= 1.0 and not cooling_down(last, loudness=loudness, at_ms=at_ms, rules=rules):
            last = (at_ms, loudness)
            openings.append(last)
            own = open_alert()
            own.peak, own.opened_ms, own.updated_ms = loudness, at_ms, at_ms
    for (before_ms, before), (after_ms, after) in pairwise(openings):
        assert after_ms - before_ms >= cool_ms or after >= 1.5 * before


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_stormy_stream_never_opens_the_same_direction_twice_a_day_without_growth(seed: int, stories: int) -> None:
    """The whole core under bursts of random tone: each opening of a direction is a day apart or half as loud again."""
    rng = Random(seed)
    told = history(crash_at_h=None)
    for k in range(stories * 4):
        at_ms = START_MS + round(rng.uniform(60, 90) * HOUR_MS)
        told.append(mention("BBB", at_ms, 9_000 + k, polarity=rng.choice((-0.8, 0.8, -0.8, 0.1))))
    steps = play(sorted(told, key=lambda m: (m.published_at_ms, m.id))).transitions
    opened: dict[tuple[str, str], list[AlertTransition]] = defaultdict(list)
    for each in steps:
        if each.change == "opened":
            opened[each.alert.entity, each.alert.direction].append(each)
    for several in opened.values():
        for one, other in pairwise(several):
            grew = other.alert.details["score"] >= 1.5 * one.alert.details["score"] - 0.01
            assert other.at_ms - one.at_ms >= RULES.life.cooldown_s * 1000 or grew


def test_what_is_told_already_is_noted_as_silent_with_its_reason() -> None:
    """A second wave within the cool-down opens nothing, and it is kept that it fired and why it stayed silent."""
    second_ms = START_MS + 91 * HOUR_MS
    rules = parse_rules({"budget": {"false_alerts_per_day": 0.5}, "life": {"cooldown_s": 86_400}}, "test")
    told = [*history(), *(mention("BBB", second_ms + k * 4 * MINUTE_MS, 7_000 + k) for k in range(4))]
    written = _run(sorted(told, key=lambda m: (m.published_at_ms, m.id)), rules)
    opened = [t for t in written.transitions if t.change == "opened" and t.alert.direction == "negative"]
    assert [t.alert.entity for t in opened] == ["BBB"]
    assert opened[0].at_ms < second_ms
    noted = [s for s in written.suppressed if s.at_ms > second_ms]
    assert [(s.entity, s.direction, s.reason) for s in noted] == [("BBB", "negative", Reason.COOLING_DOWN)]
    assert noted[0].score >= noted[0].needed


# Severity.


def test_severity_grows_with_size_and_breadth_and_shrinks_with_poor_or_stale_sources() -> None:
    loud = Weight(size=3.5, voices=20, sources=6, quality=0.8, novelty=0.9)
    replace = msgspec.structs.replace
    assert severity(loud) == "critical"
    assert severity(replace(loud, voices=6)) == "high"
    assert severity(replace(loud, voices=3)) == "medium"
    assert severity(replace(loud, size=2.1, sources=3)) == "high"
    assert severity(replace(loud, size=2.1, sources=1)) == "medium"
    assert severity(replace(loud, size=2.1, sources=3, quality=0.2)) == "medium"
    assert severity(replace(loud, size=2.1, sources=3, quality=0.2, novelty=0.2)) == "low"


def test_a_source_that_repeats_others_is_worth_less_than_one_that_reports() -> None:
    sources = Sources()
    for k in range(40):
        sources.hear("wire", hour=k, voices=1.0, polarity=0.0, rules=RULES.baseline)
        sources.hear("mirror", hour=k, voices=1.0 if k % 10 == 0 else 0.0, polarity=0.0, rules=RULES.baseline)
    assert sources.quality("wire") > 0.9
    assert sources.quality("mirror") < 0.25
    assert sources.quality("unknown") == 0.5
    for k in range(2 * SOURCES_MAX):
        sources.hear(f"s{k}", hour=50, voices=1.0, polarity=0.0, rules=RULES.baseline)
    assert len(sources.known) <= SOURCES_MAX
    assert "wire" in sources.known


# Evidence.


def said(weights: list[tuple[float, float]]) -> list[Said]:
    return [
        Said(mention("BBB", START_MS + k, k, polarity=polarity), weight, 1)
        for k, (weight, polarity) in enumerate(weights)
    ]


def loudness(voices: Voices) -> float:
    """Not linear: loud when many lean, and how much they lean counts."""
    lean = max(0.0, -voices.polarity)
    return lean * math.sqrt(max(voices.total, 0.0)) / (1.0 + max(0.0, voices.total + voices.polarity))


STORIES = st.lists(
    st.tuples(st.sampled_from([0.3, 0.5, 1.0, 3.0]), st.sampled_from([-0.9, -0.6, -0.3, 0.2, 0.8])),
    min_size=1,
    max_size=7,
)


@settings(max_examples=150, deadline=None)
@given(STORIES, st.floats(0.05, 0.95))
def test_the_evidence_silences_the_alert_and_none_of_it_is_in_vain(
    stories: list[tuple[float, float]], share: float
) -> None:
    """Against brute force: the set un-fires, is irreducible, and is the smallest wherever one or two stories are enough."""
    told = said(stories)

    def score(kept: list[Said]) -> float:
        return loudness(
            Voices(
                total=sum(s.weight for s in kept),
                negative=0.0,
                positive=0.0,
                polarity=sum(s.weight * s.mention.polarity for s in kept),
            )
        )

    whole = score(told)
    if whole <= 0.01:
        return
    threshold = share * whole
    why = reasons(
        told,
        support=lambda each: -each.weight * each.mention.polarity,
        without=lambda gone: score([each for each in told if each not in gone]),
        threshold=threshold,
        stories_max=9,
    )
    by_document = {s.mention.document: s for s in told}
    chosen = [by_document[document] for document in why.needed]
    assert score([s for s in told if s not in chosen]) < threshold + 1e-9
    for one in chosen:
        assert score([s for s in told if s not in chosen or s is one]) >= threshold - 1e-9
    smallest = next(
        size
        for size in range(1, len(told) + 1)
        if any(score([s for s in told if s not in gone]) < threshold for gone in combinations(told, size))
    )
    assert len(chosen) == smallest if smallest <= 2 else len(chosen) >= smallest


def test_an_alert_names_the_stories_that_carry_it_and_its_brief_says_so() -> None:
    alert = next(t.alert for t in play(history()).transitions if t.alert.entity == "BBB" and t.change == "opened")
    assert alert.details["stories_needed"] == len(alert.details["documents_needed"]) > 0
    assert [e.document for e in alert.evidence] == alert.details["documents_needed"][: RULES.life.stories_max]
    assert f"{alert.details['stories_needed']} stor" in alert.brief or "One story carries it." in alert.brief
    assert 0 < alert.flip_margin <= 1


@settings(max_examples=50, deadline=None)
@given(STORIES, st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_the_parts_of_a_shift_add_up(stories: list[tuple[float, float]], usual: float, wire: float) -> None:
    shift = decompose(said(stories), usual=usual, channel_tone=0.1, source_tone=lambda _name: wire)
    assert math.isclose(shift.opinion + shift.source_mix + shift.model, shift.tone - shift.usual, abs_tol=1e-9)
    assert math.isclose(shift.source_mix, wire - 0.1, abs_tol=1e-9)
    assert shift.model == 0


# Model versions.


def rescored(one: ScoredMention, model: str, factor: float) -> ScoredMention:
    """What a model would say that sees so many times as much that is negative."""
    negative, _, positive = one.probabilities
    negative = min(negative * factor, 1.0 - positive)
    return msgspec.structs.replace(
        one,
        probabilities=(negative, 1.0 - negative - positive, positive),
        polarity=positive - negative,
        model=model,
    )


def talk(days: int, *, seed: int = 3) -> list[ScoredMention]:
    """Eight companies, each spoken of every half hour in a tone that varies around the same mean."""
    rng = Random(seed)
    told = []
    for half in range(days * 48):
        for index in range(8):
            number = len(told)
            one = mention(f"E{index}", START_MS + half * HOUR_MS // 2 + index * 200_000, number)
            negative = rng.choice((0.1, 0.2, 0.3, 0.5))
            positive = rng.choice((0.1, 0.2, 0.3, 0.4))
            told.append(
                msgspec.structs.replace(
                    one,
                    probabilities=(negative, 1 - negative - positive, positive),
                    polarity=positive - negative,
                )
            )
    return told


TONE_RULES = parse_rules(
    {
        "budget": {"false_alerts_per_day": 0.3, "burst": 0.2, "tone": 0.4, "drift": 0.4},
        "life": {"pending_s": 0},
    },
    "test",
)
SWAP_MS = START_MS + 4 * 24 * HOUR_MS


def opened_after_swap(factor: float) -> set[str]:
    """Who gets an alert in two days after a change to a model that sees so many times as much that is negative."""
    told = [rescored(m, "words@2", factor) if m.published_at_ms >= SWAP_MS else m for m in talk(6)]
    steps = _run(told, TONE_RULES).transitions
    return {t.alert.entity for t in steps if t.change == "opened" and t.at_ms >= SWAP_MS}


@pytest.mark.parametrize("factor", [0.4, 1.3, 2.0])
def test_a_model_swap_alone_never_raises_an_alert(factor: float) -> None:
    """The same stories, from the fifth day on judged by a model of another temper: nobody hears of anything."""
    assert opened_after_swap(factor) == set()


@pytest.mark.parametrize("factor", [0.4, 2.0])
def test_without_levels_the_same_swap_does_raise_alerts(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap of the test above is not harmless by itself."""
    monkeypatch.setattr(Levels, "hear", lambda _self, each, _usual: each)
    assert opened_after_swap(factor)


def test_a_crash_right_after_a_swap_is_still_seen_and_the_model_is_named() -> None:
    told = talk(5)
    swap_ms = SWAP_MS
    swapped = [rescored(m, "words@2", 1.5) if m.published_at_ms >= swap_ms else m for m in told]
    crash = [
        msgspec.structs.replace(mention("E3", swap_ms + HOUR_MS + k * 3 * MINUTE_MS, 80_000 + 13 * k), model="words@2")
        for k in range(14)
    ]
    rules = parse_rules({"budget": {"burst": 1.0, "tone": 0.0, "drift": 0.0, "divergence": 0.0}}, "test")
    steps = _run(sorted([*swapped, *crash], key=lambda m: (m.published_at_ms, m.id)), rules).transitions
    opened = next(t.alert for t in steps if t.change == "opened" and t.at_ms >= swap_ms)
    assert (opened.entity, opened.direction, opened.model) == ("E3", "negative", "words@2")
    assert opened.details["shift"]["model"] != 0


def test_a_level_finds_the_factor_and_one_loud_company_does_not_bend_it() -> None:
    levels = Levels()
    usual = (0.2, 0.2)
    levels.hear(mention("E0", START_MS, 0), usual)
    for number in range(1, MARKS[-1] + 2):
        loud = number % 2 == 0  # every other voice is about one company, and it is all bad
        one = mention("LOUD" if loud else f"E{number % 40}", START_MS + number * 1_000, number)
        negative = 0.9 if loud else 0.4
        levels.hear(
            msgspec.structs.replace(one, model="words@2", probabilities=(negative, 0.0, 0.1), polarity=0.1 - negative),
            usual,
        )
    level = levels.models["words@2"]
    assert len(level.marks) == len(MARKS) + 1
    assert level.marks[-1].slack == 0
    assert 0.4 < level.marks[-1].negative < 0.6, "0.2 usual over 0.4 now, whatever the loud one says"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=4))
def test_a_swap_survives_restarts_anywhere(cuts: list[int]) -> None:
    told = talk(5)
    swap_ms = START_MS + 3 * 24 * HOUR_MS
    swapped = [rescored(m, "words@2", 1.6) if m.published_at_ms >= swap_ms else m for m in told]
    whole, broken = play(swapped), play(swapped, cuts=cuts, stops=True)
    assert broken.state == whole.state
    assert broken.states == whole.states
    assert broken.buckets == whole.buckets


def test_a_levelled_mention_keeps_what_the_model_said() -> None:
    levels = Levels()
    levels.hear(mention("E0", START_MS, 0), (0.2, 0.2))
    new = msgspec.structs.replace(mention("E1", START_MS + 1, 1), model="words@2")
    levelled = levels.hear(new, (0.2, 0.2))
    assert isinstance(levelled, LevelledMention)
    assert levelled.judged == new.polarity
    assert abs(levelled.polarity) < abs(new.polarity)
    assert levels.level(new) == levelled
    assert math.isclose(sum(levelled.probabilities), 1.0)
