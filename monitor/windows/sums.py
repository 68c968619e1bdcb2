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

import msgspec

from monitor.records import Voices

UNIT = 1_000_000


class Story(msgspec.Struct, kw_only=True, eq=False, gc=False):
    """One voice: the first mention of a story and what followed it. What ends in `_u` is in millionths. `newcomer`: an account
    told it that nobody had heard of."""

    at_ms: int
    total_u: int
    negative_u: int
    positive_u: int
    polarity_u: int
    mention: object
    copies: int = 1
    newcomer: bool = False


class SlidingSums:
    """Sums over several windows at once; constant time a story, and a bisection a window."""

    __slots__ = ("_at_ms", "_before", "_first", "_lengths_ms", "_now_ms", "_said", "_windows", "stories")

    def __init__(self, lengths_ms: tuple[int, ...]) -> None:
        assert lengths_ms == tuple(sorted(lengths_ms)), "windows go from short to long"
        self._lengths_ms = lengths_ms
        self._first = [0] * len(lengths_ms)
        self._now_ms: int | None = None  # of `_windows`, while nothing came after it
        self._windows: list[Voices] = []
        self._said = (0, 0, 0, 0)
        self._before: list[tuple[int, int, int, int]] = []
        self._at_ms: list[int] = []
        self.stories: list[Story] = []

    def add(self, story: Story) -> None:
        """Stories come in event-time order."""
        self._now_ms = None
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

    def move_to(self, now_ms: int) -> list[Voices]:
        """The sums of every window, from short to long: window w is [now_ms − w, now_ms). What lies before is taken away."""
        if now_ms == self._now_ms:
            return self._windows
        at_ms, before, said, firsts = self._at_ms, self._before, self._said, self._first
        count, windows = len(at_ms), []
        for index, length_ms in enumerate(self._lengths_ms):
            firsts[index] = first = bisect_left(at_ms, now_ms - length_ms, firsts[index])
            gone = before[first] if first < count else said
            windows.append(
                Voices(
                    total=(said[0] - gone[0]) / UNIT,
                    negative=(said[1] - gone[1]) / UNIT,
                    positive=(said[2] - gone[2]) / UNIT,
                    polarity=(said[3] - gone[3]) / UNIT,
                )
            )
        first = firsts[-1]
        if (first > 32 and first * 2 > count) or first == count:
            del self.stories[:first], at_ms[:first], before[:first]
            self._first = [each - first for each in firsts]
        self._now_ms, self._windows = now_ms, windows
        return windows

    def inside(self, index: int) -> list[Story]:
        """The stories of one window as of the last `move_to`, oldest first."""
        return self.stories[self._first[index] :]
