"""How far behind a role is, told every few seconds: lag must be visible, or silence looks like calm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from monitor.clock import Clock
from monitor.loops.offsets import Partition
from monitor.telemetry import Metrics


class LagGauge:
    """Sets `lag_messages` per partition, at most every `every_s`: asking the broker costs a round trip."""

    def __init__(self, clock: Clock, metrics: Metrics, *, every_s: float = 5.0) -> None:
        self._clock, self._metrics, self._every_s = clock, metrics, every_s
        self._due_s = clock.monotonic_s() + every_s

    def measure(self, lag: Callable[[], Mapping[Partition, int]]) -> None:
        """Raises what `lag` raises; then it is asked again at the next turn."""
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        for (topic, partition), messages in lag().items():
            self._metrics.gauge("lag_messages", float(messages), label=f"{topic}/{partition}")
        self._due_s = now_s + self._every_s
