"""What the pager and the desk share: steps that wait, silences, acknowledgements, and why somebody was not told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, insert, or_, select, update

from monitor.records import Alert, AlertKind, AlertTransition, Direction, Suppression
from monitor.store import tables as t
from monitor.store.rows import StoredDecision, StoredMark, StoredSilence, WaitingStep, storable
from monitor.store.watching import PAGER, chunks, upsert


class Paging(ABC):
    """Mixed into `Store`."""

    @abstractmethod
    def _reading(self, doing: str) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _writing(self, doing: str) -> AbstractContextManager[Connection]: ...

    def partition_marks(self, topic: str) -> list[StoredMark]:
        """How far each partition has come. Read it before `waiting_steps`: what lies before these marks is then complete."""
        p = t.partition_states.c
        with self._reading("reading offsets") as connection:
            rows = connection.execute(
                select(p.partition, p.next, p.watermark_ms).where(p.topic == topic).order_by(p.partition)
            )
            return [StoredMark(**row._mapping) for row in rows]

    def waiting_steps(self, until_ms: int, *, limit: int = 2_000) -> list[WaitingStep]:
        """Steps of alerts up to this moment of event time that nobody has decided about, oldest first."""
        d, s = t.paging_decisions.c, t.alert_transitions.c
        wanted = (
            select(d.alert_id, d.sequence, s.change, s.reason, s.at_ms, s.payload)
            .join(t.alert_transitions, (s.alert_id == d.alert_id) & (s.sequence == d.sequence))
            .where(d.verdict == "waiting", d.at_ms <= until_ms)
            .order_by(d.at_ms, d.alert_id, d.sequence)
            .limit(limit)
        )
        with self._reading("reading steps") as connection:
            rows = connection.execute(wanted).all()
        return [
            WaitingStep(
                sequence=row.sequence,
                transition=AlertTransition(
                    alert=msgspec.json.decode(row.payload, type=Alert),
                    change=row.change,
                    reason=row.reason,
                    at_ms=row.at_ms,
                ),
            )
            for row in rows
        ]

    def paging_state(self, keeper: int = PAGER) -> tuple[int, bytes]:
        """The pager's state and its version, or another keeper's; version 0: there is none yet."""
        p = t.paging_state.c
        with self._reading("reading the pager's state") as connection:
            row = connection.execute(select(p.version, p.state).where(p.id == keeper)).one_or_none()
        return (row.version, row.state) if row is not None else (0, b"")

    def decisions(self, alert_id: str) -> list[StoredDecision]:
        """What became of each step of an alert."""
        d = t.paging_decisions.c
        with self._reading("reading decisions") as connection:
            rows = connection.execute(select(t.paging_decisions).where(d.alert_id == alert_id).order_by(d.sequence))
            return [StoredDecision(**row._mapping) for row in rows]

    def suppressions(self, *, entity: str | None = None, limit: int = 100) -> list[Suppression]:
        """Loud signals that opened no alert, the newest first."""
        s = t.suppressions.c
        wanted = select(t.suppressions).order_by(s.at_ms.desc(), s.entity).limit(limit)
        if entity is not None:
            wanted = wanted.where(s.entity == entity)
        with self._reading("reading suppressions") as connection:
            return [Suppression(**row._mapping) for row in connection.execute(wanted)]

    # Silences.

    def silences(self, *, ended_before_ms: int | None = None) -> list[StoredSilence]:
        """In the order of their numbers; without those that ended or were expired before a moment of event time."""
        s = t.silences.c
        wanted = select(t.silences).order_by(s.id)
        if ended_before_ms is not None:
            wanted = wanted.where(s.ends_at_ms > ended_before_ms)
        with self._reading("reading silences") as connection:
            return [StoredSilence(**row._mapping) for row in connection.execute(wanted)]

    def add_silence(
        self,
        *,
        author: str,
        reason: str,
        created_at_ms: int,
        starts_at_ms: int,
        ends_at_ms: int,
        entity: str | None = None,
        sector: str | None = None,
        kind: AlertKind | None = None,
        direction: Direction | None = None,
        severity_max: Literal["low", "medium", "high", "critical"] = "critical",
        days: str | None = None,
        start_minute: int | None = None,
        until_minute: int | None = None,
    ) -> int:
        """Returns its number."""
        row = {
            "author": storable(author),
            "reason": storable(reason),
            "created_at_ms": created_at_ms,
            "starts_at_ms": starts_at_ms,
            "ends_at_ms": ends_at_ms,
            "entity": entity,
            "sector": sector,
            "kind": kind,
            "direction": direction,
            "severity_max": severity_max,
            "days": days,
            "start_minute": start_minute,
            "until_minute": until_minute,
        }
        with self._writing("adding a silence") as connection:
            return int(connection.execute(insert(t.silences).values(**row).returning(t.silences.c.id)).scalar_one())

    def expire_silence(self, silence_id: int, *, author: str, at_ms: int, now_ms: int) -> bool:
        """It holds until `at_ms` of event time and no longer; the row stays. False: there is none that still holds then."""
        s = t.silences.c
        with self._writing("expiring a silence") as connection:
            done = connection.execute(
                update(t.silences)
                .where(s.id == silence_id, s.ends_at_ms > at_ms, s.expired_at_ms.is_(None))
                .values(ends_at_ms=at_ms, expired_at_ms=now_ms, expired_by=storable(author))
            )
            return done.rowcount == 1

    # Acknowledgements.

    def acknowledge(self, alert_id: str, *, author: str, reason: str, now_ms: int) -> bool:
        """Somebody has taken it on. False: no such alert. The last word counts."""
        with self._writing("acknowledging an alert") as connection:
            known = connection.execute(select(t.alerts.c.id).where(t.alerts.c.id == alert_id)).one_or_none()
            if known is None:
                return False
            row: dict[str, Any] = {
                "alert_id": alert_id,
                "author": storable(author),
                "reason": storable(reason),
                "at_ms": now_ms,
            }
            statement = upsert(connection, t.acknowledgements, ("alert_id",), ("author", "reason", "at_ms"))
            connection.execute(statement, row)
            return True

    def acknowledged(self, alert_ids: Collection[str]) -> dict[str, str]:
        """Which of them were taken on, and by whom."""
        a = t.acknowledgements.c
        with self._reading("reading acknowledgements") as connection:
            return {
                row.alert_id: row.author
                for part in chunks(alert_ids)
                for row in connection.execute(select(a.alert_id, a.author).where(a.alert_id.in_(part)))
            }

    def alert_id(self, prefix: str) -> str | None:
        """The one alert whose id begins so; None when there is none or several."""
        a = t.alerts.c
        with self._reading("reading alerts") as connection:
            found = connection.execute(
                select(a.id).where(or_(a.id == prefix, a.id.startswith(prefix, autoescape=True))).limit(2)
            ).scalars()
            ids = found.all()
        return ids[0] if len(ids) == 1 else None
