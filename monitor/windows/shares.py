"""How much of a channel each source makes: of all items of the 24 complete hours before this one, copies included.

Items and not voices, complete hours and not a sliding window: so the share depends on what came and on nothing that was
decided, a burst does not vouch for itself, and a restart finds the same.
"""

from __future__ import annotations

from collections import deque

HOUR_MS = 3_600_000
HOURS = 24


class Shares:
    """The sources of one partition. Items must come in event-time order."""

    __slots__ = ("_closed", "_hour", "_open", "_totals")

    def __init__(self) -> None:
        self._hour: int | None = None
        self._open: dict[tuple[str, str | None], int] = {}
        self._closed: deque[tuple[int, dict[tuple[str, str | None], int]]] = deque()
        self._totals: dict[tuple[str, str | None], int] = {}

    def hear(self, at_ms: int, channel: str, source: str) -> float:
        """Count one item; returns its source's share of the channel, 1 while nothing is known."""
        hour = at_ms // HOUR_MS
        if hour != self._hour:
            self._turn(hour)
        for key in ((channel, source), (channel, None)):
            self._open[key] = self._open.get(key, 0) + 1
        total = self._totals.get((channel, None))
        return self._totals.get((channel, source), 0) / total if total else 1.0

    def _turn(self, hour: int) -> None:
        totals = self._totals
        if self._hour is not None:
            self._closed.append((self._hour, self._open))
            for key, count in self._open.items():
                totals[key] = totals.get(key, 0) + count
        while self._closed and self._closed[0][0] < hour - HOURS:
            for key, count in self._closed.popleft()[1].items():
                left = totals[key] - count
                if left:
                    totals[key] = left
                else:
                    del totals[key]
        self._hour, self._open = hour, {}
