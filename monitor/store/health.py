"""What honest silence is judged by: what was heard of each source, how results came in, and what operators were told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from sqlalchemy import Connection, delete, func, select

from monitor.store import tables as t
from monitor.store.rows import StoredFeedHour, StoredOperatorAlert, StoredShares

HOUR_MS = 3_600_000


class Health(ABC):
    """Mixed into `Store`."""

    @abstractmethod
    def _reading(self, doing: str) -> AbstractContextManager[Connection]: ...

    @abstractmethod
    def _writing(self, doing: str) -> AbstractContextManager[Connection]: ...

    def newest_heard_hour(self) -> int | None:
        """The last hour of event time in which anything was heard."""
        with self._reading("reading feeds") as connection:
            return connection.execute(select(func.max(t.feed_hours.c.hour))).scalar()

    def feed_hours(self, since_hour: int) -> list[StoredFeedHour]:
        """All partitions together, in the order of (channel, source, hour)."""
        f = t.feed_hours.c
        keys = (f.channel, f.source, f.hour)
        sums = (
            func.sum(f.mentions).label("mentions"),
            func.max(f.newest_ms).label("newest_ms"),
            func.max(f.seen_at_ms).label("seen_at_ms"),
        )
        wanted = select(*keys, *sums).where(f.hour >= since_hour).group_by(*keys).order_by(*keys)
        with self._reading("reading feeds") as connection:
            return [
                StoredFeedHour(**{**row._mapping, "mentions": int(row.mentions)}) for row in connection.execute(wanted)
            ]

    def entity_hours(self, entity: str, since_ms: int) -> list[StoredFeedHour]:
        """The same for one company, from its buckets; the newest moment is that of the bucket."""
        b = t.buckets.c
        wanted = (
            select(b.channel, b.start_ms, b.raw_n)
            .where(b.entity == entity, b.start_ms >= since_ms)
            .order_by(b.channel, b.start_ms)
        )
        hours: dict[tuple[str, int], list[int]] = {}
        with self._reading("reading buckets") as connection:
            for row in connection.execute(wanted):
                sums = hours.setdefault((row.channel, row.start_ms // HOUR_MS), [0, 0])
                sums[0] += row.raw_n
                sums[1] = max(sums[1], row.start_ms)
        return [
            StoredFeedHour(
                channel=channel,  # type: ignore[arg-type]  # a channel is what the buckets were written with
                source=entity,
                hour=hour,
                mentions=count,
                newest_ms=newest_ms,
                seen_at_ms=newest_ms,
            )
            for (channel, hour), (count, newest_ms) in hours.items()
        ]

    def intake_shares(self, since_ms: int, until_ms: int) -> StoredShares:
        """Of the slots that begin in [since_ms, until_ms) of wall time."""
        s = t.intake_slots.c
        names = ("mentions", "abstained", "other_engine", "dead_letters")
        wanted = select(*(func.coalesce(func.sum(s[name]), 0).label(name) for name in names))
        with self._reading("reading intake") as connection:
            row = connection.execute(wanted.where(s.slot_ms >= since_ms, s.slot_ms < until_ms)).one()
        return StoredShares(**{name: int(getattr(row, name)) for name in names})

    def operator_alerts(self, *, limit: int = 100) -> list[StoredOperatorAlert]:
        """The newest first."""
        o = t.operator_alerts.c
        columns = (o.id, o.sequence, o.trouble, o.subject, o.change, o.reason, o.at_ms)
        wanted = select(*columns).order_by(o.at_ms.desc(), o.id, o.sequence.desc()).limit(limit)
        with self._reading("reading operator alerts") as connection:
            return [StoredOperatorAlert(**row._mapping) for row in connection.execute(wanted)]

    def forget_health(self, *, before_hour: int, before_ms: int) -> int:
        """What no record reaches back to any more; returns how many rows went."""
        with self._writing("purging feeds") as connection:
            gone = connection.execute(delete(t.feed_hours).where(t.feed_hours.c.hour < before_hour)).rowcount
            gone += connection.execute(delete(t.intake_slots).where(t.intake_slots.c.slot_ms < before_ms)).rowcount
        return gone
