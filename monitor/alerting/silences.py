"""Silences: who must not be paged about what, from when to when, by whose word. Counted in event time.

A step of an alert that lies within a silence is not told. The alert itself goes on, and is told when the silence ends and it
is still open. With hours of the week a silence is a mute time: it holds only in those hours (UTC) of its span.
"""

from __future__ import annotations

from monitor.alerting.lifecycle import SEVERITIES, Severity
from monitor.records import AlertKind, Direction, Record

MINUTE_MS = 60_000
DAY_MS = 86_400_000
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Hours(Record, frozen=True, kw_only=True):
    """Minutes of the day in which a mute time holds, on these days (0 Monday … 6 Sunday); over midnight if `until` <= `start`."""

    days: tuple[int, ...]
    start_minute: int
    until_minute: int

    def until_ms(self, at_ms: int) -> int | None:
        """When the stretch that holds this moment ends; None outside of one."""
        today = at_ms // DAY_MS
        length = (self.until_minute - self.start_minute) % 1_440 or 1_440
        for day in (today, today - 1):
            start_ms = day * DAY_MS + self.start_minute * MINUTE_MS
            # The epoch was a Thursday.
            if (day + 3) % 7 in self.days and start_ms <= at_ms < start_ms + length * MINUTE_MS:
                return start_ms + length * MINUTE_MS
        return None


class Silence(Record, frozen=True, kw_only=True):
    """Holds in [starts_ms, ends_ms) for alerts that fit every matcher that is set; `severity_max`: louder ones get through."""

    id: int
    author: str
    reason: str
    created_ms: int
    starts_ms: int
    ends_ms: int
    entity: str | None = None
    sector: str | None = None
    kind: AlertKind | None = None
    direction: Direction | None = None
    severity_max: Severity = "critical"
    hours: Hours | None = None

    def fits(self, *, entity: str, sector: str, kind: AlertKind, direction: Direction, severity: Severity) -> bool:
        asked = ((self.entity, entity), (self.sector, sector), (self.kind, kind), (self.direction, direction))
        return all(want is None or want == have for want, have in asked) and (
            SEVERITIES.index(severity) <= SEVERITIES.index(self.severity_max)
        )

    def until_ms(self, at_ms: int) -> int | None:
        """When it stops holding, as seen from a moment at which it holds; None if it doesn't."""
        if not self.starts_ms <= at_ms < self.ends_ms:
            return None
        if self.hours is None:
            return self.ends_ms
        until_ms = self.hours.until_ms(at_ms)
        return min(until_ms, self.ends_ms) if until_ms is not None else None
