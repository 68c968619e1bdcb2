"""What is usual: how often and in which tone an entity is spoken of, by hour of the week, and what the market does.

Volume is negative binomial: a Poisson rate per entity and channel, times an hour-of-week profile of the whole partition,
with an overdispersion from the entity's own past. The rate is drawn towards the average entity's as if that had been heard
for `prior_hours`; its spread is that of companies among themselves, a gamma of shape 1, until own voices narrow it (Gelman et
al., Bayesian Data Analysis 3rd ed., § 2.6: gamma-Poisson mixtures are negative binomial). All memory decays with one half-life, lazily: an idle entity costs nothing.
Past bursts are clipped before they enter, so that one crisis does not make the next one usual.
"""

from __future__ import annotations

import math

import msgspec

from monitor.alerting.cusum import EMPTY, step_bank
from monitor.alerting.rules import BaselineRules

HOUR_MS = 3_600_000
BLOCK_MS = 4 * HOUR_MS
DAY_MS = 24 * HOUR_MS
WEEK_H = 168
_DAY_BLOCKS = DAY_MS // BLOCK_MS
_TOD_PRIOR_H = 3.0  # hours of record that the overall mean is worth for one hour of the day
_HOW_PRIOR_H = 6.0  # hours of record that the hour of the day is worth for one hour of the week
_SECTOR_PRIOR_VOICES = 50.0  # voices that the market's tone is worth for a sector's
_FADING = ("tone_w", "tone_p", "tone_sq", "negative", "positive", "decisive", "day_peaks", "peak_days")
_PEAK_PRIOR_DAYS = 30.0
_PEAK_MAX = 20.0
_GAP_H = 24 * 60  # after a longer silence of the whole partition only this much of it is counted


