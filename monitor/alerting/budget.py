"""How loud an episode must be to fire, so that a stated number of alerts a day is spent: no more, and under a null no less.

Two parts, both driven by event time alone:

1. Rank. An episode is a stretch of one entity of at most a cooldown's length; its peak is what counts, because an alert
   fires once per stretch, so autocorrelation within it doesn't matter. The record of a detector holds the peaks of the
   whole watchlist, fading with one half-life, and answers how many episodes a day reach a score s:

       λ(s) = (#{peaks ≥ s} − ½ + D₀ · E · 10^(−s / h)) / (D + D₀)

   a conformal rank (Vovk, Gammerman & Shafer 2005, ch. 2) over D days with the episode at hand in the record, counted by
   half (mid-p: Lancaster 1961) because the full rank fires too seldom while the record is short, but in full at a cold start; D₀ days of theory (E
   entities, one look a day) stand in for a record. Where fewer than five are louder, a count is coarse and two real bursts on
   one day would make all others wait for a third as loud: there the tail goes on as the highest twenty peaks fell, exponential
   in log(1 + s), that is Pareto (peaks over threshold: Pickands 1975; its index as in Hill 1975). On null replays of real streams a score s was reached as often as theory
   says of 0.3 s to 0.7 s, so at a cold start h is 3; it falls to 1 within three days, when the record speaks. λ(s) / E is the p-value that an alert shows: the share of entity-days that
   are as loud. Detectors have weights (weighted p-values: Genovese, Roeder & Wasserman 2006).

2. Account. Ranks are right on average only when the future is like the record, and a peak that is told once may be heard
   again. So what was earned (budget × time) and spent (alerts) is kept, and the rate that may fire is

       B · exp(g · (earned − spent)),     |earned − spent| ≤ C,     g = max(gain, 1 / (D + D₀))

   the integral part of a quantile tracker (Gibbs & Candès 2021, "Adaptive conformal inference under distribution shift",
   eq. 2; Angelopoulos, Candès & Tibshirani 2023, "Conformal PID control", § 2.2): alerts stay within C of budget × time
   for as long as the account isn't full, whatever the scores are. Its steps
   shrink with the record as in stochastic approximation (Robbins & Monro 1951; Angelopoulos, Barber & Bates 2024, "Online
   conformal prediction with decaying step sizes"): a start that was too shy is made good within days, and later a season in
   which much happens may spend what a dull one has saved. It is alpha-investing by the clock (Foster & Stine
   2008): wealth grows with time and not with the number of looks, because the promise is a rate per day.

Real events are in the record and are paid from the account: the budget bounds all alerts, not only the false ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from monitor.alerting.records import BINS, HOUR_MS, BudgetState, Episode, Ledger
from monitor.alerting.rules import BudgetRules

DAY_MS = 86_400_000
_BINS_A_NEPER = 50.0
_COLD_DAYS = 3.0
_HEAVY = 3.0  # how many times too large scores are taken to be at a cold start
_RANKED_MIN = 5.0  # where fewer are louder, the tail speaks
_TAIL = 20.0  # peaks that it is fitted to, at most; and at least
_TAIL_MIN = 5.0
_ACCOUNT_MAX = 8.0  # alerts; or what is earned in so many days, whichever is more
_ACCOUNT_DAYS_MAX = 10.0


class Budget:
    """Answers how rare a score is and whether it may fire. `share` is this partition's part of the watchlist's budget."""

    __slots__ = ("_fade", "_gap_ms", "_most", "_per_day", "_rules", "_sure", "_tails", "_weights", "state")

    def __init__(
        self, *, rules: BudgetRules, shares: Mapping[str, float], gap_ms: int, share: float, state: BudgetState
    ) -> None:
        self.state = state
        self._rules, self._gap_ms = rules, gap_ms
        self._per_day = rules.false_alerts_per_day * share
        self._most = max(_ACCOUNT_MAX, _ACCOUNT_DAYS_MAX * self._per_day)
        self._weights = shares
        self._sure: dict[str, tuple[int, float]] = {}
        self._tails: dict[str, _Tail | None] = {}  # of the records as they stand
        self._fade = 0.5 ** (1.0 / (24.0 * rules.half_life_days))
        for name in shares:
            state.ledgers.setdefault(name, Ledger())

    def move_to(self, at_ms: int) -> None:
        """Let the record fade to this moment, hour by hour; call it before the readings of a moment."""
        state, hour = self.state, at_ms // HOUR_MS
        passed = hour - state.at_hour
        if passed <= 0:
            return
        state.at_hour = hour
        self._tails.clear()
        fade = self._fade**passed
        # The sum of a geometric series: what `passed` hours are worth, each faded by those after it.
        state.days = state.days * fade + (1.0 - fade) / (1.0 - self._fade) / 24.0
        for record in state.ledgers.values():
            record.peaks = [weight * fade for weight in record.peaks]
            record.now = {
                name: Episode(each.started_ms, each.bin, each.weight * fade)
                for name, each in record.now.items()
                if at_ms - each.started_ms <= self._gap_ms
            }

    def observe(self, ledger: str, entity: str, score: float, at_ms: int) -> None:
        """Take a reading into the record. Readings come in event-time order."""
        record = self.state.ledgers[ledger]
        where = min(int(_BINS_A_NEPER * math.log1p(score)), BINS - 1)
        episode = record.now.get(entity)
        if episode is None or at_ms - episode.started_ms > self._gap_ms:
            record.now[entity] = Episode(at_ms, where, 1.0)
            record.peaks[where] += 1.0
            self._tails.pop(ledger, None)
        elif where > episode.bin:
            record.peaks[episode.bin] -= episode.weight
            record.peaks[where] += episode.weight
            episode.bin = where
            self._tails.pop(ledger, None)

    def may_fire(self, ledger: str, score: float, at_ms: int, entities: int) -> bool:
        """False where `rate` is certain to be above what is allowed for the rest of the hour: most readings end here.

        Within an hour the record and the watchlist only grow and what is allowed grows with the clock alone, so a score
        that can't fire by the hour's end can't fire before: neither where theory alone allows too little, nor where so many
        are louder in the record that the tail is not asked.
        """
        hour, floor = self._sure.get(ledger, (-1, 0.0))
        if hour != self.state.at_hour:
            end_ms = (at_ms // HOUR_MS + 1) * HOUR_MS
            floor = max(self._floor(ledger, end_ms), self._theory_floor(ledger, end_ms, entities))
            self._sure[ledger] = (self.state.at_hour, floor)
        return score >= floor

    def _theory_floor(self, ledger: str, at_ms: int, entities: int) -> float:
        """Below, the looks of so many entities alone are more than is allowed; a hair lower, for what floats round."""
        allowed = self.allowed(ledger, at_ms) * (self.state.days + self._rules.prior_days)
        theory = self._rules.prior_days * entities
        if theory <= allowed or allowed <= 0.0:
            return 0.0
        return self._heavy() * math.log10(theory / allowed) * (1.0 - 1e-9) - 1e-9

    def _floor(self, ledger: str, at_ms: int) -> float:
        most = max(_RANKED_MIN, self.allowed(ledger, at_ms) * (self.state.days + self._rules.prior_days) + 0.5)
        louder, peaks = 0.0, self.state.ledgers[ledger].peaks
        for where in range(BINS - 1, -1, -1):
            louder += peaks[where]
            if louder > most:
                return math.expm1(where / _BINS_A_NEPER)
        return 0.0

    def rate(self, ledger: str, score: float, entities: int) -> float:
        """Episodes a day, over this partition, that reach `score`, itself included if it was observed."""
        rules, state = self._rules, self.state
        place = min(_BINS_A_NEPER * math.log1p(score), BINS - 1.0)
        where, peaks = int(place), state.ledgers[ledger].peaks
        louder = sum(peaks[where + 1 :]) + peaks[where] * (where + 1.0 - place)
        known = min(1.0, state.days / _COLD_DAYS)
        theory = rules.prior_days * entities * 10.0 ** (-score / self._heavy())
        louder = max(louder, 1.0)
        count = louder - 0.5 * known
        if louder < _RANKED_MIN and (tail := self._tail(ledger)) is not None:
            share = (louder - 1.0) / (_RANKED_MIN - 1.0)
            beyond = tail.peaks * math.exp(-max(place - tail.where, 0.0) / tail.spread)
            count = share * count + (1.0 - share) * min(count, beyond)
        return float((count + theory) / (state.days + rules.prior_days))

    def allowed(self, ledger: str, at_ms: int) -> float:
        """Episodes a day that this detector may turn into alerts now."""
        account = min(self.state.account + self._per_day * (at_ms - self.state.account_ms) / DAY_MS, self._most)
        # Held below what a float can bear: with thousands a day unspent, anything may fire anyway.
        return self._weights[ledger] * self._per_day * math.exp(min(self._gain() * account, 50.0))

    def spend(self, at_ms: int) -> None:
        """An alert was opened."""
        state = self.state
        earned = self._per_day * (at_ms - state.account_ms) / DAY_MS
        state.account = max(min(state.account + earned, self._most) - 1.0, -self._most)
        state.account_ms = at_ms

    def needed(self, ledger: str, at_ms: int, entities: int) -> float:
        """The smallest score that fires now, by bisection; what evidence and flip margin are measured against."""
        low, high, allowed = 0.0, 320.0, self.allowed(ledger, at_ms)
        for _ in range(40):
            middle = (low + high) / 2
            if self.rate(ledger, middle, entities) <= allowed:
                high = middle
            else:
                low = middle
        return high

    def _tail(self, ledger: str) -> _Tail | None:
        """Fitted once however many scores are asked about; None with few peaks."""
        if ledger not in self._tails:
            self._tails[ledger] = _tail_of(self.state.ledgers[ledger].peaks)
        return self._tails[ledger]

    def _heavy(self) -> float:
        return _HEAVY + (1.0 - _HEAVY) * min(1.0, self.state.days / _COLD_DAYS)

    def _gain(self) -> float:
        return max(self._rules.gain, 1.0 / (self.state.days + self._rules.prior_days))


class _Tail(NamedTuple):
    """So many peaks lie at bin `where` or above; beyond, the record goes on as they fell: exponential, by `spread` bins."""

    peaks: float
    where: int
    spread: float


def _tail_of(peaks: Sequence[float]) -> _Tail | None:
    wanted = min(_TAIL, sum(peaks) / 2.0)
    if wanted < _TAIL_MIN:
        return None
    count, excess, where = 0.0, 0.0, BINS
    while count < wanted:
        where -= 1
        count += peaks[where]
        excess += peaks[where] * (where + 0.5)
    return _Tail(count, where, max(excess / count - where, 0.5))
