"""How much of a channel each source makes: of all items of the 24 complete hours before this one, copies included.

Items and not voices, complete hours and not a sliding window: so the share depends on what came and on nothing that was
decided, a burst does not vouch for itself, and a restart finds the same.
"""

from __future__ import annotations

from collections import deque

HOUR_MS = 3_600_000
HOURS = 24


Counts = dict[str, dict[str | None, int]]  # by channel and source; None: all sources of the channel


class Shares:
    """The sources of one partition. Items must come in event-time order."""

    __slots__ = ("_closed", "_hour", "_open", "_totals")

    def __init__(self) -> None:
        self._hour: int | None = None
        self._open: Counts = {}
        self._closed: deque[tuple[int, Counts]] = deque()
        self._totals: Counts = {}

    def hear(self, at_ms: int, channel: str, source: str) -> float:
        """Count one item; returns its source's share of the channel, 1 while nothing is known."""
        hour = at_ms // HOUR_MS
        if hour != self._hour:
            self._turn(hour)
        counts = self._open.get(channel)
        if counts is None:
            counts = self._open[channel] = {None: 0}
        counts[None] += 1
        counts[source] = counts.get(source, 0) + 1
        totals = self._totals.get(channel)
        return totals.get(source, 0) / totals[None] if totals else 1.0

    def _turn(self, hour: int) -> None:
        totals = self._totals
        if self._hour is not None:
            self._closed.append((self._hour, self._open))
            for channel, counts in self._open.items():
                known = totals.setdefault(channel, {})
                for source, count in counts.items():
                    known[source] = known.get(source, 0) + count
        while self._closed and self._closed[0][0] < hour - HOURS:
            for channel, counts in self._closed.popleft()[1].items():
                known = totals[channel]
                for source, count in counts.items():
                    known[source] -= count
                    if not known[source]:
                        del known[source]
        self._hour, self._open = hour, {}
