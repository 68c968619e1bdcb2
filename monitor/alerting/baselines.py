"""What is usual: how often and in which tone an entity is spoken of, by hour of the week, and what the market does.

Volume is negative binomial: a Poisson rate per entity and channel, times an hour-of-week profile of the whole partition,
with an overdispersion from the entity's own past. The rate is drawn towards the average entity's as if that had been heard
for `prior_hours`; its spread is that of companies among themselves, a gamma of shape 1, until own voices narrow it (Gelman et
al., Bayesian Data Analysis 3rd ed., § 2.6: gamma-Poisson mixtures are negative binomial). All memory decays with one half-life, lazily: an idle entity costs nothing.
Past bursts are clipped before they enter, so that one crisis does not make the next one usual.
"""

from __future__ import annotations

import math

from monitor.alerting.cusum import step_bank
from monitor.alerting.market import PEAK_PRIOR_DAYS, Market, decay
from monitor.alerting.records import HOUR_MS, BlockStep, Expected, Habit
from monitor.alerting.rules import BaselineRules

BLOCK_MS = 4 * HOUR_MS
DAY_MS = 24 * HOUR_MS
_DAY_BLOCKS = DAY_MS // BLOCK_MS
_PEAK_MAX = 20.0


def close_block(habit: Habit, market: Market, at_ms: int, rules: BaselineRules, sector: str) -> None:
    """Let a finished block enter the record, clipped, and step the tone's CUSUMs by it."""
    block = at_ms // BLOCK_MS
    if block <= habit.block:
        return
    habit.steps = [each for each in habit.steps if each.block >= block - _DAY_BLOCKS]
    if habit.open_n > 0:
        usual = expected(habit, market, at_ms=at_ms, rules=rules, sector=sector)
        voices = usual.voices * exposure(market, habit.block * BLOCK_MS, BLOCK_MS)
        cap = voices + 2.0 * math.sqrt(voices + voices**2 / usual.size) + 3.0
        kept = min(1.0, cap / habit.open_n)
        step = BlockStep(habit.block, usual.tone, usual.variance, habit.tone_w, tuple(habit.bank))
        habit.steps.append(step)
        step_bank(habit.bank, block_reading(habit.open_n, habit.open_p, step, rules.tone_prior_voices))
        habit.voices += habit.open_n * kept
        habit.squares += (habit.open_n * kept) ** 2
        habit.tone_w += habit.open_n * kept
        habit.tone_p += habit.open_p * kept
        habit.open_n = habit.open_p = 0.0
    habit.decisive += habit.open_decisive
    habit.open_decisive = 0.0
    if habit.day != at_ms // DAY_MS:
        if habit.day:
            habit.day_peaks += habit.day_peak
            habit.peak_days += 1.0
            market.day_peaks += habit.day_peak
            market.peak_days += 1.0
        habit.day, habit.day_peak = at_ms // DAY_MS, 0.0
    habit.block = block
    hour = block * 4
    factor = decay(hour - habit.at_hour, rules)
    for name in ("voices", "squares", "tone_w", "tone_p", "decisive", "day_peaks", "peak_days"):
        setattr(habit, name, getattr(habit, name) * factor)
    habit.at_hour = hour


def block_reading(n: float, polarity: float, step: BlockStep, prior: float) -> float:
    """The mean of n voices' polarity in standard deviations from the entity's own, of which `step.known` + `prior` voices are behind."""
    spread = step.variance * (1 / n + 1 / (step.known + prior))
    return (polarity / n - step.tone) / math.sqrt(spread)


def scaled(usual: Expected, exposure: float, factor: float, market_tone: float) -> Expected:
    """What is usual in an average hour, in a window of `exposure` of them while the market does this."""
    return Expected(
        voices=usual.voices * exposure * factor,
        size=usual.size,
        tone=usual.tone,
        variance=usual.variance,
        exposure_h=usual.exposure_h,
        market=factor,
        market_tone=market_tone,
        habit=usual.habit,
        rarity=usual.rarity,
    )


def note_peak(habit: Habit, excess: float) -> None:
    """Keep how far the entity went today; `close_block` takes a finished day into its record and the watchlist's."""
    if excess > habit.day_peak:
        habit.day_peak = min(excess, _PEAK_MAX)


def expected(habit: Habit, market: Market, *, at_ms: int, rules: BaselineRules, sector: str = "") -> Expected:
    """What an average hour (see `exposure`) should hold at `at_ms`. The same throughout an hour and a block."""
    faded = decay(max(0, at_ms // HOUR_MS - habit.at_hour), rules)
    voices, weight = habit.voices * faded, habit.tone_w * faded
    prior_n = rules.prior_hours * market.average + 0.05
    rate = (voices + prior_n) / (market.exposure + rules.prior_hours)
    blocks = market.exposure / 4 + rules.prior_hours / 4
    mean = rate * 4
    spread = ((habit.squares * faded) + 12 * (mean + mean**2 * (1 + 1 / rules.dispersion))) / (blocks + 12)
    over = max(spread - mean, 0.0) / mean**2 - 1.0  # 1/r of the negative binomial: Var = m + m²/r
    over = min(max(over, 0.02), 0.2) + 1.0 / (voices + 1.0)
    prior_w = rules.tone_prior_voices
    prior_tone = market.sector_tones.get(sector, market.tone)
    return Expected(
        voices=rate,
        size=1.0 / over,
        tone=(habit.tone_p * faded + prior_w * prior_tone) / (weight + prior_w),
        variance=market.variance,
        exposure_h=market.exposure,
        market=1.0,
        habit=_usual_peak(habit, market),
        rarity=_rarity(habit, market, faded, rules),
    )


def _usual_peak(habit: Habit, market: Market) -> float:
    """The mean of the entity's daily peaks over the watchlist's, shrunk to 1; the root, because a part of it is chance."""
    pooled = market.day_peak
    own = (habit.day_peaks + PEAK_PRIOR_DAYS * pooled) / (habit.peak_days + PEAK_PRIOR_DAYS)
    return math.sqrt(own / pooled)


def _rarity(habit: Habit, market: Market, faded: float, rules: BaselineRules) -> float:
    """What a decisive story weighs: its surprise in nats, by the share of such stories in the entity's record, shrunk to
    the market's. One in fifty earns four voices; who has had many such days earns little."""
    k = rules.tone_prior_voices
    own = (habit.decisive * faded + k * market.share_decisive) / (habit.tone_w * faded + k)
    return min(max(-math.log(own), 1.0), rules.decisive_weight_max)


def exposure(market: Market, start_ms: int, length_ms: int) -> float:
    """Average hours in a stretch of time, each hour weighted by the profile of the week."""
    total, at, end = 0.0, start_ms, start_ms + length_ms
    while at < end:
        hour = at // HOUR_MS
        until = min((hour + 1) * HOUR_MS, end)
        total += market.profile(hour) * (until - at) / HOUR_MS
        at = until
    return total
