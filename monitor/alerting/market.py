"""One channel of a partition: the profile of its week, and the averages that its entities are measured against."""

from __future__ import annotations

import msgspec

from monitor.alerting.rules import BaselineRules

WEEK_H = 168
_TOD_PRIOR_H = 3.0  # hours of record that the overall mean is worth for one hour of the day
_HOW_PRIOR_H = 6.0  # hours of record that the hour of the day is worth for one hour of the week
_SECTOR_PRIOR_VOICES = 50.0  # voices that the market's tone is worth for a sector's
_FADING = ("tone_w", "tone_p", "tone_sq", "negative", "positive", "decisive", "day_peaks", "peak_days")
PEAK_PRIOR_DAYS = 30.0
_GAP_H = 24 * 60  # after a longer silence of the whole partition only this much of it is counted


class Market(msgspec.Struct, array_like=True):
    """All sums decay together.

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
        self.day_peak = (self.day_peaks + PEAK_PRIOR_DAYS) / (self.peak_days + PEAK_PRIOR_DAYS)
        # The mean polarity of a sector, shrunk to that of the market.
        self.sector_tones = {
            name: (polarity + _SECTOR_PRIOR_VOICES * mean) / (voices + _SECTOR_PRIOR_VOICES)
            for name, (voices, polarity) in self.sectors.items()
        }
        if slot % 24 == 23:
            self.week = [self._profile(each) for each in range(WEEK_H)]


def decay(hours: int, rules: BaselineRules) -> float:
    """What is left of a sum after so many hours."""
    return float(0.5 ** (hours / (24.0 * rules.half_life_days)))
