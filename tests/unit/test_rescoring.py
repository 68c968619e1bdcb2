"""Evidence of the detectors that don't rest on the sums of one window: drift over blocks, divergence over two channels."""

from __future__ import annotations

import random

import msgspec
import pytest

from monitor.alerting import (
    BLOCK_MS,
    Expected,
    Habit,
    Market,
    Said,
    close_block,
    divergence,
    drift,
    over_blocks,
    over_channels,
    reasons,
    support,
)
from monitor.alerting.evidence import sums_of
from monitor.alerting.rules import BaselineRules, DetectorRules
from tests.unit.test_core import START_MS, mention

RULES = DetectorRules(tone_voices_min=3.0)
USUAL = Expected(voices=1.0, size=5.0, tone=0.0, variance=0.25, exposure_h=1_000.0, market=1.0)


def soured(hours: int, *, from_h: int, to: float = -0.6) -> tuple[Habit, list[Said]]:
    """One story an hour, neutral until `from_h`; the record of the blocks that were closed, and the stories."""
    rng, rules = random.Random(3), BaselineRules()
    start_ms = START_MS - START_MS % BLOCK_MS
    market = Market(hour=start_ms // 3_600_000, first_hour=start_ms // 3_600_000, entities=1)
    habit = Habit(at_hour=start_ms // 3_600_000, block=start_ms // BLOCK_MS)
    said = []
    for hour in range(hours):
        at_ms = start_ms + hour * 3_600_000
        close_block(habit, market, at_ms, rules, "")
        polarity = rng.uniform(-0.3, 0.3) + (to if hour >= from_h else 0.0)
        habit.open_n += 1.0
        habit.open_p += polarity
        said.append(Said(mention("BBB", at_ms, hour, polarity=polarity), 1.0, 1))
    close_block(habit, market, start_ms + hours * 3_600_000, rules, "")
    return habit, said


def test_a_drift_is_rescored_from_the_blocks_it_climbed_in() -> None:
    """Nothing taken away gives the score it had; without what soured it has nothing left to say."""
    habit, said = soured(24, from_h=8)
    signal = drift(sums_of(said), USUAL, 86_400, habit.bank)
    assert signal is not None
    assert signal.direction == "negative"
    without = over_blocks(signal, said, steps=habit.steps, prior=BaselineRules().tone_prior_voices)
    assert without([]) == pytest.approx(signal.score)
    assert without(said[8:]) < 0.2 * signal.score
    assert without(said[:8]) > 0.5 * signal.score


def test_the_evidence_of_a_drift_is_what_soured_and_not_all_of_it_is_needed() -> None:
    habit, said = soured(24, from_h=8)
    signal = drift(sums_of(said), USUAL, 86_400, habit.bank)
    assert signal is not None
    without = over_blocks(signal, said, steps=habit.steps, prior=BaselineRules().tone_prior_voices)
    why = reasons(said, support=support(signal), without=without, threshold=0.7 * signal.score, stories_max=5)
    by_document = {each.mention.document: each for each in said}
    chosen = [by_document[document] for document in why.needed]
    assert why.enough
    assert 0 < len(chosen) < 16
    assert all(each.mention.polarity < 0 for each in chosen)
    assert without(chosen) < 0.7 * signal.score <= without(chosen[:-1])


def test_a_drift_that_began_before_the_window_does_not_pretend_to_rest_on_it() -> None:
    """Three days of bad news: the last day's stories can be taken away, and it still stands."""
    habit, said = soured(96, from_h=20)
    signal = drift(sums_of(said[-24:]), USUAL, 86_400, habit.bank)
    assert signal is not None
    assert len(habit.steps) == 6
    without = over_blocks(signal, said[-24:], steps=habit.steps, prior=BaselineRules().tone_prior_voices)
    assert without([]) == pytest.approx(signal.score)
    why = reasons(said[-24:], support=support(signal), without=without, threshold=0.3 * signal.score, stories_max=5)
    assert not why.enough


def test_a_divergence_rests_on_both_sides() -> None:
    """Four bad articles against six glad posts: the posts carry it as much as the articles."""
    news = [Said(mention("BBB", START_MS + k, k, polarity=-0.6), 1.0, 1) for k in range(4)]
    posts = [
        Said(msgspec.structs.replace(mention("BBB", START_MS + k, k, polarity=0.7), channel="social"), 1.0, 1)
        for k in range(10, 16)
    ]
    signal = divergence(sums_of(news), USUAL, sums_of(posts), USUAL, window_s=86_400, rules=RULES)
    assert signal is not None
    without = over_channels(signal, [*news, *posts], social=USUAL, window_s=86_400, rules=RULES)
    assert without([]) == pytest.approx(signal.score)
    assert without(posts[:2]) < signal.score
    assert without(posts[:4]) == 0.0, "two posts are too few to disagree"
    why = reasons(
        [*news, *posts], support=support(signal), without=without, threshold=0.9 * signal.score, stories_max=5
    )
    assert why.enough
    assert not why.counter_evidence, "glad posts are no counter-evidence where the disagreement is the news"