class Expected(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a window should hold: voices, their spread (negative binomial with this size) and their tone.

    `variance` of one voice's polarity. `exposure_h` hours of record behind it. `market` is the factor by which the market
    as a whole is louder now; it is in `voices` already. `market_tone` is how far the market's tone has moved; it is not in
    `tone`. `habit`: how far the entity's loudest moments of a day usually go, over the watchlist's. `rarity`: how many
    voices one decisive story is worth.
    """

    voices: float
    size: float
    tone: float
    variance: float
    exposure_h: float
    market: float
    market_tone: float = 0.0
    habit: float = 1.0
    rarity: float = 1.0


class Market(msgspec.Struct, array_like=True):
    """One channel of a partition: the profile of the week and the averages. All sums decay together.

    `sectors`: voices and their weighted polarity, by sector. What stands from `tone` on is as of the last full hour, so that
    within an hour nobody's baseline moves and a baseline has to be worked out once an hour only.
    """

    hour: int
    first_hour: int
    counts: list[float] = msgspec.field(default_factory=lambda: [0.0] * WEEK_H)
    hours: list[float] = msgspec.field(default_factory=lambda: [0.0] * WEEK_H)
    open_count: float = 0.0
    exposure: float = 0.0
    entities: int = 0
    tone_w: float = 0.0
    tone_p: float = 0.0
    tone_sq: float = 0.0
    negative: float = 0.0
    positive: float = 0.0
    level: float = 0.0
    decisive: float = 0.0
    day_peaks: float = 0.0
    peak_days: float = 0.0
    week: list[float] = msgspec.field(default_factory=lambda: [1.0] * WEEK_H)
    sectors: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    tone: float = 0.0
    variance: float = 0.25
    share_decisive: float = 0.02
    day_peak: float = 1.0
    average: float = 0.0
    sector_tones: dict[str, float] = msgspec.field(default_factory=dict)

    def move_to(self, hour: int, rules: BaselineRules) -> None:
        """Close the hours before `hour`."""
        if hour <= self.hour:
            return
        step = decay(1, rules)
        if hour - self.hour > _GAP_H:
            self._close(step)
            self.hour = hour - _GAP_H
        while self.hour < hour:
            self._close(step)
            self.hour += 1

    def add(
        self,
        voices: float,
        polarity: float,
        polarity_sq: float,
        negative: float,
        positive: float,
        *,
        decisive: float = 0.0,
        sector: str = "",
    ) -> None:
        """Voices of the open hour, those of decisive stories among them; polarities and shares are weighted sums."""
        if sector:
            of_sector = self.sectors.get(sector, (0.0, 0.0))
            self.sectors[sector] = (of_sector[0] + voices, of_sector[1] + polarity)
        self.open_count += voices
        self.tone_w += voices
        self.tone_p += polarity
        self.tone_sq += polarity_sq
        self.negative += negative
        self.positive += positive
        self.decisive += decisive

    def profile(self, hour: int) -> float:
        """How much louder than the average this hour of the week is, as of the last midnight (UTC)."""
        return self.week[hour % WEEK_H]

    def _profile(self, slot: int) -> float:
        """Hour of the week shrunk to hour of the day and kind of day, that to 1."""
        if self.level <= 0:
            return 1.0
        # The epoch was a Thursday: days 2 and 3 of an epoch-aligned week are Saturday and Sunday.
        day = slot // 24
        alike = (2, 3) if day in (2, 3) else (0, 1, 4, 5, 6)
        slots = [other * 24 + slot % 24 for other in alike]
        count = sum(self.counts[s] for s in slots) + _TOD_PRIOR_H * self.level
        daily = count / (sum(self.hours[s] for s in slots) + _TOD_PRIOR_H)
        weekly = (self.counts[slot] + _HOW_PRIOR_H * daily) / (self.hours[slot] + _HOW_PRIOR_H)
        return min(max(weekly / self.level, 0.1), 10.0)

    def mean_tone(self) -> float:
        return self.tone_p / (self.tone_w + 10.0)

    def shares(self) -> tuple[float, float]:
        """Of negative and of positive voices, with twenty voices as a prior."""
        return (self.negative + 5.0) / (self.tone_w + 20.0), (self.positive + 5.0) / (self.tone_w + 20.0)

    def _close(self, step: float) -> None:
        slot = self.hour % WEEK_H
        usual = self.profile(self.hour)
        self.counts = [value * step for value in self.counts]
        self.hours = [value * step for value in self.hours]
        for name in _FADING:
            setattr(self, name, getattr(self, name) * step)
        self.sectors = {name: (voices * step, polarity * step) for name, (voices, polarity) in self.sectors.items()}
        self.counts[slot] += self.open_count
        self.hours[slot] += 1.0
        self.exposure = self.exposure * step + usual
        self.open_count = 0.0
        recorded = sum(self.hours)
        self.level = sum(self.counts) / recorded if recorded else 0.0
        self.average = self.level / max(self.entities, 1)
        self.tone = mean = self.mean_tone()
        # Of one voice's polarity, pooled over the partition, with ten voices of ±0.5 as a prior.
        self.variance = max((self.tone_sq + 2.5) / (self.tone_w + 10.0) - mean * mean, 0.02)
        self.share_decisive = (self.decisive + 1.0) / (self.tone_w + 50.0)
        self.day_peak = (self.day_peaks + _PEAK_PRIOR_DAYS) / (self.peak_days + _PEAK_PRIOR_DAYS)
        # The mean polarity of a sector, shrunk to that of the market.
        self.sector_tones = {
            name: (polarity + _SECTOR_PRIOR_VOICES * mean) / (voices + _SECTOR_PRIOR_VOICES)
            for name, (voices, polarity) in self.sectors.items()
        }
        if slot % 24 == 23:
            self.week = [self._profile(each) for each in range(WEEK_H)]


class BlockStep(msgspec.Struct, array_like=True, frozen=True):
    """What a closed block's step of the CUSUMs was made from, but for its voices: so that it can be made again without some.

    `bank` as it stood before; `known`: voices of tone that were behind the entity's `tone`.
    """

    block: int
    tone: float
    variance: float
    known: float
    bank: tuple[float, ...]


class Habit(msgspec.Struct, array_like=True):
    """One entity in one channel: decayed sums as of hour `at_hour`, and the four-hour block that is still open. `steps`: of the
    last day's blocks."""

    at_hour: int
    block: int
    voices: float = 0.0
    squares: float = 0.0
    tone_w: float = 0.0
    tone_p: float = 0.0
    open_n: float = 0.0
    open_p: float = 0.0
    decisive: float = 0.0
    open_decisive: float = 0.0
    day: int = 0
    day_peak: float = 0.0
    day_peaks: float = 0.0
    peak_days: float = 0.0
    bank: list[float] = msgspec.field(default_factory=lambda: list(EMPTY))
    steps: list[BlockStep] = msgspec.field(default_factory=list)


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
    own = (habit.day_peaks + _PEAK_PRIOR_DAYS * pooled) / (habit.peak_days + _PEAK_PRIOR_DAYS)
    return math.sqrt(own / pooled)


def _rarity(habit: Habit, market: Market, faded: float, rules: BaselineRules) -> float:
    """What a decisive story weighs: its surprise in nats, by the share of such stories in the entity's record, shrunk to
    the market's. One in fifty earns four voices; who has had many such days earns little."""
    k = rules.tone_prior_voices
    own = (habit.decisive * faded + k * market.share_decisive) / (habit.tone_w * faded + k)
    return min(max(-math.log(own), 1.0), rules.decisive_weight_max)


def decay(hours: int, rules: BaselineRules) -> float:
    return float(0.5 ** (hours / (24.0 * rules.half_life_days)))


def exposure(market: Market, start_ms: int, length_ms: int) -> float:
    """Average hours in a stretch of time, each hour weighted by the profile of the week."""
    total, at, end = 0.0, start_ms, start_ms + length_ms
    while at < end:
        hour = at // HOUR_MS
        until = min((hour + 1) * HOUR_MS, end)
        total += market.profile(hour) * (until - at) / HOUR_MS
        at = until
    return total
