"""What is usual: for one entity, shrunk towards the market, and for the market itself. Pure; a few hundred bytes each.

Time is cut into blocks of four hours, aligned to the epoch. Counts of voices per block are overdispersed, so mean and
variance are both kept, as exponentially weighted moments (West 1979 for the update). Blocks in which nothing was said are
caught up in closed form, so an idle entity costs nothing.
"""

from __future__ import annotations

import math

import msgspec

BLOCK_MS = 14_400_000
BLOCKS_A_DAY = 6
SERIES = ("total", "negative", "positive")
_SEASONS = 2 * BLOCKS_A_DAY  # block of the day, on weekdays and at weekends
_DAY_MS = 86_400_000


class Moments(msgspec.Struct, array_like=True):
    """Weighted sums of x and x² per series; `weight` is the number of blocks, discounted."""

    weight: float = 0.0
    sums: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(SERIES))
    squares: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(SERIES))

    def add(self, counts: list[float], keep: float) -> None:
        """One block; `keep` is what a block older is still worth."""
        self.weight = self.weight * keep + 1.0
        for i, x in enumerate(counts):
            self.sums[i] = self.sums[i] * keep + x
            self.squares[i] = self.squares[i] * keep + x * x

    def add_silence(self, blocks: int, keep: float) -> None:
        """`blocks` blocks in which nothing was said, at once."""
        faded = keep**blocks
        self.weight = self.weight * faded + (1.0 - faded) / (1.0 - keep)
        self.sums = [s * faded for s in self.sums]
        self.squares = [s * faded for s in self.squares]


class EntityBaseline(msgspec.Struct, array_like=True):
    """One entity's past, and the block that is being filled."""

    moments: Moments = msgspec.field(default_factory=Moments)
    block: int = -1
    first_block: int = -1
    counts: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(SERIES))
    tone_weight: float = 0.0
    tone_sum: float = 0.0
    tone_square: float = 0.0

    def roll_to(self, block: int, keep: float) -> list[float] | None:
        """Close the blocks before `block`; returns the counts of the one that was being filled, if there was one."""
        if self.block < 0:
            self.block = self.first_block = block
            return None
        if block <= self.block:
            return None
        closed, silent = self.counts, block - self.block - 1
        self.moments.add(closed, keep)
        if silent:
            self.moments.add_silence(silent, keep)
        faded = keep ** (block - self.block)
        self.tone_weight, self.tone_sum, self.tone_square = (
            self.tone_weight * faded,
            self.tone_sum * faded,
            self.tone_square * faded,
        )
        self.block, self.counts = block, [0.0] * len(SERIES)
        return closed

    def hear(self, weight: float, negative: float, positive: float, polarity: float) -> None:
        """One story of the block that is being filled."""
        self.counts[0] += weight
        self.counts[1] += negative
        self.counts[2] += positive
        self.tone_weight += weight
        self.tone_sum += weight * polarity
        self.tone_square += weight * polarity * polarity

    @property
    def age_blocks(self) -> int:
        return self.block - self.first_block


class MarketBaseline(msgspec.Struct, array_like=True):
    """The average entity, and when in the day and week the market talks."""

    moments: Moments = msgspec.field(default_factory=Moments)
    seasons: list[float] = msgspec.field(default_factory=lambda: [1.0] * _SEASONS)
    season_weights: list[float] = msgspec.field(default_factory=lambda: [1.0] * _SEASONS)

    def learn(self, block: int, counts: list[float], entities: int) -> None:
        """An entity's closed block. `entities` are known: the average changes by one part in that many."""
        keep = 1.0 - 1.0 / (200.0 + 60.0 * entities)
        self.moments.add(counts, keep)
        index = season(block)
        # How much more than on average is said now; a long memory, so that one loud day is no season.
        mean = self.moments.sums[0] / self.moments.weight
        if mean > 0:
            self.seasons[index] = self.seasons[index] * keep + counts[0] / mean
            self.season_weights[index] = self.season_weights[index] * keep + 1.0

    def factor(self, block: int) -> float:
        """Expected voices of this block against the average one, kept between a fifth and five."""
        index = season(block)
        ratio = (self.seasons[index] + 20.0) / (self.season_weights[index] + 20.0)
        return min(5.0, max(0.2, ratio))


class Expectation(msgspec.Struct, frozen=True):
    """Mean and variance of the voices of one series in one window."""

    mean: float
    variance: float


def expect(
    own: EntityBaseline, market: MarketBaseline, series: int, *, share: float, block: int, prior_blocks: float
) -> Expectation:
    """What is usual in a window that is `share` of a block long. The record is shrunk towards the average entity."""
    weight = own.moments.weight + prior_blocks
    base, market_weight = 0.05, max(1.0, market.moments.weight)
    average = market.moments.sums[series] / market_weight + base
    square = market.moments.squares[series] / market_weight + base
    mean = (own.moments.sums[series] + prior_blocks * average) / weight
    second = (own.moments.squares[series] + prior_blocks * square) / weight
    factor = market.factor(block) * share
    variance = max(second - mean * mean, mean) * factor
    return Expectation(mean=max(1e-3, mean * factor), variance=max(variance, mean * factor, 1e-3))


def log10_tail(x: float, expected: Expectation) -> float:
    """log10 of a bound on P(X ≥ x) for a negative binomial X with that mean and variance; 0 where x is not above it.

    Chernoff's bound: with size r = mean² / (variance − mean), P(X ≥ x) ≤ exp(−[x ln(x/m) − (x + r) ln((x + r)/(m + r))]);
    the Poisson bound is its limit for large r.
    """
    m = expected.mean
    if x <= m:
        return 0.0
    excess = expected.variance - m
    if excess <= 1e-9 * m:
        exponent = x * math.log(x / m) - (x - m)
    else:
        r = m * m / excess
        exponent = x * math.log(x / m) - (x + r) * math.log((x + r) / (m + r))
    return -max(0.0, exponent) / math.log(10)


def season(block: int) -> int:
    """Block of the day, on weekdays 0–5 and at weekends 6–11. Day 0 of the epoch was a Thursday."""
    day = block * BLOCK_MS // _DAY_MS
    weekend = (day + 3) % 7 >= 5
    return block % BLOCKS_A_DAY + (BLOCKS_A_DAY if weekend else 0)
