"""How far event time has come, per origin (a raw partition such as "news/2") and over all of them.

    news/0    ──●────●──●         newest event 12:04     watermark = newest − lateness, minimum over the
    news/1    ──●──●              newest event 12:02     active origins: 12:02 − lateness
    social/0  (silent)            idle: does not hold the others back

Pure: `now_ms` is an argument. Event time never jumps to the wall clock: when every origin is idle it flows on at the
speed of a clock from where it stood, so that a history replayed today stays in its own year. That clock is one that
nobody can set: an hour's correction of the wall clock must not make an hour of messages late.

Who is idle must have been heard to be silent. A backlog before `score`, one before us, a broker that was away, an origin
of which nothing has reached us yet: none of them is silence, see `settle` and `expect`. And silence is known up to a
moment: what an idle origin has said since then is on its way, so event time keeps the lateness before that moment. Where
not even the origins are known, see `hold`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

NOTES_MAX = 1_000


class Arrival(StrEnum):
    """What an event's time means for the watermark; each is counted by the caller."""

    ON_TIME = "on_time"
    LATE = "late"
    FUTURE = "future"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkPolicy:
    """All in milliseconds. `future_max_ms` and `idle_after_ms` only bind where the caller passes `now_ms`, that is: live."""

    lateness_ms: int = 120_000
    idle_after_ms: int = 30_000
    future_max_ms: int = 300_000


@dataclass(slots=True)
class _Origin:
    newest_ms: int | None  # None: it is expected, nothing was heard of it yet
    seen_at_ms: int | None


