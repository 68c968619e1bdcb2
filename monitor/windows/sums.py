"""Sliding windows as exact sums over the stories of one entity and channel.

                                now
    ────●───●─●──────●──●──●─●──┤
                    [──── 1 h ──)      a story belongs to every window that reaches back to it
          [──────────── 4 h ────)

Weights are whole millionths, so that adding and taking away is exact: the sums depend on which stories are inside, never
on the order in which they came or on how often the process was restarted.
"""

from __future__ import annotations

from typing import NamedTuple

UNIT = 1_000_000


class Sums(NamedTuple):
    """Voices in a window: all, negative and positive, and the sum of weight × polarity. In units of one voice."""

    total: float
    negative: float
    positive: float
    polarity: float


class Story:
    """One voice: the first mention of a story and what followed it. What ends in `_u` is in millionths. `newcomer`: an account
    told it that nobody had heard of."""

    __slots__ = ("at_ms", "copies", "mention", "negative_u", "newcomer", "polarity_u", "positive_u", "total_u")

    def __init__(
        self, *, at_ms: int, total_u: int, negative_u: int, positive_u: int, polarity_u: int, mention: object
    ) -> None:
        self.at_ms = at_ms
        self.total_u = total_u
        self.negative_u = negative_u
        self.positive_u = positive_u
        self.polarity_u = polarity_u
        self.mention = mention
        self.copies = 1
        self.newcomer = False


class SlidingSums:
    """Sums over several windows at once; amortised constant time a story and window."""

    __slots__ = ("_first", "_lengths_ms", "_sums", "stories")

    def __init__(self, lengths_ms: tuple[int, ...]) -> None:
        assert lengths_ms == tuple(sorted(lengths_ms)), "windows go from short to long"
        self._lengths_ms = lengths_ms
        self._first = [0] * len(lengths_ms)
        self._sums = [[0, 0, 0, 0] for _ in lengths_ms]
        self.stories: list[Story] = []

    def add(self, story: Story) -> None:
        """Stories come in event-time order."""
        self.stories.append(story)
        for sums in self._sums:
            sums[0] += story.total_u
            sums[1] += story.negative_u
            sums[2] += story.positive_u
            sums[3] += story.polarity_u

    def expire(self, now_ms: int) -> None:
        """Take away what lies before each window: window w at `now_ms` is [now_ms − w, now_ms)."""
        stories, count = self.stories, len(self.stories)
        for index, length_ms in enumerate(self._lengths_ms):
            start_ms, first, sums = now_ms - length_ms, self._first[index], self._sums[index]
            while first < count and stories[first].at_ms < start_ms:
                story = stories[first]
                sums[0] -= story.total_u
                sums[1] -= story.negative_u
                sums[2] -= story.positive_u
                sums[3] -= story.polarity_u
                first += 1
            self._first[index] = first
        gone = self._first[-1]
        if (gone > 32 and gone * 2 > count) or gone == count:
            del stories[:gone]
            self._first = [first - gone for first in self._first]

    def total(self, index: int) -> float:
        """The voices of one window as of the last `expire`."""
        return self._sums[index][0] / UNIT

    def window(self, index: int) -> Sums:
        """The sums of one window as of the last `expire`."""
        total, negative, positive, polarity = self._sums[index]
        return Sums(total / UNIT, negative / UNIT, positive / UNIT, polarity / UNIT)

    def inside(self, index: int) -> list[Story]:
        """The stories of one window, oldest first."""
        return self.stories[self._first[index] :]
