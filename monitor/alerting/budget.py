"""How loud an episode must be to fire: ranked against the watchlist's own past, so that the budget holds whatever the model.

An episode is a stretch in which one entity's score stays above a floor; its peak is what counts, because an alert fires
once per stretch. A score s may fire when episodes that reach s came no oftener than the budget allows:

    (1 + #{past peaks >= s} + D0 · E · m · 10^-s) / (D + D0) <= budget per day

which is a conformal rank (Vovk, Gammerman & Shafer 2005, ch. 2: (1 + #{past >= now}) / (1 + n)) of episode peaks over D days of
record, with D0 days of theory (E entities, m looks a day) while there is little record. Peaks, not looks, are ranked, so
autocorrelation within a stretch doesn't matter. Real events are in the record too: the budget then errs on the quiet side.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort

import msgspec

from monitor.alerting.rules import KINDS, BudgetRules
from monitor.records import AlertKind

DAY_MS = 86_400_000
FLOOR = 2.0  # scores below 10^-2 are no episodes
_EPISODES_MIN = 600


class Episode(msgspec.Struct, array_like=True):
    """A stretch above the floor: its first and last moment and its peak."""

    started_ms: int
    last_ms: int
    peak: float


class Ledger(msgspec.Struct, array_like=True):
    """One detector's record. `past`: (end, peak) of finished episodes; `now`: those that last, by entity."""

    past: list[tuple[int, float]] = msgspec.field(default_factory=list)
    now: dict[str, Episode] = msgspec.field(default_factory=dict)
    floor: float = FLOOR


class BudgetState(msgspec.Struct, array_like=True):
    """What a partition keeps: since when it listens, and a ledger per detector."""

    since_ms: int
    ledgers: dict[str, Ledger] = msgspec.field(default_factory=dict)


class Budget:
    """Answers how rare a score is. `share` is this partition's part of the watchlist's budget."""

    def __init__(self, *, rules: BudgetRules, gap_ms: int, share: float, state: BudgetState) -> None:
        self.state = state
        self._rules, self._gap_ms, self._share = rules, gap_ms, share
        for kind in KINDS:
            state.ledgers.setdefault(kind, Ledger())
        self._peaks = {kind: sorted(peak for _, peak in self._all(kind)) for kind in KINDS}

    def observe(self, kind: AlertKind, entity: str, score: float, at_ms: int) -> None:
        """Take a reading into the record. Readings come in event-time order."""
        ledger = self.state.ledgers[kind]
        if score < ledger.floor:
            return
        episode = ledger.now.get(entity)
        if episode is not None and at_ms - episode.started_ms <= self._gap_ms:
            episode.last_ms = at_ms
            if score > episode.peak:
                self._forget_peak(kind, episode.peak)
                insort(self._peaks[kind], score)
                episode.peak = score
            return
        if episode is not None:
            ledger.past.append((episode.last_ms, episode.peak))
        ledger.now[entity] = Episode(at_ms, at_ms, score)
        insort(self._peaks[kind], score)
        self._prune(kind, at_ms)

    def rate(self, kind: AlertKind, entity: str, score: float, at_ms: int, entities: int) -> float:
        """Episodes a day, over this partition, that reach `score`; the entity's own lasting one counts once."""
        rules = self._rules
        if score < self.state.ledgers[kind].floor:
            return math.inf  # what is not recorded can't be ranked
        days = min(max(at_ms - self.state.since_ms, 0) / DAY_MS, rules.record_days)
        peaks = self._peaks[kind]
        louder = len(peaks) - bisect_left(peaks, score)
        own = self.state.ledgers[kind].now.get(entity)
        if own is None or own.peak < score:
            louder += 1
        theory = rules.prior_days * entities * rules.looks_per_day * 10.0**-score
        return float((louder + theory) / (days + rules.prior_days))

    def allowed(self, kind: AlertKind) -> float:
        """Episodes a day that this detector may turn into alerts."""
        rules = self._rules
        shares = {"burst": rules.burst, "tone": rules.tone, "drift": rules.drift, "divergence": rules.divergence}
        return rules.false_alerts_per_day * shares[kind] * self._share

    def needed(self, kind: AlertKind, at_ms: int, entities: int) -> float:
        """The smallest score that fires now, by bisection; what evidence and flip margin are measured against."""
        low, high = 0.0, 320.0
        for _ in range(40):
            middle = (low + high) / 2
            if self.rate(kind, "", middle, at_ms, entities) <= self.allowed(kind):
                high = middle
            else:
                low = middle
        return high

    def _all(self, kind: AlertKind) -> list[tuple[int, float]]:
        ledger = self.state.ledgers[kind]
        return ledger.past + [(episode.last_ms, episode.peak) for episode in ledger.now.values()]

    def _forget_peak(self, kind: AlertKind, peak: float) -> None:
        peaks = self._peaks[kind]
        del peaks[bisect_left(peaks, peak)]

    def _prune(self, kind: AlertKind, at_ms: int) -> None:
        """Old episodes leave; when there are too many, the faint ones do, and the floor rises."""
        ledger = self.state.ledgers[kind]
        horizon_ms = at_ms - round(self._rules.record_days * DAY_MS)
        for entity in [name for name, episode in ledger.now.items() if at_ms - episode.started_ms > self._gap_ms]:
            episode = ledger.now.pop(entity)
            ledger.past.append((episode.last_ms, episode.peak))
        kept = [each for each in ledger.past if each[0] >= horizon_ms and each[1] >= ledger.floor]
        # Four times what the budget can spend in the record's length: the threshold lies well inside what is kept.
        episodes_max = max(_EPISODES_MIN, round(4 * self.allowed(kind) * self._rules.record_days))
        if len(kept) > episodes_max:
            kept.sort(key=lambda each: (each[1], each[0]))
            ledger.floor = kept[len(kept) // 4][1]
            kept = sorted(kept[len(kept) // 4 :])
        ledger.past = kept
        self._peaks[kind] = sorted(peak for _, peak in self._all(kind))