class Watermark:
    """The watermark of the origins that speak in one partition. It never goes back.

    >>> watermark = Watermark(policy=WatermarkPolicy(lateness_ms=1_000))
    >>> watermark.observe("news/0", event_ms=5_000), watermark.value_ms
    (<Arrival.ON_TIME: 'on_time'>, 4000)
    >>> watermark.observe("news/1", event_ms=4_500), watermark.value_ms
    (<Arrival.ON_TIME: 'on_time'>, 4000)
    """

    def __init__(
        self, *, policy: WatermarkPolicy, newest_ms: Mapping[str, int] = {}, restored_ms: int | None = None
    ) -> None:
        self._policy = policy
        self._origins = {name: _Origin(at_ms, None) for name, at_ms in newest_ms.items()}
        self._value_ms = restored_ms
        self._settled: dict[str, int] = {}
        self._since_ms = 0
        self._held = False
        self._notes: list[tuple[int, int]] = []  # see `note`

    @property
    def value_ms(self) -> int | None:
        """Everything before this moment is complete; None before the first event."""
        return self._value_ms

    @property
    def newest_ms(self) -> dict[str, int]:
        """The newest event of each origin: with `value_ms` all that a restart needs."""
        known = [(name, origin.newest_ms) for name, origin in sorted(self._origins.items())]
        return {name: newest_ms for name, newest_ms in known if newest_ms is not None}

    def expect(self, origins: Iterable[str]) -> None:
        """These have something to say, heard or not: they hold the others until they speak, or are idle by what `settle` tells."""
        for name in origins:
            self._settled.setdefault(name, 0)
            self._origins.setdefault(name, _Origin(None, None))  # also when `settle` named it first, while it was empty

    def settle(self, settled: Mapping[str, int], *, since_ms: int = 0) -> None:
        """Until when (by the steady clock) all that was sent to each origin has arrived: only silence before that is silence.

        Without it a backlog in front of us would look like an idle origin. Origins that are not named are taken at `steady_ms`.
        Nor is it silence when nobody could speak: `since_ms` is from when on the broker has been there.
        """
        self._settled |= settled
        self._since_ms = since_ms

    def note(self, steady_ms: int) -> None:
        """All that was heard so far had been sent by this moment of the steady clock, which is one that `settle` may name. What
        an origin that was silent until then says later is not expected to be older."""
        if self._notes and steady_ms <= self._notes[-1][0]:
            return
        reached_ms = self._reached(steady_ms)
        if reached_ms is not None:
            self._notes.append((steady_ms, reached_ms))
            # Of what no origin's silence reaches back to, the last is enough.
            known_ms = min((until_ms for until_ms in self._settled.values() if until_ms), default=0)
            del self._notes[: max(0, bisect_right(self._notes, known_ms, key=_moment) - 1)]
            if len(self._notes) > NOTES_MAX:  # an origin is stuck for long; fewer notes only hold a little longer
                del self._notes[1:-1:2]

    def hold(self) -> None:
        """Who has something to say is not known: events are noted, and event time stands until `release`."""
        self._held = True

    def release(self) -> None:
        """Go as far as what was heard meanwhile, and what is expected, allow."""
        self._held = False
        self._advance(idle=())

    def observe(
        self,
        origin: str,
        event_ms: int,
        *,
        now_ms: int | None = None,
        steady_ms: int | None = None,
        floor_ms: int = 1,
    ) -> Arrival:
        """Take note of one event. One from the future is refused and moves nothing; a late one only proves life.

        `now_ms` is wall time, which tells the future; `steady_ms` (default: the same) tells who is idle, and never jumps.

        Late is what lies before the watermark rounded down to `floor_ms`: the bucket that is not closed yet still takes it.
        """
        if now_ms is not None and event_ms > now_ms + self._policy.future_max_ms:
            return Arrival.FUTURE
        if steady_ms is None:
            steady_ms = now_ms
        state = self._origins.get(origin)
        if state is None:
            state = self._origins[origin] = _Origin(event_ms if now_ms is None else min(event_ms, now_ms), steady_ms)
        state.seen_at_ms = steady_ms
        value_ms = self._value_ms
        late = value_ms is not None and event_ms < value_ms - value_ms % floor_ms
        # A source whose clock is ahead must not make those that keep time late: nothing is newer than now.
        newest_ms = event_ms if now_ms is None else min(event_ms, now_ms)
        if state.newest_ms is None or newest_ms >= state.newest_ms:
            state.newest_ms = newest_ms
            self._advance(idle=self._idle(steady_ms) if steady_ms is not None else ())
        return Arrival.LATE if late else Arrival.ON_TIME

    def tick(self, steady_ms: int, *, drained: bool = True) -> int | None:
        """Let idle origins go. Without `drained` something still waits to be read, and nobody counts as idle."""
        idle = self._idle(steady_ms)
        if not drained or not self._origins:
            return self._value_ms
        if len(idle) == len(self._origins):
            self._flow(steady_ms)
        else:
            self._advance(idle=idle)
        return self._value_ms

    def finish(self) -> int | None:
        """The end of a file: the newest event is the last, nothing is waited for."""
        if newest := self.newest_ms:
            self._raise_to(max(newest.values()))
        return self._value_ms

    def _idle(self, steady_ms: int) -> list[str]:
        idle = []
        for name, origin in self._origins.items():
            if origin.seen_at_ms is None:
                origin.seen_at_ms = steady_ms
            until_ms, since_ms = (
                min(steady_ms, self._settled.get(name, steady_ms)),
                max(origin.seen_at_ms, self._since_ms),
            )
            if until_ms - since_ms >= self._policy.idle_after_ms:
                idle.append(name)
        return idle

    def _advance(self, *, idle: Collection[str]) -> None:
        active = [origin.newest_ms for name, origin in self._origins.items() if name not in idle]
        heard = [newest_ms for newest_ms in active if newest_ms is not None]
        if heard and len(heard) == len(active):
            reached_ms = min(heard)
            if idle and self._notes:
                reached_ms = min(reached_ms, *map(self._silent_to, idle))
            self._raise_to(reached_ms - self._policy.lateness_ms)

    def _flow(self, steady_ms: int) -> None:
        """Nobody speaks: from the newest event on, event time passes as ours does."""
        reached_ms = self._reached(steady_ms)
        if reached_ms is not None:
            self._raise_to(reached_ms - self._policy.lateness_ms)

    def _reached(self, steady_ms: int) -> int | None:
        """Where event time is at this moment, if nobody speaks."""
        reached = [
            origin.newest_ms + max(0, steady_ms - max(origin.seen_at_ms, self._since_ms))
            for origin in self._origins.values()
            if origin.newest_ms is not None and origin.seen_at_ms is not None
        ]
        return max(reached, default=None)

    def _silent_to(self, name: str) -> int:
        """The event time that others had reached when this idle origin was last known to be silent."""
        until_ms = self._settled.get(name)
        at = len(self._notes) if until_ms is None else bisect_right(self._notes, until_ms, key=_moment)
        if at:
            return self._notes[at - 1][1]
        newest_ms = self._origins[name].newest_ms  # silent since before anything was noted: what it said last is known
        return self._notes[0][1] if newest_ms is None else newest_ms

    def _raise_to(self, value_ms: int) -> None:
        if not self._held and (self._value_ms is None or value_ms > self._value_ms):
            self._value_ms = value_ms


def _moment(note: tuple[int, int]) -> int:
    return note[0]
