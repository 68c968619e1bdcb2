"""Known events against alerts: found or not, how fast in minutes and in independent stories, and what else fired."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from monitor.backtest.run import BacktestResult
from monitor.backtest.stories import group_stories
from monitor.errors import Fatal
from monitor.records import UNDECODABLE, Alert, Direction, ScoredMention

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
    """`counts`: whether it has enough items to be judged by. Delays run from the first item on the event to the alert; a
    negative one is a lead. `delay_stories`: independent stories among the items until the alert opened, copies collapsed."""

    name: str
    entity: str
    date: str
    direction: Direction
    items: int
    stories: int
    counts: bool
    detected: bool
    alert: str | None
    opened_at: str | None
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
        except (*UNDECODABLE, ValueError, re.error) as err:
            faults.append(f"{path}: line {number}: {err}")
    if faults:
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=tuple(faults))
    return tuple(events)


def judge_events(
    result: BacktestResult,
    mentions: Sequence[ScoredMention],
    events: Sequence[KnownEvent],
    *,
    stories: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An event is detected by an alert on its entity and direction from 12 hours before its day (UTC) to 3.5 days after it began.

    `precision` is the share of all alerts that are on a listed event in its direction: a lower bound, for no list names
    everything that happened.
    """
    if result.first_ms is None or result.last_ms is None:
        return {"events": [], "judged": 0, "detected": 0, "other_alerts_per_day": 0.0}
    stories = stories if stories is not None else group_stories(mentions)
    opened = {each.alert.id: each.at_ms for each in result.transitions if each.change == "opened"}
    about: dict[str, list[ScoredMention]] = defaultdict(list)
    for mention in mentions:
        about[mention.entity].append(mention)
    used: set[str] = set()
    right: set[str] = set()
    rows = []
    for event in events:
        day_ms = round(datetime.fromisoformat(event.date).replace(tzinfo=UTC).timestamp() * 1000)
        if not result.first_ms - 86_400_000 < day_ms <= result.last_ms:
            continue
        start_ms, end_ms = day_ms - BEFORE_MS, day_ms + AFTER_MS
        near = [a for a in result.alerts if a.entity == event.entity and start_ms <= opened[a.id] <= end_ms]
        used |= {alert.id for alert in near}
        right |= {alert.id for alert in near if alert.direction == event.direction}
        rows.append(_judge(event, near, about[event.entity], stories, opened, (start_ms, end_ms)))
    judged = [row for row in rows if row.counts]
    found = [row for row in judged if row.detected]
    return {
        "events": [msgspec.to_builtins(row) for row in rows],
        "judged": len(judged),
        "detected": len(found),
        "recall": round(len(found) / len(judged), 3) if judged else None,
        "precision": round(len(right) / len(result.alerts), 3) if result.alerts else None,
        "delay_minutes_median": _median([row.delay_minutes for row in found]),
        "delay_stories_median": _median([row.delay_stories for row in found]),
        "other_alerts_per_day": round((len(result.alerts) - len(used)) / result.days, 3),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _judge(
    event: KnownEvent,
    near: Sequence[Alert],
    mentions: Sequence[ScoredMention],
    stories: Mapping[str, str],
    opened: dict[str, int],
    span: tuple[int, int],
) -> EventResult:
    pattern = re.compile(event.pattern, re.IGNORECASE)
    items = sorted(
        (m.published_at_ms, stories[m.id])
        for m in mentions
        if span[0] <= m.published_at_ms <= span[1] and pattern.search(m.text.split("\n", 1)[0])
    )
    first = min(((opened[a.id], a) for a in near if a.direction == event.direction), key=itemgetter(0), default=None)
    at_ms = first[0] if first else None
    return EventResult(
        name=event.name,
        entity=event.entity,
        date=event.date,
        direction=event.direction,
        items=len(items),
        stories=len({story for _, story in items}),
        counts=len(items) >= ITEMS_MIN,
        detected=first is not None,
        alert=first[1].id if first else None,
        opened_at=first[1].opened_at if first else None,
        delay_minutes=round((at_ms - items[0][0]) / 60_000, 1) if at_ms is not None and items else None,
        delay_stories=len({story for told_ms, story in items if told_ms < at_ms})
        if at_ms is not None and items
        else None,
    )
