"""Who told the stories of the last hours: how many are one source's, and how many come from accounts that are new here.

     [─────────────── 24 h before ───────────────)[──── 4 h ────)
─────●──────●───────────●────────●─────●──────────────●●──●──●●─┤ now
     newcomers as they usually speak               those of now: more than usual?
"""

from __future__ import annotations

from collections import deque

from monitor.windows.records import Told

SPAN_MS = 4 * 3_600_000
SHORT_MS = 3_600_000
BEFORE_MS = 24 * 3_600_000


class Tellers:
    """The stories of one entity in one channel, in event-time order."""

    __slots__ = ("_before", "_by_source", "_hour", "_newcomers", "_newcomers_h", "_span")

    def __init__(self) -> None:
        self._span: deque[tuple[int, str, bool, bool]] = deque()
        self._hour: deque[tuple[int, bool]] = deque()
        self._before: deque[int] = deque()
        self._by_source: dict[str, int] = {}
        self._newcomers = self._newcomers_h = 0

    def hear(self, at_ms: int, source: str, *, newcomer: bool, echo: bool = False) -> Told:
        """Who spoke before; counts this story too."""
        self.forget_before(at_ms)
        span, hour, by_source = self._span, self._hour, self._by_source
        same, new, new_h = by_source.get(source, 0), self._newcomers, self._newcomers_h
        told = Told(same, len(span) - same, new, len(span) - new, new_h, len(hour) - new_h, len(self._before))
        span.append((at_ms, source, newcomer, echo))
        hour.append((at_ms, newcomer))
        by_source[source] = same + 1
        self._newcomers += newcomer
        self._newcomers_h += newcomer
        return told

    def forget_before(self, at_ms: int) -> bool:
        """Drop what no window reaches at this moment; is nothing left?"""
        span, hour, before, by_source = self._span, self._hour, self._before, self._by_source
        while span and span[0][0] < at_ms - SPAN_MS:
            told_ms, gone, was_new, was_echo = span.popleft()
            self._newcomers -= was_new
            if was_new and not was_echo:
                before.append(told_ms)
            if by_source[gone] > 1:
                by_source[gone] -= 1
            else:
                del by_source[gone]
        while hour and hour[0][0] < at_ms - SHORT_MS:
            self._newcomers_h -= hour.popleft()[1]
        while before and before[0] < at_ms - SPAN_MS - BEFORE_MS:
            before.popleft()
        return not (span or before)
