"""Four detectors, each a pure function from a window and what it should hold to a score: minus the decimal log of a p-value.

- burst: more voices than usual, in standard deviations of the negative binomial (its Pearson residual: McCullagh & Nelder
  1989, § 2.4.1), over how far the entity's own days usually go; plus a part of how clearly they lean in one direction. That
  is the sign of their tone against the entity's own; what the whole market's tone has moved adds nothing to the score. The
  Pearson residual and not the likelihood root: against prices a few voices on a silent company are worth more than the
  root grants them.
- tone: the mean polarity of independent voices against the entity's own shrunk mean and the market's move (a z-test).
- drift: a bank of CUSUMs over four-hour blocks of the standardised tone (see cusum.py).
- divergence: news against social in one day, against the usual difference (a two-sample z-test).

The scores are theory; how often each is reached in this watchlist is what the budget ranks (see budget.py).
"""

from __future__ import annotations

import math

from monitor.alerting.cusum import heights
from monitor.alerting.records import Expected, Signal
from monitor.alerting.rules import DetectorRules
from monitor.records import Direction, Voices

LN10 = math.log(10.0)
SCORE_MAX = 300.0
_SQRT_HALF = math.sqrt(0.5)


def burst(voices: Voices, usual: Expected, window_s: int, rules: DetectorRules) -> Signal | None:
    """More voices than usual, and the direction in which they lean; None without a surplus. The caller holds the least number."""
    excess = surplus(voices.total, usual.voices, usual.size)
    if excess <= 0.0:
        return None
    tone = voices.polarity / voices.total - usual.tone
    return Signal(
        kind="burst",
        direction="negative" if tone < 0 else "positive",
        score=burst_score(excess, voices.total, voices.polarity, usual, usual.market_tone, rules),
        window_s=window_s,
        voices=voices,
        expected=usual,
        tone=tone,
    )


def burst_score(
    excess: float, total: float, polarity: float, usual: Expected, market_tone: float, rules: DetectorRules
) -> float:
    """The score of a burst whose surplus is known; of `usual` only what holds for any window is asked."""
    tone = polarity / total - usual.tone
    own = tone - market_tone
    deviations = excess / usual.habit
    if tone * own > 0.0:
        deviations += rules.lean_weight * abs(own) * math.sqrt(total / usual.variance)
    return tail_score(deviations)


def tone_shift(voices: Voices, usual: Expected, window_s: int, rules: DetectorRules) -> Signal | None:
    """Another tone than usual, once the market's own move is taken away; None with too few voices."""
    if voices.total < rules.tone_voices_min:
        return None
    tone = _own_tone(voices, usual, usual.market_tone)
    return Signal(
        kind="tone",
        direction="negative" if tone < 0 else "positive",
        score=tone_score(voices, usual, usual.market_tone),
        window_s=window_s,
        voices=voices,
        expected=usual,
        tone=tone,
    )


def tone_score(voices: Voices, usual: Expected, market_tone: float) -> float:
    """The score of another tone; see `burst_score`."""
    spread = math.sqrt(usual.variance / voices.total + usual.variance / 20.0)
    return tail_score(abs(_own_tone(voices, usual, market_tone)) / spread)


def _own_tone(voices: Voices, usual: Expected, market_tone: float) -> float:
    return voices.polarity / voices.total - usual.tone - market_tone


def drift(voices: Voices, usual: Expected, window_s: int, bank: list[float]) -> Signal | None:
    """A shift that lasts: the highest of the CUSUMs (see cusum.py)."""
    direction, score = drift_score(bank)
    if score <= 0 or voices.total <= 0:
        return None
    return Signal(
        kind="drift",
        direction=direction,
        score=score,
        window_s=window_s,
        voices=voices,
        expected=usual,
        tone=voices.polarity / voices.total - usual.tone,
    )


def drift_score(bank: list[float]) -> tuple[Direction, float]:
    """The side on which a bank stands highest, and how high, in decimal logs."""
    up, down = heights(bank)
    return ("positive" if up >= down else "negative"), min(max(up, down) / LN10, SCORE_MAX)


def divergence(
    news: Voices, usual_news: Expected, social: Voices, usual_social: Expected, *, window_s: int, rules: DetectorRules
) -> Signal | None:
    """News and social disagree more than they are used to; the direction is that of the news."""
    if min(news.total, social.total) < rules.tone_voices_min:
        return None
    score = divergence_score(news, usual_news, social, usual_social)
    if score <= 0.0:
        return None
    tone = news.polarity / news.total - usual_news.tone
    return Signal(
        kind="divergence",
        direction="negative" if tone < 0 else "positive",
        score=score,
        window_s=window_s,
        voices=news,
        expected=usual_news,
        tone=tone,
    )


def divergence_score(news: Voices, usual_news: Expected, social: Voices, usual_social: Expected) -> float:
    """The score of a divergence, 0 where both lean the same way. Both channels have spoken."""
    tone_news = news.polarity / news.total - usual_news.tone
    tone_social = social.polarity / social.total - usual_social.tone
    if tone_news * tone_social >= 0:
        return 0.0
    spread = usual_news.variance * (1 / news.total + 0.05) + usual_social.variance * (1 / social.total + 0.05)
    return tail_score(abs(tone_news - tone_social) / math.sqrt(spread))


def surplus(n: float, mean: float, size: float) -> float:
    """Standard deviations by which n voices exceed a negative binomial of this mean and size; half a voice of variance
    stands for what is not known of the mean of the hardly ever named. Not above the mean: 0 or less."""
    return (n - mean) / math.sqrt(mean + mean * mean / size + 0.5)


def tail_score(z: float) -> float:
    """−log10 of the upper tail of the standard normal, also where it underflows (Abramowitz & Stegun 26.2.12)."""
    if z < 30.0:
        return -math.log10(0.5 * math.erfc(z * _SQRT_HALF))
    return min((z * z / 2.0 + math.log(z * math.sqrt(2.0 * math.pi))) / LN10, SCORE_MAX)
