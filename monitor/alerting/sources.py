"""What is known of each source of a channel: how much of what it says is new, and in which tone it usually speaks."""

from __future__ import annotations

import msgspec

from monitor.alerting.market import decay
from monitor.alerting.rules import BaselineRules

SOURCES_MAX = 512
_PRIOR_ITEMS = 5.0
_PRIOR_VOICES = 20.0


class Source(msgspec.Struct, array_like=True):
    """Sums as of hour `at_hour` that decay together: items as they came, the voices they were worth, weighted polarity."""

    at_hour: int
    items: float = 0.0
    voices: float = 0.0
    polarity: float = 0.0

    def quality(self) -> float:
        """Voices over items, 0 … 1; five items of middling quality stand for what is not known yet."""
        return min(1.0, (self.voices + 0.5 * _PRIOR_ITEMS) / (self.items + _PRIOR_ITEMS))

    def tone(self, usual: float) -> float:
        """Its mean polarity, shrunk to the channel's."""
        return (self.polarity + _PRIOR_VOICES * usual) / (self.voices + _PRIOR_VOICES)


class Sources(msgspec.Struct, array_like=True):
    """The sources of one channel in one partition."""

    known: dict[str, Source] = msgspec.field(default_factory=dict)

    def hear(self, name: str, *, hour: int, voices: float, polarity: float, rules: BaselineRules) -> None:
        """One item of a source, worth so many voices (0: a copy), with weight × polarity."""
        source = self.known.get(name)
        if source is None:
            if len(self.known) >= SOURCES_MAX:
                self._forget(hour, rules)
            source = self.known[name] = Source(hour)
        if hour > source.at_hour:
            factor = decay(hour - source.at_hour, rules)
            source.items *= factor
            source.voices *= factor
            source.polarity *= factor
            source.at_hour = hour
        source.items += 1.0
        source.voices += voices
        source.polarity += polarity

    def quality(self, name: str) -> float:
        return self.known[name].quality() if name in self.known else 0.5

    def tone(self, name: str, usual: float) -> float:
        return self.known[name].tone(usual) if name in self.known else usual

    def _forget(self, hour: int, rules: BaselineRules) -> None:
        """Room for the new: the faintest quarter goes."""
        faint = sorted(
            self.known, key=lambda name: (self.known[name].items * decay(hour - self.known[name].at_hour, rules), name)
        )
        for name in faint[: SOURCES_MAX // 4]:
            del self.known[name]
