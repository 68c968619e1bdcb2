"""What score has begun, kept so that a message which kills the process is found by those that start after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select

from monitor.records import Place
from monitor.store import tables as t
from monitor.store.rows import AttemptMark
from monitor.store.watching import insert, upsert

Partition = tuple[str, int]


class Attempts(ABC):
    """Mixed into `Store`."""

    @abstractmethod
    def _reading(self, doing: str) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _writing(self, doing: str) -> AbstractContextManager[Connection]: ...

    def marks_left(self, partitions: Collection[Partition], *, owner: str) -> dict[Partition, AttemptMark]:
        """How far somebody else had begun who has not ended in order; partitions without such a mark are left out."""
        r = t.reaches.c
        wanted = select(t.reaches).where(_any_of(partitions), r.owner != owner)
        with self._reading("reading marks") as connection:
            return {
                (row.topic, row.partition): AttemptMark(row.reach, row.deaths) for row in connection.execute(wanted)
            }

    def note_marks(self, marks: Mapping[Partition, AttemptMark], *, owner: str) -> None:
        rows = [
            {"topic": topic, "partition": partition, "owner": owner, "reach": mark.reach, "deaths": mark.deaths}
            for (topic, partition), mark in marks.items()
        ]
        with self._writing("noting marks") as connection:
            connection.execute(
                upsert(connection, t.reaches, ("topic", "partition"), ("owner", "reach", "deaths")), rows
            )

    def clear_marks(self, partitions: Collection[Partition], *, owner: str) -> None:
        """Given up in order; a mark that somebody else has set since then stays."""
        with self._writing("clearing marks") as connection:
            connection.execute(delete(t.reaches).where(_any_of(partitions), t.reaches.c.owner == owner))

    def note_attempt(self, place: Place, *, survived: Place | None = None) -> int:
        """Count one more attempt at one message, and forget those at the one before it, which is done; returns how many."""
        a = t.attempts.c
        row = {"topic": place.topic, "partition": place.partition, "offset": place.offset, "count": 1}
        with self._writing("noting an attempt") as connection:
            if survived is not None:
                connection.execute(delete(t.attempts).where(_at(survived)))
            statement = insert(connection, t.attempts).on_conflict_do_update(
                index_elements=["topic", "partition", "offset"], set_={"count": a.count + 1}
            )
            return int(connection.execute(statement.returning(a.count), row).scalar_one())

    def clear_attempts(self, places: Sequence[Place]) -> None:
        with self._writing("clearing attempts") as connection:
            for place in places:
                connection.execute(delete(t.attempts).where(_at(place)))


def _at(place: Place) -> ColumnElement[bool]:
    a = t.attempts.c
    return and_(a.topic == place.topic, a.partition == place.partition, a.offset == place.offset)


def _any_of(partitions: Collection[Partition]) -> ColumnElement[bool]:
    r = t.reaches.c
    return or_(*(and_(r.topic == topic, r.partition == partition) for topic, partition in partitions))
