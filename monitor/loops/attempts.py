"""Which messages may have killed the process, so that one which does is quarantined and the line goes on.

Before messages are looked at, the database is told how far in their partition that goes. Whoever ends in order takes the
mark away; a mark that is found was left by a process that died with something before it in hand. One such death is
most likely the machine's or the operator's doing: its successor goes on in batches. When that one dies as well before it has
passed the mark, everything up to there is taken alone, each with an attempt counted before it begins: innocents survive, and
the count of the one that kills grows with each restart until it is used up. Deaths from outside cost care and nothing
else, since the process would have to die with the same single message in hand `attempts_max` times.

Without the database the work goes on unmarked for a while: protection must not stop the line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import structlog

from monitor.clock import Clock
from monitor.errors import Retryable
from monitor.loops.offsets import Partition
from monitor.records import Place
from monitor.store import AttemptMark

log = structlog.get_logger()
_DEATHS_MIN = 2  # in a row, before messages are suspected
T = TypeVar("T")


class Store(Protocol):
    """Where marks and counts outlive us."""

    def marks_left(self, partitions: Collection[Partition], *, owner: str) -> dict[Partition, AttemptMark]: ...
    def note_marks(self, marks: Mapping[Partition, AttemptMark], *, owner: str) -> None: ...
    def clear_marks(self, partitions: Collection[Partition], *, owner: str) -> None: ...
    def note_attempt(self, place: Place, *, survived: Place | None = None) -> int: ...
    def clear_attempts(self, places: Sequence[Place]) -> None: ...


class AttemptGuard:
    """One a process; `owner` is its name, never used again. Marks run `ahead` of what was read, to write fewer of them."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        clock: Clock,
        attempts_max: int = 2,
        ahead: int = 64,
        blind_s: float = 60.0,
    ) -> None:
        self._store, self._owner, self._clock = store, owner, clock
        self._attempts_max, self._ahead, self._blind_s = attempts_max, ahead, blind_s
        self._blind_until_s = 0.0
        self._marks: dict[Partition, AttemptMark] = {}
        self._to_pass: dict[Partition, int] = {}
        self._suspect_until: dict[Partition, int] = {}
        self._survived: Place | None = None
        self._condemned: list[Place] = []

    def begin(self, places: Iterable[Place]) -> None:
        """These are about to be looked at: say so first."""
        last: dict[Partition, int] = {}
        for place in places:
            partition = (place.topic, place.partition)
            last[partition] = max(last.get(partition, 0), place.offset)
        beyond = {p: offset for p, offset in last.items() if p not in self._marks or offset >= self._marks[p].reach}
        if beyond:
            self._kept(lambda: self._mark(beyond))

    def suspects(self, place: Place) -> bool:
        """May this message have killed the process before?"""
        return place.offset < self._suspect_until.get((place.topic, place.partition), 0)

    def begin_alone(self, place: Place) -> bool:
        """Count an attempt at this message before it begins; False when it has killed the process often enough."""
        survived, self._survived = self._survived, None
        counted = self._kept(lambda: self._store.note_attempt(place, survived=survived)) or 1
        if counted <= self._attempts_max:
            return True
        self._condemned.append(place)
        return False

    def survive(self, place: Place) -> None:
        """It is done and we are alive."""
        self._survived = place
        partition = (place.topic, place.partition)
        if place.offset + 1 >= self._suspect_until.get(partition, 0):
            self._suspect_until.pop(partition, None)

    def rest(self) -> None:
        """Nothing is tried alone for now: the last one's attempts are forgotten as well."""
        survived, self._survived = self._survived, None
        if survived is not None:
            self._kept(lambda: self._store.clear_attempts([survived]))

    def committed(self, positions: Mapping[Partition, int]) -> None:
        """What was condemned is behind us for good, and so are marks of the dead: their counts are no longer needed."""
        passed = [p for p, reach in self._to_pass.items() if positions.get(p, -1) >= reach]
        if passed:
            fresh = {p: self._marks[p]._replace(deaths=0) for p in passed}
            self._kept(lambda: self._store.note_marks(fresh, owner=self._owner))
            self._marks |= fresh
            for partition in passed:
                del self._to_pass[partition]
        past = [p for p in self._condemned if p.offset < positions.get((p.topic, p.partition), 0)]
        if past:
            self._kept(lambda: self._store.clear_attempts(past))
            self._condemned = [place for place in self._condemned if place not in past]

    def give_up(self, partitions: Collection[Partition]) -> None:
        """Given up in order; what is still suspect there stays so for whoever comes next."""
        proved = [p for p in partitions if p in self._marks and p not in self._suspect_until]
        if proved:
            self._kept(lambda: self._store.clear_marks(proved, owner=self._owner))
        for partition in partitions:
            self._marks.pop(partition, None)
            self._to_pass.pop(partition, None)
            self._suspect_until.pop(partition, None)

    def close(self) -> None:
        """The process ends in order."""
        self.rest()
        self.give_up(list(self._marks))

    def _mark(self, beyond: Mapping[Partition, int]) -> None:
        fresh = [partition for partition in beyond if partition not in self._marks]
        left = self._store.marks_left(fresh, owner=self._owner) if fresh else {}
        marks = {}
        for partition, offset in beyond.items():
            before = self._marks.get(partition, AttemptMark(0))
            if partition in left:
                before = left[partition]._replace(deaths=left[partition].deaths + 1)
            marks[partition] = AttemptMark(max(offset + 1 + self._ahead, before.reach), before.deaths)
        self._store.note_marks(marks, owner=self._owner)
        self._marks |= marks
        self._to_pass |= {partition: mark.reach for partition, mark in left.items()}
        suspects = {partition: mark.reach for partition, mark in left.items() if marks[partition].deaths >= _DEATHS_MIN}
        if suspects:
            log.warning("score.careful", partitions={f"{topic}/{n}": reach for (topic, n), reach in suspects.items()})
        self._suspect_until |= suspects

    def _kept(self, act: Callable[[], T]) -> T | None:
        """Do it, unless the database is away; then leave it alone for `blind_s`."""
        if self._clock.monotonic_s() < self._blind_until_s:
            return None
        try:
            return act()
        except Retryable as err:
            self._blind_until_s = self._clock.monotonic_s() + self._blind_s
            log.warning("score.unmarked", error=str(err), for_s=self._blind_s)
            return None
