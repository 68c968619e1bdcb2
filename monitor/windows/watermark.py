"""How far event time has come, per partition and over all of them.

    partition 0   ──●────●──●         newest event 12:04     watermark = newest − lateness, minimum over the
    partition 1   ──●──●              newest event 12:02     active partitions: 12:02 − lateness
    partition 2   (silent)            idle: does not hold the others back

Pure: `now_ms` is an argument. Event time never jumps to the wall clock: when every partition is idle it flows on at the
speed of the wall clock from where it stood, so that a history replayed today stays in its own year.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


Origin = int | str


class Arrival(StrEnum):
    """What an event's time means for the watermark; each is counted by the caller."""

    ON_TIME = "on_time"
    LATE = "late"
    FUTURE = "future"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkPolicy:
    """All in milliseconds. `future_max_ms` only binds where the caller passes `now_ms`, that is: live."""

    lateness_ms: int = 120_000
    idle_after_ms: int = 30_000
    future_max_ms: int = 300_000


@dataclass(slots=True)
class _Partition:
    newest_ms: int | None
    seen_at_ms: int | None


class Watermark:
    """The watermark of the partitions that this process owns. It never goes back.

    >>> watermark = Watermark(policy=WatermarkPolicy(lateness_ms=1_000), partitions=[0, 1])
    >>> watermark.observe(0, event_ms=5_000), watermark.value_ms
    (<Arrival.ON_TIME: 'on_time'>, None)
    >>> watermark.observe(1, event_ms=9_000), watermark.value_ms
    (<Arrival.ON_TIME: 'on_time'>, 4000)
    """

    def __init__(
        self,
        *,
        policy: WatermarkPolicy,
        partitions: Iterable[Origin] = (),
        restored_ms: int | None = None,
        newest_ms: Mapping[Origin, int] | None = None,
    ) -> None:
        self._policy = policy
        self._partitions: dict[Origin, _Partition] = {partition: _Partition(None, None) for partition in partitions}
        self._partitions |= {origin: _Partition(newest, None) for origin, newest in (newest_ms or {}).items()}
        self._value_ms = restored_ms

    @property
    def value_ms(self) -> int | None:
        """Everything before this moment is complete; None before the first event of every partition."""
        return self._value_ms

    def newest_ms(self) -> dict[Origin, int]:
        """The newest event of each partition, to go on from after a restart."""
        return {origin: state.newest_ms for origin, state in self._partitions.items() if state.newest_ms is not None}

    def assign(self, partitions: Iterable[Origin]) -> None:
        """Owned from now on; a new partition holds the watermark until its first event or until it counts as idle."""
        for partition in partitions:
            self._partitions.setdefault(partition, _Partition(None, None))

    def revoke(self, partitions: Iterable[Origin]) -> None:
        """Owned no more; the others may go on at once."""
        for partition in partitions:
            self._partitions.pop(partition, None)
        self._advance(idle=())

    def observe(self, partition: Origin, event_ms: int, *, now_ms: int | None = None) -> Arrival:
        """Take note of one event. One from the future is refused and moves nothing; a late one only proves life."""
        state = self._partitions.setdefault(partition, _Partition(None, None))
        if now_ms is not None:
            if event_ms > now_ms + self._policy.future_max_ms:
                return Arrival.FUTURE
            state.seen_at_ms = now_ms
        late = self._value_ms is not None and event_ms < self._value_ms
        if state.newest_ms is None or event_ms > state.newest_ms:
            state.newest_ms = event_ms
            self._advance(idle=())
        return Arrival.LATE if late else Arrival.ON_TIME

    def tick(self, now_ms: int, *, drained: Collection[Origin] | None = None) -> int | None:
        """Let idle partitions go. `drained` names those whose log end is reached: only they can be idle (None: all)."""
        idle = []
        for partition, state in self._partitions.items():
            if state.seen_at_ms is None:
                state.seen_at_ms = now_ms
            waited_ms = now_ms - state.seen_at_ms
            if waited_ms >= self._policy.idle_after_ms and (drained is None or partition in drained):
                idle.append(partition)
        if len(idle) == len(self._partitions):
            self._flow(now_ms)
        else:
            self._advance(idle=idle)
        return self._value_ms

    def _advance(self, *, idle: Collection[Origin]) -> None:
        newest = [state.newest_ms for partition, state in self._partitions.items() if partition not in idle]
        if not newest or any(value is None for value in newest):
            return
        self._raise_to(min(value for value in newest if value is not None) - self._policy.lateness_ms)

    def _flow(self, now_ms: int) -> None:
        """Nobody speaks: from the newest event on, event time passes as wall time does."""
        reached = [
            state.newest_ms + now_ms - state.seen_at_ms
            for state in self._partitions.values()
            if state.newest_ms is not None and state.seen_at_ms is not None
        ]
        if reached:
            self._raise_to(max(reached) - self._policy.lateness_ms)

    def _raise_to(self, value_ms: int) -> None:
        if self._value_ms is None or value_ms > self._value_ms:
            self._value_ms = value_ms
