"""Which topic the offsets of a group belong to, what is refused, and what an operator accepted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from sqlalchemy import Connection, func, select, update

from monitor.store import tables as t
from monitor.store.rows import StoredAnchor, storable
from monitor.store.watching import insert, upsert

_KEYS = ("consumer_group", "topic", "partition")


class TopicAnchors(ABC):
    """Mixed into `Store`."""

    @abstractmethod
    def _reading(self, doing: str) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _writing(self, doing: str) -> AbstractContextManager[Connection]: ...

    def anchor(self, group: str, topic: str, partition: int) -> StoredAnchor | None:
        a = t.anchors.c
        wanted = select(t.anchors).where(a.consumer_group == group, a.topic == topic, a.partition == partition)
        with self._reading("reading anchors") as connection:
            row = connection.execute(wanted).one_or_none()
        return StoredAnchor(**row._mapping) if row is not None else None

    def anchors(self, *, group: str | None = None, topic: str | None = None) -> list[StoredAnchor]:
        a = t.anchors.c
        wanted = select(t.anchors).order_by(a.topic, a.partition, a.consumer_group)
        if group is not None:
            wanted = wanted.where(a.consumer_group == group)
        if topic is not None:
            wanted = wanted.where(a.topic == topic)
        with self._reading("reading anchors") as connection:
            return [StoredAnchor(**row._mapping) for row in connection.execute(wanted)]

    def anchored_since_ms(self, group: str, topic: str) -> int | None:
        """When the group first read any partition of the topic."""
        a = t.anchors.c
        wanted = select(func.min(a.anchored_at_ms)).where(a.consumer_group == group, a.topic == topic)
        with self._reading("reading anchors") as connection:
            return connection.execute(wanted).scalar()

    def drop_anchor(self, group: str, topic: str, partition: int, topic_id: str, *, now_ms: int) -> None:
        """From here on the partition's offsets belong to this topic; nothing is refused or waiting any more."""
        row = {
            **_row(group, topic, partition, topic_id, now_ms),
            "accepted_next": None,
            "refused_reason": None,
            "refused_detail": None,
            "refused_at_ms": None,
        }
        changing = ("topic_id", "accepted_next", "refused_reason", "refused_detail", "refused_at_ms")
        with self._writing("keeping an anchor") as connection:
            connection.execute(upsert(connection, t.anchors, _KEYS, changing), row)

    def refuse_start(self, group: str, topic: str, partition: int, *, reason: str, detail: str, now_ms: int) -> None:
        """Keep why the partition is not read, for `offsets list`; the first time it was found so stays."""
        refused = {"refused_reason": reason, "refused_detail": storable(detail)}
        with self._writing("keeping a refusal") as connection:
            fresh = {**_row(group, topic, partition, "", now_ms), **refused, "refused_at_ms": now_ms}
            statement = insert(connection, t.anchors)
            statement = statement.on_conflict_do_update(
                index_elements=list(_KEYS),
                set_={**refused, "refused_at_ms": func.coalesce(t.anchors.c.refused_at_ms, now_ms)},
            )
            connection.execute(statement, fresh)

    def accept_start(self, group: str, topic: str, partition: int, *, topic_id: str, start: int, now_ms: int) -> None:
        """An operator's word: this is the topic, and `start` is next. Running roles find it within seconds.

        Where we keep the offset ourselves it is moved as well, so that whoever still writes from the old one is fenced.
        """
        accepted = {
            "topic_id": topic_id,
            "accepted_next": start,
            "refused_reason": None,
            "refused_detail": None,
            "refused_at_ms": None,
        }
        place = t.partition_states.c
        with self._writing("accepting a topic") as connection:
            row = {**_row(group, topic, partition, topic_id, now_ms), **accepted}
            connection.execute(upsert(connection, t.anchors, _KEYS, tuple(accepted)), row)
            moved = update(t.partition_states).where(place.topic == topic, place.partition == partition)
            connection.execute(moved.values(next=start))

    def spread(self, topic: str, partitions: int, *, now_ms: int) -> tuple[int, int]:
        """Over how many partitions the entities of the topic are spread, and since when: whoever says it first is right."""
        s = t.spreads.c
        with self._writing("keeping how a topic is spread") as connection:
            first = insert(connection, t.spreads).on_conflict_do_nothing(index_elements=["topic"])
            connection.execute(first, {"topic": topic, "partitions": partitions, "since_ms": now_ms})
            row = connection.execute(select(s.partitions, s.since_ms).where(s.topic == topic)).one()
        return int(row.partitions), int(row.since_ms)


def _row(group: str, topic: str, partition: int, topic_id: str, now_ms: int) -> dict[str, object]:
    return {
        "consumer_group": group,
        "topic": topic,
        "partition": partition,
        "topic_id": topic_id,
        "anchored_at_ms": now_ms,
    }
