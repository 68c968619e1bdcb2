"""The one transaction of `watch`: mentions, buckets, state, alerts, outbox and offsets are written together or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Table, case, func, select, update
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from monitor.errors import Fenced
from monitor.records import AlertTransition, DeadLetter, Notice, ScoredMention, Suppression
from monitor.store import tables as t
from monitor.store.engine import is_postgres
from monitor.store.rows import Bucket, Decision, OperatorAlert, PageMessage, Subscriber, Topic, storable

T = TypeVar("T")
PAGER, WATCHKEEPER = 1, 2  # whose state a row of paging_state is
SLOT_MS = 300_000
CHUNK = 500  # values in one IN (…)
_BUCKET_SUMS = ("raw_n", "effective_n", "negative", "neutral", "positive", "polarity_sum", "polarity_sq_sum")
_BUCKET_COLUMNS = ("entity", "channel", "start_ms", *_BUCKET_SUMS)


class WatchTransaction:
    """Handed out by `Store.transaction()`; all its writes are idempotent, and `advance_offset` fences zombies.

    Call `advance_offset` first: on PostgreSQL it takes the partition's row lock, so a zombie waits there and then fails
    before it has written anything else.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def advance_offset(
        self,
        topic: str,
        partition: int,
        *,
        expected: int | None,
        following: int,
        watermark_ms: int | None,
        state: bytes,
    ) -> None:
        """Compare-and-swap of the partition's next offset; `expected` None means it was never stored.

        Raises Fenced when another process has moved it: roll back and drop what is in flight.
        """
        values = {"next": following, "watermark_ms": watermark_ms, "state": state}
        if expected is None:
            first = insert(self._connection, t.partition_states).values(topic=topic, partition=partition, **values)
            place = t.partition_states.c
            moved = self._connection.execute(first.on_conflict_do_nothing().returning(place.partition)).all()
        else:
            place = t.partition_states.c
            swap = update(t.partition_states).where(
                place.topic == topic, place.partition == partition, place.next == expected
            )
            moved = self._connection.execute(swap.values(**values).returning(place.partition)).all()
        if len(moved) != 1:
            raise Fenced(f"{topic}/{partition}: offset is no longer {expected}; another process owns the partition")

    def save_partition_state(
        self, topic: str, partition: int, *, expected: int, watermark_ms: int | None, state: bytes
    ) -> None:
        """An idle tick: time moves on, the offset stays. Fenced as `advance_offset` is."""
        self.advance_offset(
            topic, partition, expected=expected, following=expected, watermark_ms=watermark_ms, state=state
        )

    def known_mentions(self, ids: Collection[str]) -> set[str]:
        """Those of `ids` that are stored already."""
        column = t.mentions.c.id
        return {
            row.id for part in chunks(ids) for row in self._connection.execute(select(column).where(column.in_(part)))
        }

    def insert_mentions(
        self, mentions: Sequence[ScoredMention], partition: int, *, late: Collection[str] = ()
    ) -> set[str]:
        """Keep what is new; returns the ids that were. A redelivered mention changes nothing.

        `late` names those that no window will count: kept for the record, never read back into event time.
        """
        if not mentions:
            return set()
        statement = insert(self._connection, t.mentions).on_conflict_do_nothing().returning(t.mentions.c.id)
        rows = [_mention_row(mention, partition, mention.id in late) for mention in mentions]
        return set(self._connection.execute(statement, rows).scalars())

    def upsert_buckets(self, rows: Iterable[Bucket]) -> None:
        """Write absolute sums; the same row twice is the same row."""
        values = [{name: getattr(row, name) for name in _BUCKET_COLUMNS} for row in rows]
        if values:
            keys = ("entity", "channel", "start_ms")
            self._connection.execute(upsert(self._connection, t.buckets, keys, _BUCKET_SUMS), values)

    def save_entity_states(self, states: Mapping[str, bytes], *, partition: int, at_ms: int) -> None:
        """Replace the state of each entity."""
        rows = [
            {"entity": entity, "partition": partition, "state": state, "updated_at_ms": at_ms}
            for entity, state in sorted(states.items())
        ]
        if rows:
            replace = upsert(self._connection, t.entity_states, ("entity",), ("partition", "state", "updated_at_ms"))
            self._connection.execute(replace, rows)

    def keep_notices(self, notices: Iterable[Notice]) -> None:
        """What the operator is told of; a later state of the same replaces the earlier."""
        rows = [
            {
                "kind": notice.kind,
                "entity": notice.entity,
                "channel": notice.channel,
                "since_ms": notice.since_ms,
                "last_ms": notice.last_ms,
                "payload": msgspec.json.encode(notice),
            }
            for notice in notices
        ]
        if rows:
            keys = ("kind", "entity", "channel", "since_ms")
            self._connection.execute(upsert(self._connection, t.notices, keys, ("last_ms", "payload")), rows)

    def record_transitions(self, transitions: Iterable[AlertTransition]) -> int:
        """Keep each step of an alert's life; the pager then decides who is to hear of it.

        Idempotent: a step that is stored already, and any step after `resolved`, is skipped. Returns how many were new.
        """
        return sum(self._record(transition) for transition in transitions)

    def keep_suppressions(self, suppressions: Iterable[Suppression]) -> None:
        """Why loud signals opened no alert; a repeat changes nothing."""
        rows = [msgspec.to_builtins(each) for each in suppressions]
        if rows:
            self._connection.execute(insert(self._connection, t.suppressions).on_conflict_do_nothing(), rows)

    def save_paging(self, *, expected: int, state: bytes, keeper: int = PAGER) -> None:
        """Compare-and-swap of the pager's state, or of another keeper's; `expected` 0: there is none yet. Call it first: it
        takes the row's lock.

        Raises Fenced when another process has paged meanwhile: roll back and read again.
        """
        state_of = t.paging_state.c
        values = {"version": expected + 1, "state": state}
        if expected == 0:
            first = insert(self._connection, t.paging_state).values(id=keeper, **values)
            moved = self._connection.execute(first.on_conflict_do_nothing().returning(state_of.id)).all()
        else:
            swap = update(t.paging_state).where(state_of.id == keeper, state_of.version == expected)
            moved = self._connection.execute(swap.values(**values).returning(state_of.id)).all()
        if len(moved) != 1:
            raise Fenced(f"paging: version is no longer {expected}; another process has paged")

    def note_heard(self, mentions: Iterable[ScoredMention], partition: int, *, now_ms: int) -> None:
        """What was heard of each source: counted by hour of event time. Call it with new mentions only."""
        heard: dict[tuple[str, str, int], list[int]] = {}
        for mention in mentions:
            key = (str(mention.channel), storable(mention.source), mention.published_at_ms // 3_600_000)
            row = heard.setdefault(key, [0, 0])
            row[0] += 1
            row[1] = max(row[1], mention.published_at_ms)
        rows = [
            {
                "partition": partition,
                "channel": channel,
                "source": source,
                "hour": hour,
                "mentions": count,
                "newest_ms": newest_ms,
                "seen_at_ms": now_ms,
            }
            for (channel, source, hour), (count, newest_ms) in sorted(heard.items())
        ]
        if not rows:
            return
        statement = insert(self._connection, t.feed_hours)
        known, fresh = t.feed_hours.c, statement.excluded
        newer = fresh.newest_ms >= known.newest_ms
        statement = statement.on_conflict_do_update(
            index_elements=["partition", "channel", "source", "hour"],
            set_={
                "mentions": known.mentions + fresh.mentions,
                "newest_ms": case((newer, fresh.newest_ms), else_=known.newest_ms),
                "seen_at_ms": case((newer, fresh.seen_at_ms), else_=known.seen_at_ms),
            },
        )
        self._connection.execute(statement, rows)

    def note_intake(
        self,
        topic: str,
        partition: int,
        *,
        now_ms: int,
        mentions: int = 0,
        abstained: int = 0,
        other_engine: int = 0,
        dead_letters: int = 0,
    ) -> None:
        """How results came in, in slots of wall time."""
        counts = {
            "mentions": mentions,
            "abstained": abstained,
            "other_engine": other_engine,
            "dead_letters": dead_letters,
        }
        if not any(counts.values()):
            return
        statement = insert(self._connection, t.intake_slots)
        statement = statement.on_conflict_do_update(
            index_elements=["topic", "partition", "slot_ms"],
            set_={name: t.intake_slots.c[name] + statement.excluded[name] for name in counts},
        )
        row = {"topic": topic, "partition": partition, "slot_ms": now_ms - now_ms % SLOT_MS, **counts}
        self._connection.execute(statement, row)

    def keep_operator_alerts(self, messages: Iterable[OperatorAlert]) -> None:
        """Each step of a trouble, kept for ever."""
        for message in messages:
            self._connection.execute(
                t.operator_alerts.insert(),
                {
                    "id": message.page,
                    "sequence": message.sequence,
                    "trouble": message.trouble,
                    "subject": storable(message.subject),
                    "change": message.change,
                    "reason": str(message.reason),
                    "at_ms": message.at_ms,
                    "payload": msgspec.json.encode(message.body),
                },
            )

    def settle(self, decisions: Iterable[Decision], *, now_ms: int) -> None:
        """What became of steps of alerts."""
        d = t.paging_decisions
        for each in decisions:
            self._connection.execute(
                update(d)
                .where(d.c.alert_id == each.alert, d.c.sequence == each.sequence)
                .values(
                    verdict=str(each.verdict),
                    reason=str(each.reason),
                    page_id=each.page,
                    silence_id=each.silence,
                    decided_at_ms=now_ms,
                )
            )

    def tell(
        self, messages: Iterable[PageMessage], receivers: Sequence[Subscriber], *, now_ms: int, topic: Topic = "alerts"
    ) -> int:
        """One outbox row for each receiver that is to hear of a message; returns how many.

        A receiver's first message about a page always says `opened`, whichever first passed its filter; after it come all
        further ones, and a resolution is sent only to those who heard of the page. A message that is there already is skipped.
        """
        return sum(self._enqueue(message, receivers, now_ms, topic) for message in messages)

    def keep_dead_letter(self, letter: DeadLetter) -> None:
        """Once per place, however often it is delivered."""
        row = {
            "topic": storable(letter.place.topic),
            "partition": letter.place.partition,
            "offset": letter.place.offset,
            "key": letter.key,
            "value": letter.value,
            "headers": msgspec.json.encode(letter.headers),
            "reason": storable(letter.reason),
            "detail": storable(letter.detail),
            "failed_at_ms": letter.failed_at_ms,
        }
        self._connection.execute(insert(self._connection, t.dead_letters).on_conflict_do_nothing(), row)

    def _record(self, transition: AlertTransition) -> bool:
        alert = transition.alert
        told = t.alert_transitions.c
        known = self._connection.execute(
            select(told.sequence, told.change, told.at_ms).where(told.alert_id == alert.id)
        ).all()
        opened_again = transition.change == "opened" and bool(known)
        if opened_again or any(
            row.change == "resolved" or (row.change == transition.change and row.at_ms == transition.at_ms)
            for row in known
        ):
            return False
        payload = msgspec.json.encode(alert)
        sequence = 1 + max((row.sequence for row in known), default=0)
        self._keep_alert(transition, payload)
        self._connection.execute(
            t.alert_transitions.insert(),
            {
                "alert_id": alert.id,
                "sequence": sequence,
                "change": transition.change,
                "reason": storable(transition.reason),
                "at_ms": transition.at_ms,
                "payload": payload,
            },
        )
        self._connection.execute(
            t.paging_decisions.insert(),
            {
                "alert_id": alert.id,
                "sequence": sequence,
                "at_ms": transition.at_ms,
                "verdict": "waiting",
                "reason": "waiting",
            },
        )
        return True

    def _keep_alert(self, transition: AlertTransition, payload: bytes) -> None:
        alert = transition.alert
        resolved = transition.change == "resolved"
        changing = {
            "resolved_at_ms": (_epoch_ms(alert.resolved_at) or transition.at_ms) if resolved else None,
            "severity": alert.severity,
            "status": "resolved" if resolved else "open",
            "payload": payload,
        }
        fixed = {
            "id": alert.id,
            "entity": alert.entity,
            "kind": alert.kind,
            "direction": alert.direction,
            "opened_at_ms": _epoch_ms(alert.opened_at) or transition.at_ms,
        }
        self._connection.execute(upsert(self._connection, t.alerts, ("id",), tuple(changing)), {**fixed, **changing})

    def _enqueue(self, message: PageMessage, receivers: Sequence[Subscriber], now_ms: int, topic: Topic) -> int:
        o = t.outbox.c
        told = self._connection.execute(select(o.receiver, o.sequence).where(o.alert_id == message.page)).all()
        if any(row.sequence >= message.sequence for row in told):
            return 0
        heard = {row.receiver for row in told}
        payload = msgspec.json.encode(message.alert if message.alert is not None else message.body)
        rows = [
            {
                "id": delivery_id(message.page, message.sequence, receiver.name),
                "alert_id": message.page,
                "sequence": message.sequence,
                "receiver": receiver.name,
                "change": message.change if receiver.name in heard else "opened",
                "event": message.event if receiver.name in heard else _as_first(message),
                "at_ms": message.at_ms,
                "payload": payload,
                "created_at_ms": now_ms,
                "status": "pending",
                "attempts": 0,
                "next_attempt_at_ms": now_ms,
            }
            for receiver in receivers
            if receiver.name in heard or (message.change != "resolved" and _wants(receiver, message, topic))
        ]
        if rows:
            self._connection.execute(t.outbox.insert(), rows)
        return len(rows)


def _wants(receiver: Subscriber, message: PageMessage, topic: Topic) -> bool:
    if not receiver.hears(topic, message.severity):
        return False
    return message.alert is None or receiver.wants(message.alert)


def _as_first(message: PageMessage) -> str:
    """Who has not heard of an alert before hears that it opened."""
    return "alert.opened" if message.alert is not None else message.event


def delivery_id(alert_id: str, sequence: int, receiver: str) -> str:
    """The webhook-id: the same step to the same receiver has the same id for ever, whoever computes it."""
    return "msg_" + sha256(f"{alert_id}\x1f{sequence}\x1f{receiver}".encode()).hexdigest()[:32]


def insert(connection: Connection, table: Table) -> PostgresInsert | SqliteInsert:
    """An INSERT that knows ON CONFLICT in this connection's dialect."""
    return postgres_insert(table) if is_postgres(connection) else sqlite_insert(table)


def upsert(
    connection: Connection, table: Table, keys: Sequence[str], values: Sequence[str]
) -> PostgresInsert | SqliteInsert:
    """INSERT … ON CONFLICT (keys) DO UPDATE SET values."""
    statement = insert(connection, table)
    changes: dict[str, Any] = {name: statement.excluded[name] for name in values}
    return statement.on_conflict_do_update(index_elements=list(keys), set_=changes)


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Lists of at most CHUNK values: drivers limit the parameters of one statement."""
    rest = list(values)
    return (rest[start : start + CHUNK] for start in range(0, len(rest), CHUNK))


def count(connection: Connection, table: Table, *conditions: Any) -> int:
    return connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()


def _mention_row(mention: ScoredMention, partition: int, late: bool) -> dict[str, object]:
    return {
        "id": mention.id,
        "entity": storable(mention.entity),
        "document": storable(mention.document),
        "channel": mention.channel,
        "source": storable(mention.source),
        "author": storable(mention.author) if mention.author is not None else None,
        "published_at_ms": mention.published_at_ms,
        "polarity": mention.polarity,
        "label": mention.label,
        "model": storable(mention.model),
        "partition": partition,
        "late": late,
        "payload": msgspec.json.encode(mention),
    }


def _epoch_ms(rfc3339: str | None) -> int | None:
    return round(datetime.fromisoformat(rfc3339).timestamp() * 1000) if rfc3339 else None
