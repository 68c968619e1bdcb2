"""Sliding windows as exact sums over the stories of one entity and channel.

                                now
    ────●───●─●──────●──●──●─●──┤
                    [──── 1 h ──)      a story belongs to every window that reaches back to it
          [──────────── 4 h ────)

Weights are whole millionths, so that adding and taking away is exact: the sums depend on which stories are inside, never
on the order in which they came or on how often the process was restarted. A window is what was said in all minus what was
said before its first story, so that a story costs the same however many windows there are.
"""

from __future__ import annotations

from bisect import bisect_left

from monitor.records import Voices
from monitor.windows.records import Story

UNIT = 1_000_000


class SlidingSums:
    """Sums over several windows at once. A story costs the same however many windows there are, and a window that nobody asks
    for costs nothing."""

    __slots__ = ("_at_ms", "_before", "_first", "_lengths_ms", "_now_ms", "_said", "_windows", "stories")

    def __init__(self, lengths_ms: tuple[int, ...]) -> None:
        assert lengths_ms == tuple(sorted(lengths_ms)), "windows go from short to long"
        self._lengths_ms = lengths_ms
        self._first = [0] * len(lengths_ms)  # of each window, when it was last asked for: it may lag behind
        self._now_ms: int | None = None
        self._windows: dict[int, Voices] = {}  # those that were asked for at this moment
        self._said = (0, 0, 0, 0)
        self._before: list[tuple[int, int, int, int]] = []
        self._at_ms: list[int] = []
        self.stories: list[Story] = []

    def add(self, story: Story) -> None:
        """Stories come in event-time order."""
        self._windows.clear()
        self.stories.append(story)
        self._at_ms.append(story.at_ms)
        self._before.append(self._said)
        total, negative, positive, polarity = self._said
        self._said = (
            total + story.total_u,
            negative + story.negative_u,
            positive + story.positive_u,
            polarity + story.polarity_u,
        )

    def move_to(self, now_ms: int) -> None:
        """Let every window end here: window w is [now_ms − w, now_ms). What lies before the longest is taken away, by halves."""
        if now_ms == self._now_ms:
            return
        self._now_ms = now_ms
        self._windows.clear()
        at_ms = self._at_ms
        if not at_ms or at_ms[0] >= now_ms - self._lengths_ms[-1]:
            return
        first, count = self._first_of(len(self._lengths_ms) - 1), len(at_ms)
        if (first > 32 and first * 2 > count) or first == count:
            del self.stories[:first], at_ms[:first], self._before[:first]
            self._first = [max(each - first, 0) for each in self._first]

    def total(self, index: int) -> float:
        """The voices of one window, from short to long: no window holds more than a longer one."""
        first = self._first_of(index)
        before = self._before
        return (self._said[0] - before[first][0]) / UNIT if first < len(before) else 0.0

    def said(self, index: int) -> tuple[float, float]:
        """The voices of one window and their polarity."""
        first, before, said = self._first_of(index), self._before, self._said
        if first == len(before):
            return 0.0, 0.0
        gone = before[first]
        return (said[0] - gone[0]) / UNIT, (said[3] - gone[3]) / UNIT

    def window(self, index: int) -> Voices:
        """The sums of one window."""
        known = self._windows.get(index)
        if known is None:
            first, before, said = self._first_of(index), self._before, self._said
            gone = before[first] if first < len(before) else said
            known = self._windows[index] = Voices(
                total=(said[0] - gone[0]) / UNIT,
                negative=(said[1] - gone[1]) / UNIT,
                positive=(said[2] - gone[2]) / UNIT,
                polarity=(said[3] - gone[3]) / UNIT,
            )
        return known

    def inside(self, index: int) -> list[Story]:
        """The stories of one window, oldest first."""
        return self.stories[self._first_of(index) :]

    def _first_of(self, index: int) -> int:
        first, at_ms = self._first[index], self._at_ms
        if self._now_ms is None or first == len(at_ms):
            return first
        start_ms = self._now_ms - self._lengths_ms[index]
        if at_ms[first] < start_ms:
            self._first[index] = first = bisect_left(at_ms, start_ms, first + 1)
        return first
