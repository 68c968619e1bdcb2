"""One door to the database for all roles: the watch transaction, what a restart reads back, and the desk's lists."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from sqlalchemy import Connection, Engine, delete, select, update

from monitor.records import Alert, DeadLetter, Notice, Place, ScoredMention
from monitor.store import tables as t
from monitor.store.anchors import TopicAnchors
from monitor.store.attempts import Attempts
from monitor.store.engine import WRITING, database_ms, engine_for, translated
from monitor.store.health import Health
from monitor.store.migrate import migrate
from monitor.store.outbox import Outbox
from monitor.store.paging import Paging
from monitor.store.rows import Counts, StoredBucket, StoredDeadLetter, StoredPartition, StoredTransition
from monitor.store.watching import WatchTransaction, chunks, count

_Headers = tuple[tuple[str, bytes], ...]


class Store(Outbox, Attempts, TopicAnchors, Paging, Health):
    """Opened once a process; safe to use from several threads. Raises Retryable, Fenced or Fatal."""

    def __init__(self, engine: Engine, *, clock_ms: Callable[[Connection], int] = database_ms) -> None:
        """`clock_ms`: what the database's clock says, asked within a transaction; another one only where time is made up."""
        self._engine, self._clock_ms = engine, clock_ms

    @classmethod
    def open(cls, url: str) -> Store:
        """Connect and bring the schema up to date."""
        engine = engine_for(url)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[WatchTransaction]:
        """Everything inside is written together, or nothing when the block raises."""
        with self._writing("writing a batch") as connection:
            yield WatchTransaction(connection)

    # What a restart reads back.

    def partition_state(self, topic: str, partition: int) -> StoredPartition | None:
        place = t.partition_states.c
        with self._reading("reading offsets") as connection:
            row = connection.execute(
                select(t.partition_states).where(place.topic == topic, place.partition == partition)
            ).one_or_none()
        return StoredPartition(**row._mapping) if row is not None else None

    def entity_states(self, partition: int) -> dict[str, bytes]:
        columns = t.entity_states.c
        with self._reading("reading states") as connection:
            rows = connection.execute(select(columns.entity, columns.state).where(columns.partition == partition))
            return {row.entity: row.state for row in rows}

    def mentions_since(self, partition: int, published_at_ms: int) -> list[ScoredMention]:
        """In order of (published_at_ms, id), without those that came too late to count."""
        m = t.mentions.c
        wanted = select(m.payload).where(
            m.partition == partition, m.published_at_ms >= published_at_ms, m.late.is_(False)
        )
        with self._reading("reading mentions") as connection:
            payloads = connection.execute(wanted.order_by(m.published_at_ms, m.id)).scalars().all()
        decoder = msgspec.json.Decoder(ScoredMention)
        return [decoder.decode(payload) for payload in payloads]

    def known_mentions(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that are stored already."""
        m = t.mentions.c
        with self._reading("reading mentions") as connection:
            return {
                key for part in chunks(ids) for key in connection.execute(select(m.id).where(m.id.in_(part))).scalars()
            }

    # Alerts.

    def alerts(self, *, limit: int = 100, entity: str | None = None, status: str | None = None) -> list[Alert]:
        """The newest first, as they are now."""
        a = t.alerts.c
        wanted = select(a.payload).order_by(a.opened_at_ms.desc(), a.id).limit(limit)
        if entity is not None:
            wanted = wanted.where(a.entity == entity)
        if status is not None:
            wanted = wanted.where(a.status == status)
        with self._reading("reading alerts") as connection:
            return [msgspec.json.decode(blob, type=Alert) for blob in connection.execute(wanted).scalars()]

    def transitions(self, alert_id: str) -> list[StoredTransition]:
        """An alert's life, step by step."""
        s = t.alert_transitions.c
        with self._reading("reading alerts") as connection:
            rows = connection.execute(
                select(t.alert_transitions).where(s.alert_id == alert_id).order_by(s.sequence)
            ).all()
        return [
            StoredTransition(
                sequence=row.sequence,
                change=row.change,
                reason=row.reason,
                at_ms=row.at_ms,
                alert=msgspec.json.decode(row.payload, type=Alert),
            )
            for row in rows
        ]

    def buckets(self, entity: str, *, since_ms: int = 0) -> list[StoredBucket]:
        b = t.buckets.c
        wanted = select(t.buckets).where(b.entity == entity, b.start_ms >= since_ms).order_by(b.start_ms, b.channel)
        with self._reading("reading buckets") as connection:
            return [StoredBucket(**row._mapping) for row in connection.execute(wanted)]

    def notices(self, *, limit: int = 100, entity: str | None = None) -> list[Notice]:
        """The latest first."""
        n = t.notices.c
        wanted = select(n.payload).order_by(n.last_ms.desc(), n.entity, n.channel).limit(limit)
        if entity is not None:
            wanted = wanted.where(n.entity == entity)
        with self._reading("reading notices") as connection:
            return [msgspec.json.decode(blob, type=Notice) for blob in connection.execute(wanted).scalars()]

    # Dead letters.

    def dead_letters(
        self, *, limit: int = 100, reason: str | None = None, ids: Sequence[int] | None = None, pending: bool = False
    ) -> list[StoredDeadLetter]:
        """The newest first; `pending` leaves out those that were sent again."""
        d = t.dead_letters.c
        wanted = select(t.dead_letters).order_by(d.id.desc()).limit(limit)
        if reason is not None:
            wanted = wanted.where(d.reason == reason)
        if ids is not None:
            wanted = wanted.where(d.id.in_(list(ids)))
        if pending:
            wanted = wanted.where(d.replayed_at_ms.is_(None))
        with self._reading("reading dead letters") as connection:
            rows = connection.execute(wanted).all()
        return [
            StoredDeadLetter(
                id=row.id,
                letter=DeadLetter(
                    place=Place(topic=row.topic, partition=row.partition, offset=row.offset),
                    key=row.key,
                    value=row.value,
                    headers=msgspec.json.decode(row.headers, type=_Headers),
                    reason=row.reason,
                    detail=row.detail,
                    failed_at_ms=row.failed_at_ms,
                ),
                replayed_at_ms=row.replayed_at_ms,
            )
            for row in rows
        ]

    def mark_replayed(self, ids: Sequence[int], *, now_ms: int) -> int:
        d = t.dead_letters
        with self._writing("marking dead letters") as connection:
            return sum(
                connection.execute(update(d).where(d.c.id.in_(part)).values(replayed_at_ms=now_ms)).rowcount
                for part in chunks(ids)
            )

    # Housekeeping.

    def counts(self) -> Counts:
        with self._reading("counting") as connection:
            return Counts(
                mentions=count(connection, t.mentions),
                alerts=count(connection, t.alerts),
                open_alerts=count(connection, t.alerts, t.alerts.c.status == "open"),
                deliveries=count(connection, t.outbox, t.outbox.c.status == "delivered"),
                pending_deliveries=count(connection, t.outbox, t.outbox.c.status == "pending"),
                failed_deliveries=count(connection, t.outbox, t.outbox.c.status.in_(["failed", "disabled"])),
                dead_letters=count(connection, t.dead_letters),
            )

    def purge(self, before_ms: int, *, rows_max: int = 10_000) -> int:
        """Forget mentions, buckets and suppressions that are older, at most `rows_max` of each; alerts are kept. Returns how many."""
        gone = 0
        with self._writing("purging") as connection:
            for table, key, time in (
                (t.mentions, t.mentions.c.id, t.mentions.c.published_at_ms),
                (t.buckets, t.buckets.c.start_ms, t.buckets.c.start_ms),
                (t.suppressions, t.suppressions.c.at_ms, t.suppressions.c.at_ms),
            ):
                old = select(key).where(time < before_ms).order_by(time).limit(rows_max)
                gone += connection.execute(delete(table).where(key.in_(old.scalar_subquery()))).rowcount
        return gone

    def check(self) -> None:
        """Raises when the database does not answer."""
        with self._reading("checking") as connection:
            connection.execute(select(1))

    def _database_ms(self, connection: Connection) -> int:
        return self._clock_ms(connection)

    @contextmanager
    def _reading(self, doing: str) -> Iterator[Connection]:
        with translated(doing), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, doing: str) -> Iterator[Connection]:
        with translated(doing), self._engine.connect().execution_options(**WRITING) as connection, connection.begin():
            yield connection
