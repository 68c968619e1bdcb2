"""The outbox table as the deliver role uses it: leases, retries, and what is remembered of each receiver.

Leases are written and judged by the database's clock alone: processes whose machines disagree about the time would take
each other's for run out, and send twice. Everything else is in the callers' wall time, for there an error costs no more
than itself: a retry that comes too early or too late.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, or_, select, update

from monitor.store import tables as t
from monitor.store.engine import is_postgres
from monitor.store.rows import ClaimedDelivery, ReceiverState, StoredDelivery, storable
from monitor.store.watching import insert, upsert

_SHOWN = (
    "id",
    "alert_id",
    "sequence",
    "receiver",
    "change",
    "status",
    "attempts",
    "created_at_ms",
    "next_attempt_at_ms",
    "delivered_at_ms",
    "last_error",
)


class Outbox(ABC):
    """Mixed into `Store`."""

    @abstractmethod
    def _reading(self, doing: str) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _writing(self, doing: str) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _database_ms(self, connection: Connection) -> int: ...

    def claim_deliveries(
        self, receiver: str, *, owner: str, now_ms: int, lease_ms: int, limit: int
    ) -> list[ClaimedDelivery]:
        """Take what is due for one receiver, oldest first; nobody else gets it until the lease ends.

        `now_ms` is the claimant's wall clock and only says which retries are due: their times were written by such a clock,
        and whoever takes one early still holds it alone. The lease begins after this call did, so a claimant that counts
        `lease_ms` from before it on its monotonic clock stops in time.

        A later step of an alert waits until the earlier ones are delivered or given up.
        """
        o, earlier = t.outbox.c, t.outbox.alias("earlier")
        blocked = exists().where(
            earlier.c.alert_id == o.alert_id,
            earlier.c.receiver == o.receiver,
            earlier.c.sequence < o.sequence,
            earlier.c.status == "pending",
        )
        due = (
            select(t.outbox)
            .where(
                o.receiver == receiver,
                o.status == "pending",
                # What was never tried is due whatever the clock says: one that was set back must not hold it for as long.
                or_(o.attempts == 0, o.next_attempt_at_ms <= now_ms),
                ~blocked,
            )
            .order_by(o.created_at_ms, o.alert_id, o.sequence)
            .limit(limit)
        )
        with self._writing("claiming deliveries") as connection:
            if is_postgres(connection):
                due = due.with_for_update(skip_locked=True)
            lease_now_ms = self._database_ms(connection)
            free = due.where(or_(o.lease_until_ms.is_(None), o.lease_until_ms <= lease_now_ms))
            return [
                self._claim(connection, row, owner, now_ms, lease_now_ms + lease_ms)
                for row in connection.execute(free).all()
            ]

    def mark_delivered(self, delivery_id: str, *, owner: str, now_ms: int) -> bool:
        """False when the lease was lost meanwhile and somebody else answers for it."""
        return self._end(delivery_id, owner, status="delivered", delivered_at_ms=now_ms, last_error=None)

    def retry_later(self, delivery_id: str, *, owner: str, next_attempt_at_ms: int, error: str) -> bool:
        return self._end(
            delivery_id, owner, status="pending", next_attempt_at_ms=next_attempt_at_ms, last_error=storable(error)
        )

    def give_up(self, delivery_id: str, *, owner: str, error: str) -> bool:
        return self._end(delivery_id, owner, status="failed", last_error=storable(error))

    def disable_receiver(self, receiver: str, *, reason: str, now_ms: int) -> None:
        """It said that it is gone: its pending deliveries stop, until `retry_deliveries` wakes them."""
        with self._writing("disabling a receiver") as connection:
            row = {
                "name": receiver,
                "disabled_at_ms": now_ms,
                "disabled_reason": storable(reason),
                "open_until_ms": None,
                "consecutive_failures": 0,
            }
            connection.execute(upsert(connection, t.receivers, ("name",), tuple(row)[1:]), row)
            pending = and_(t.outbox.c.receiver == receiver, t.outbox.c.status == "pending")
            connection.execute(
                update(t.outbox).where(pending).values(status="disabled", lease_owner=None, lease_until_ms=None)
            )

    def park_deliveries(self, receiver: str) -> int:
        """What was written for a receiver after it was disabled stops as well; returns how many."""
        o = t.outbox.c
        pending = and_(o.receiver == receiver, o.status == "pending")
        with self._reading("reading deliveries") as connection:
            if connection.execute(select(o.id).where(pending).limit(1)).first() is None:
                return 0  # asked at every turn: nothing is written for nothing
        with self._writing("parking deliveries") as connection:
            return connection.execute(
                update(t.outbox).where(pending).values(status="disabled", lease_owner=None, lease_until_ms=None)
            ).rowcount

    def release_deliveries(self, ids: Sequence[str], *, owner: str) -> int:
        """Claimed but not tried: due again at once, as if they had never been claimed; returns how many."""
        o = t.outbox.c
        mine = and_(o.id.in_(list(ids)), o.lease_owner == owner, o.status == "pending")
        untried = {
            "lease_owner": None,
            "lease_until_ms": None,
            "attempts": o.attempts - 1,
            "first_attempt_at_ms": case((o.attempts <= 1, None), else_=o.first_attempt_at_ms),
        }
        with self._writing("releasing deliveries") as connection:
            return connection.execute(update(t.outbox).where(mine).values(**untried)).rowcount

    def receiver_state(self, name: str) -> ReceiverState:
        with self._reading("reading receivers") as connection:
            row = connection.execute(select(t.receivers).where(t.receivers.c.name == name)).one_or_none()
        return ReceiverState(**row._mapping) if row is not None else ReceiverState(name=name)

    def receiver_states(self) -> list[ReceiverState]:
        """All that are remembered, by name."""
        with self._reading("reading receivers") as connection:
            rows = connection.execute(select(t.receivers).order_by(t.receivers.c.name))
            return [ReceiverState(**row._mapping) for row in rows]

    def change_receiver(self, name: str, change: Callable[[ReceiverState], ReceiverState]) -> ReceiverState:
        """Read, change and write in one transaction: two processes that fail at once count two failures."""
        with self._writing("saving a receiver") as connection:
            fresh = {"name": name, "consecutive_failures": 0}
            connection.execute(insert(connection, t.receivers).on_conflict_do_nothing(), fresh)
            wanted = select(t.receivers).where(t.receivers.c.name == name)
            row = connection.execute(wanted.with_for_update() if is_postgres(connection) else wanted).one()
            state = change(ReceiverState(**row._mapping))
            values = {field: getattr(state, field) for field in state.__struct_fields__ if field != "name"}
            connection.execute(update(t.receivers).where(t.receivers.c.name == name).values(**values))
        return state

    def take_probe(self, name: str, *, now_ms: int, until_ms: int) -> bool:
        """The one try after a rest: True for the process that may make it; the others rest on until `until_ms`."""
        r = t.receivers.c
        rested = and_(r.name == name, or_(r.open_until_ms.is_(None), r.open_until_ms <= now_ms))
        with self._writing("probing a receiver") as connection:
            done = connection.execute(update(t.receivers).where(rested).values(open_until_ms=until_ms))
            return done.rowcount == 1

    def deliveries(
        self, *, limit: int = 100, status: str | None = None, receiver: str | None = None
    ) -> list[StoredDelivery]:
        """The newest first."""
        o = t.outbox.c
        wanted = select(*(o[name] for name in _SHOWN)).order_by(o.created_at_ms.desc(), o.id).limit(limit)
        if status is not None:
            wanted = wanted.where(o.status == status)
        if receiver is not None:
            wanted = wanted.where(o.receiver == receiver)
        with self._reading("reading deliveries") as connection:
            return [StoredDelivery(**row._mapping) for row in connection.execute(wanted)]

    def retry_deliveries(self, ids: Sequence[str] | None = None, *, now_ms: int, receiver: str | None = None) -> int:
        """Failed and disabled ones become due again, and their receivers are enabled; returns how many.

        Those of `ids`, or all; of one `receiver`, or of every one.
        """
        o = t.outbox.c
        chosen: ColumnElement[bool] = o.status.in_(["failed", "disabled"])
        if ids is not None:
            chosen = and_(chosen, o.id.in_(list(ids)))
        if receiver is not None:
            chosen = and_(chosen, o.receiver == receiver)
        with self._writing("retrying deliveries") as connection:
            names = connection.execute(select(o.receiver).where(chosen).distinct()).scalars().all()
            fresh = {"status": "pending", "attempts": 0, "next_attempt_at_ms": now_ms, "first_attempt_at_ms": None}
            done = connection.execute(update(t.outbox).where(chosen).values(**fresh)).rowcount
            enabled = {
                "disabled_at_ms": None,
                "disabled_reason": None,
                "open_until_ms": None,
                "consecutive_failures": 0,
            }
            connection.execute(update(t.receivers).where(t.receivers.c.name.in_(names)).values(**enabled))
            return done

    def oldest_pending_ms(self) -> int | None:
        """When the oldest delivery that still waits was created."""
        o = t.outbox.c
        with self._reading("reading deliveries") as connection:
            return connection.execute(select(func.min(o.created_at_ms)).where(o.status == "pending")).scalar()

    def _claim(self, connection: Connection, row: Any, owner: str, now_ms: int, lease_until_ms: int) -> ClaimedDelivery:
        first_ms = row.first_attempt_at_ms if row.first_attempt_at_ms is not None else now_ms
        taken = {
            "lease_owner": owner,
            "lease_until_ms": lease_until_ms,
            "attempts": row.attempts + 1,
            "first_attempt_at_ms": first_ms,
        }
        connection.execute(update(t.outbox).where(t.outbox.c.id == row.id).values(**taken))
        return ClaimedDelivery(
            id=row.id,
            alert_id=row.alert_id,
            sequence=row.sequence,
            receiver=row.receiver,
            event=row.event,
            change=row.change,
            at_ms=row.at_ms,
            alert_json=row.payload,
            attempts=row.attempts + 1,
            first_attempt_at_ms=first_ms,
            lease_until_ms=lease_until_ms,
        )

    def _end(self, delivery_id: str, owner: str, **values: Any) -> bool:
        o = t.outbox.c
        mine = and_(o.id == delivery_id, o.lease_owner == owner, o.status == "pending")
        with self._writing("closing a delivery") as connection:
            done = connection.execute(
                update(t.outbox).where(mine).values(lease_owner=None, lease_until_ms=None, **values)
            )
            return done.rowcount == 1
