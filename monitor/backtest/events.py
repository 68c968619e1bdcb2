"""Known events against alerts: found or not, how fast in minutes and in independent stories, and what else fired."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from monitor.backtest.run import BacktestResult
from monitor.errors import Fatal
from monitor.records import Alert, Direction, ScoredMention

BEFORE_MS = 12 * 3_600_000
AFTER_MS = 84 * 3_600_000
ITEMS_MIN = 10


class KnownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an events file; `date` is YYYY-MM-DD, `pattern` finds its items in titles."""

    entity: str
    name: str
    date: str
    direction: Direction
    pattern: str
    stream: str | None = None


class EventResult(msgspec.Struct, frozen=True, kw_only=True):
    """`counts`: whether it has enough items to be judged by."""

    name: str
    entity: str
    date: str
    items: int
    counts: bool
    detected: bool
    alert: str | None
    delay_minutes: float | None
    delay_stories: int | None


def load_events(path: Path) -> tuple[KnownEvent, ...]:
    """Raises Fatal with every bad line."""
    events, faults = [], []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise Fatal(f"{path}: can't be read: {err}") from err
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = msgspec.json.decode(line, type=KnownEvent)
            datetime.fromisoformat(event.date)
            re.compile(event.pattern)
            events.append(event)
        except (msgspec.MsgspecError, ValueError, re.error) as err:
            faults.append(f"{path}: line {number}: {err}")
    if faults:
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=tuple(faults))
    return tuple(events)


def judge_events(
    result: BacktestResult, mentions: Sequence[ScoredMention], events: Sequence[KnownEvent]
) -> dict[str, Any]:
    """An event is detected by an alert on its entity and direction from 12 hours before its day (UTC) to 3.5 days after it began."""
    if result.first_ms is None or result.last_ms is None:
        return {"events": [], "judged": 0, "detected": 0, "other_alerts_per_day": 0.0}
    opened = {each.alert.id: each.at_ms for each in result.transitions if each.change == "opened"}
    used: set[str] = set()
    rows = []
    for event in events:
        day_ms = round(datetime.fromisoformat(event.date).replace(tzinfo=UTC).timestamp() * 1000)
        if not result.first_ms - 86_400_000 < day_ms <= result.last_ms:
            continue
        start_ms, end_ms = day_ms - BEFORE_MS, day_ms + AFTER_MS
        near = [a for a in result.alerts if a.entity == event.entity and start_ms <= opened[a.id] <= end_ms]
        used |= {alert.id for alert in near}
        rows.append(_judge(event, near, mentions, opened, (start_ms, end_ms)))
    judged = [row for row in rows if row.counts]
    others = len(result.alerts) - len(used)
    return {
        "events": [msgspec.to_builtins(row) for row in rows],
        "judged": len(judged),
        "detected": sum(row.detected for row in judged),
        "other_alerts_per_day": round(others / result.days, 3),
    }


def _judge(
    event: KnownEvent,
    near: Sequence[Alert],
    mentions: Sequence[ScoredMention],
    opened: dict[str, int],
    span: tuple[int, int],
) -> EventResult:
    pattern = re.compile(event.pattern, re.IGNORECASE)
    items = sorted(
        m.published_at_ms
        for m in mentions
        if m.entity == event.entity
        and span[0] <= m.published_at_ms <= span[1]
        and pattern.search(m.text.split("\n", 1)[0])
    )
    right = sorted((opened[alert.id], alert.id) for alert in near if alert.direction == event.direction)
    at_ms, alert = right[0] if right else (None, None)
    late = at_ms is not None and bool(items)
    return EventResult(
        name=event.name,
        entity=event.entity,
        date=event.date,
        items=len(items),
        counts=len(items) >= ITEMS_MIN,
        detected=bool(right),
        alert=alert,
        delay_minutes=round((at_ms - items[0]) / 60_000, 1) if late and at_ms is not None else None,
        delay_stories=sum(item < at_ms for item in items) if late and at_ms is not None else None,
    )
