"""Is this more, or another tone, than usual? Each detector gives a raw score; the tribunal says what such a score is worth.

The raw tail bound of one entity's model is not trusted: it is ranked among the scores of the whole partition's recent
past. So the stated budget holds whatever the model's faults are, and a p-value means what it says.
"""

from __future__ import annotations

import math
import msgspec

from monitor.alerting.baselines import (
    BLOCK_MS,
    BLOCKS_A_DAY,
    EntityBaseline,
    Expectation,
    MarketBaseline,
    expect,
    log10_tail,
)
from monitor.alerting.rules import Rules
from monitor.records import AlertKind, Direction, Record
from monitor.windows import Sums

HOUR_MS = 3_600_000
WEAKEST = -0.3  # a bound, not a probability: half of one in two; nothing likelier may wake anybody, whatever the budget
_BIN = 0.05  # of log10 p
_BINS = 800
_DAY_MS = 86_400_000


class Finding(Record, frozen=True, kw_only=True):
    """What a detector sees. `log10_p` is the raw tail; `voices` and `usual` are of the window that decided."""

    kind: AlertKind
    direction: Direction
    window_ms: int
    log10_p: float
    voices: float
    usual: float
    series: str


class Tribunal(msgspec.Struct, array_like=True):
    """Raw scores of the past by size, discounted, and the rate per day at which each size came.

    Each entity and block counts once, with its best score: what is ranked is how often anybody's best is that good.
    """

    counts: list[float] = msgspec.field(default_factory=lambda: [0.0] * _BINS)
    days: float = 0.0
    at_ms: int = -1

    def learn(self, log10_p: float, at_ms: int, half_life_days: float) -> None:
        """One closed block of one entity."""
        if self.at_ms < 0:
            self.at_ms = at_ms
        passed = max(0.0, (at_ms - self.at_ms) / _DAY_MS)
        if passed > 0.02:
            keep = 0.5 ** (passed / half_life_days)
            self.counts = [c * keep for c in self.counts]
            self.days = self.days * keep + passed
            self.at_ms = at_ms
        self.counts[_bin(log10_p)] += 1.0

    def per_day(self, log10_p: float) -> float:
        """How often a day such a score, or a better one, came."""
        return sum(self.counts[_bin(log10_p) :]) / max(self.days, 0.25)

    def p_value(self, log10_p: float) -> float:
        """Conformal rank (Vovk et al. 2005, section 2.2) among the scores of the past."""
        total = sum(self.counts)
        return (sum(self.counts[_bin(log10_p) :]) + 1.0) / (total + 1.0)


def detect_burst(
    short: Sums, long: Sums, own: EntityBaseline, market: MarketBaseline, rules: Rules, at_ms: int
) -> Finding | None:
    """More voices than usual in the last hour or the last four: of one direction, or altogether and leaning one way."""
    block, prior = (at_ms - 1) // BLOCK_MS, rules.baseline.prior_days * BLOCKS_A_DAY
    new = own.age_blocks < rules.baseline.warm_up_days * BLOCKS_A_DAY
    voices_min = rules.burst.voices_min_new if new else rules.burst.voices_min
    best: Finding | None = None
    for sums, window_ms in ((short, HOUR_MS), (long, BLOCK_MS)):
        lean = sums.polarity / sums.total if sums.total > 0 else 0.0
        direction: Direction = "negative" if lean < 0 else "positive"
        directed = sums.negative if direction == "negative" else sums.positive
        if abs(lean) < rules.burst.tone_min or directed < voices_min * 0.67:
            continue
        for series, voices in ((direction, directed), ("total", sums.total)):
            if voices < voices_min:
                continue
            index = ("total", "negative", "positive").index(series)
            usual = expect(own, market, index, share=window_ms / BLOCK_MS, block=block, prior_blocks=prior)
            found = log10_tail(voices, usual)
            if best is None or found < best.log10_p:
                best = Finding(
                    kind="burst",
                    direction=direction,
                    window_ms=window_ms,
                    log10_p=found,
                    voices=voices,
                    usual=usual.mean,
                    series=series,
                )
    return best


def detect_tone(long: Sums, square: float, own: EntityBaseline, market_tone: float, rules: Rules) -> Finding | None:
    """Another mean polarity than usual over four hours: a one-sample z test on a record shrunk towards the market.

    `square` is the window's sum of weight × polarity².
    """
    if long.total < rules.tone.voices_min:
        return None
    now = long.polarity / long.total
    prior = 10.0
    usual = (own.tone_sum + prior * market_tone) / (own.tone_weight + prior)
    if abs(now - usual) < rules.tone.shift_min:
        return None
    spread = max(0.05, (own.tone_square + prior * 0.25) / (own.tone_weight + prior) - usual * usual)
    within = max(0.02, square / long.total - now * now)
    z = (now - usual) / math.sqrt(max(spread, within) / long.total + spread / (own.tone_weight + prior))
    return Finding(
        kind="tone",
        direction="negative" if z < 0 else "positive",
        window_ms=BLOCK_MS,
        log10_p=_normal_tail(abs(z)),
        voices=long.total,
        usual=usual,
        series="tone",
    )


def limit_log10_p(rules: Rules, tribunal: Tribunal, entities: int, share: float) -> float:
    """The raw score from which an alert may open, so that `share` of the budget holds for these `entities`.

    Once there is a past: the score that came as often as the budget allows, but never weaker than `WEAKEST`. Before that a
    Bonferroni bound over the tests of a day; the two are blended over the first days.
    """
    budget = max(1e-6, rules.false_alerts_per_day * share)
    bound = math.log10(budget / (max(20, entities) * BLOCKS_A_DAY * 2.0))
    if tribunal.days < 1.0:
        return min(WEAKEST, bound)
    running, earned = 0.0, WEAKEST
    for index in range(_BINS - 1, int(-WEAKEST / _BIN), -1):
        running += tribunal.counts[index]
        if running / tribunal.days > budget:
            earned = -(index + 1) * _BIN
            break
    trust = min(1.0, (tribunal.days - 1.0) / 6.0)
    return min(WEAKEST, trust * earned + (1.0 - trust) * min(bound, earned))


def voices_to_fire(finding: Finding, limit: float, usual: Expectation) -> float:
    """The fewest voices that would still have fired, all else equal."""
    low, high = usual.mean, finding.voices
    if log10_tail(high, usual) > limit:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        if log10_tail(middle, usual) <= limit:
            high = middle
        else:
            low = middle
    return high


def _bin(log10_p: float) -> int:
    return min(_BINS - 1, max(0, int(-log10_p / _BIN)))


def _normal_tail(z: float) -> float:
    """log10 of the two-sided tail; Mills' ratio where erfc underflows."""
    if z < 8:
        return math.log10(max(math.erfc(z / math.sqrt(2)), 1e-300))
    return (-z * z / 2 - math.log(z * math.sqrt(math.pi / 2))) / math.log(10)
