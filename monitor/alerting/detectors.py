"""Four detectors, each a pure function from a window and what it should hold to a score: minus the decimal log of a p-value.

- burst: more voices than usual. The tail of the negative binomial by its signed root, Φ(−√2D) with D the Kullback–Leibler
  divergence of the observed from the expected (for the binomial these are sharp bounds: Zubkov & Serov 2013, Theorem 1).
- tone: the mean polarity of independent voices against the entity's own shrunk mean and the market's move (a z-test).
- drift: CUSUM over four-hour blocks of the standardised tone (Page 1954); tail by Siegmund 1985, eq. 2.52: e^(−2k(h + 1.166)).
- divergence: news against social in one day, against the usual difference (a two-sample z-test).

The scores are theory; how often each is reached in this watchlist is what the budget ranks (see budget.py).
"""

from __future__ import annotations

import math

import msgspec

from monitor.alerting.baselines import Expected
from monitor.alerting.rules import DetectorRules
from monitor.records import AlertKind, Direction

LN10 = math.log(10.0)
SCORE_MAX = 300.0


class Voices(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of a window, in units of one voice."""

    total: float
    negative: float
    positive: float
    polarity: float


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A detector's reading. `score` = −log10 p in theory; `tone` is the window's excess over the usual polarity."""

    kind: AlertKind
    direction: Direction
    score: float
    window_s: int
    voices: Voices
    expected: Expected
    tone: float


def burst(voices: Voices, usual: Expected, window_s: int, rules: DetectorRules) -> Signal | None:
    """More voices than usual, and a direction in which they lean; None without a surplus. The caller holds the least number."""
    if voices.total <= max(usual.voices, 0.0):
        return None
    negative = surplus(voices.negative, usual.negative, usual.size)
    positive = surplus(voices.positive, usual.positive, usual.size)
    tone = voices.polarity / voices.total - usual.tone
    direction: Direction = "negative" if tone < 0 else "positive"
    aligned = negative if direction == "negative" else positive
    lean = abs(tone) * math.sqrt(voices.total / usual.variance)
    total = surplus(voices.total, usual.voices, usual.size)
    divergence = (total + rules.direction_weight * max(aligned, 0.0)) / (1.0 + rules.direction_weight)
    divergence *= lean / (1.0 + lean)
    return Signal(
        kind="burst",
        direction=direction,
        score=tail_score(math.sqrt(2.0 * divergence)),
        window_s=window_s,
        voices=voices,
        expected=usual,
        tone=tone,
    )


def tone_shift(
    voices: Voices, usual: Expected, window_s: int, market_tone: float, rules: DetectorRules
) -> Signal | None:
    """Another tone than usual, once the market's own move is taken away; None with too few voices."""
    if voices.total < rules.tone_voices_min:
        return None
    tone = voices.polarity / voices.total - usual.tone - market_tone
    return Signal(
        kind="tone",
        direction="negative" if tone < 0 else "positive",
        score=tail_score(abs(tone) / math.sqrt(usual.variance / voices.total + usual.variance / 20.0)),
        window_s=window_s,
        voices=voices,
        expected=usual,
        tone=tone,
    )


def drift(
    voices: Voices, usual: Expected, window_s: int, rules: DetectorRules, *, up: float, down: float
) -> Signal | None:
    """A small shift that lasts: the larger of the two CUSUM sides."""
    height = max(up, down)
    if height <= 0 or voices.total <= 0:
        return None
    return Signal(
        kind="drift",
        direction="positive" if up >= down else "negative",
        score=min(2.0 * rules.drift_slack * (height + 1.166) / LN10, SCORE_MAX),
        window_s=window_s,
        voices=voices,
        expected=usual,
        tone=voices.polarity / voices.total - usual.tone,
    )


def divergence(
    news: Voices, usual_news: Expected, social: Voices, usual_social: Expected, *, window_s: int, rules: DetectorRules
) -> Signal | None:
    """News and social disagree more than they are used to; the direction is that of the news."""
    if min(news.total, social.total) < rules.tone_voices_min:
        return None
    tone_news = news.polarity / news.total - usual_news.tone
    tone_social = social.polarity / social.total - usual_social.tone
    if tone_news * tone_social >= 0:
        return None
    spread = usual_news.variance * (1 / news.total + 0.05) + usual_social.variance * (1 / social.total + 0.05)
    return Signal(
        kind="divergence",
        direction="negative" if tone_news < 0 else "positive",
        score=tail_score(abs(tone_news - tone_social) / math.sqrt(spread)),
        window_s=window_s,
        voices=news,
        expected=usual_news,
        tone=tone_news,
    )


def surplus(n: float, mean: float, size: float) -> float:
    """Kullback–Leibler divergence (nats) of n voices from the negative binomial of this mean and size; 0 below the mean."""
    if n <= mean:
        return 0.0
    mean = max(mean, 1e-6)
    return n * math.log(n / mean) - (n + size) * math.log((n + size) / (mean + size))


def tail_score(z: float) -> float:
    """−log10 of the upper tail of the standard normal, also where it underflows (Abramowitz & Stegun 26.2.12)."""
    if z < 30.0:
        return -math.log10(max(0.5 * math.erfc(z / math.sqrt(2.0)), 1e-300))
    return min((z * z / 2.0 + math.log(z * math.sqrt(2.0 * math.pi))) / LN10, SCORE_MAX)
