"""The only place that asks the system what time it is. Everything else is told."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Wall time in epoch milliseconds, and a monotonic clock in seconds for intervals."""

    def now_ms(self) -> int: ...
    def monotonic_s(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """A clock that moves when told; ships with the package for tests and backtests."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_s(self) -> float:
        return self._now_ms / 1000

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "time does not run backwards"
        self._now_ms += round(seconds * 1000)


class WallSteps:
    """Notices that the wall clock was set while we run, by holding it against the monotonic clock.

    A difference counts as a step until it is undone, or for `adopt_after_s`: then the new time is taken as right.
    """

    def __init__(self, clock: Clock, *, tolerance_s: float = 60.0, adopt_after_s: float = 3_600.0) -> None:
        self._clock, self._tolerance_s, self._adopt_after_s = clock, tolerance_s, adopt_after_s
        self._anchor_s = self._difference_s()
        self._since_s: float | None = None

    def step_s(self) -> float:
        """By how much the clock was set, in seconds; 0.0 while it only runs."""
        difference_s, now_s = self._difference_s(), self._clock.monotonic_s()
        step_s = difference_s - self._anchor_s
        if abs(step_s) <= self._tolerance_s:
            self._anchor_s, self._since_s = difference_s, None  # clocks drift apart a little: that is no step
            return 0.0
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < self._adopt_after_s:
            return step_s
        self._anchor_s, self._since_s = difference_s, None
        return 0.0

    def latest_ms(self) -> int:
        """The wall clock, or what it would say had it not been set back: what is fresh must not seem to be of the future."""
        return self._clock.now_ms() + round(1000 * max(0.0, -self.step_s()))

    def steady_ms(self) -> int:
        """What the wall clock would say had it not been set: for waits, which are neither to end nor to last for it."""
        return self._clock.now_ms() - round(1000 * self.step_s())

    def _difference_s(self) -> float:
        return self._clock.now_ms() / 1000 - self._clock.monotonic_s()


def to_rfc3339(epoch_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC, milliseconds only where there are any."""
    moment = _EPOCH + timedelta(milliseconds=epoch_ms)  # whole numbers: a float loses milliseconds of far years
    timespec = "milliseconds" if epoch_ms % 1000 else "seconds"
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")
