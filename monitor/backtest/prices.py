"""Alerts against price moves, beside detectors that anyone could write: the same mentions, the same judge, the same rates.

An alert is right when the price moves by two standard deviations or more in its direction on its trading day (the first on or
after the UTC day on which it opened) or the next. A move of four, on a day with ten documents or more, is found when an alert
in its direction opened within a day of it.
"""

from __future__ import annotations

import gzip
import math
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from monitor.backtest.run import DAY_MS, BacktestResult
from monitor.errors import Fatal
from monitor.records import UNDECODABLE, ScoredMention
from monitor.windows import NoveltyMemory, NoveltyPolicy

HOUR_MS = 3_600_000
RIGHT_SIGMA, MOVE_SIGMA, DOCUMENTS_MIN = 2.0, 4.0, 10
CLOSE_UTC_H = 20  # New York's close in summer; an hour early in winter, which errs against us
_MEMORY_DAYS = 30


class Opened(NamedTuple):
    """An alert as the judge sees it; `sign` 1 up, −1 down."""

    entity: str
    at_ms: int
    sign: int


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a prices file: `z` is the day's return over the standard deviation of the days before."""

    entity: str
    date: str
    z: float


class Judge:
    """Knows the prices. `documents`: how many there were, by entity and UTC day."""

    def __init__(self, days: Iterable[Day], documents: Mapping[tuple[str, str], int], told_on: Iterable[str]) -> None:
        self._z = {(day.entity, day.date): day.z for day in days}
        self._trading = sorted({day for _, day in self._z})
        self._documents = documents
        self._told_on = sorted(told_on)
        self.entities = frozenset(entity for entity, _ in self._z)

    def days(self, since: str = "", until: str = "9") -> int:
        """UTC days on which anything was said."""
        return sum(since <= day < until for day in self._told_on)

    def judge(self, opened: Sequence[Opened], since: str = "", until: str = "9") -> dict[str, Any]:
        """Precision, recall and how early, over the alerts and moves of a span of days."""
        alerts = [(each, _day(each.at_ms)) for each in opened if since <= _day(each.at_ms) < until]
        right = early = judged = 0
        for each, day in alerts:
            where = bisect_left(self._trading, day)
            if where == len(self._trading) or (each.entity, self._trading[where]) not in self._z:
                continue
            judged += 1
            near = self._trading[where : where + 2]
            moved = [d for d in near if each.sign * self._z.get((each.entity, d), 0.0) >= RIGHT_SIGMA]
            right += bool(moved)
            early += bool(moved) and each.at_ms < _close_ms(moved[0])
        by_entity: dict[str, list[tuple[date, int]]] = defaultdict(list)
        for each, day in alerts:
            by_entity[each.entity].append((date.fromisoformat(day), each.sign))
        moves = [
            (entity, day, z)
            for (entity, day), z in self._z.items()
            if abs(z) >= MOVE_SIGMA and self._documents.get((entity, day), 0) >= DOCUMENTS_MIN and since <= day < until
        ]
        found = sum(
            any(
                abs(opened_on - date.fromisoformat(day)) <= timedelta(days=1) and sign * z > 0
                for opened_on, sign in by_entity[entity]
            )
            for entity, day, z in moves
        )
        return {
            "alerts": len(alerts),
            "alerts_per_day": round(len(alerts) / max(self.days(since, until), 1), 3),
            "precision": round(right / max(judged, 1), 3),
            "recall": round(found / max(len(moves), 1), 3),
            "moves": len(moves),
            "right_before_the_close": round(early / max(right, 1), 3),
        }


def load_prices(path: Path) -> tuple[Day, ...]:
    """One JSON object a line, `.jsonl` or `.jsonl.gz`. Raises Fatal with every bad line."""
    try:
        blob = path.read_bytes()
        lines = (gzip.decompress(blob) if path.suffix == ".gz" else blob).splitlines()
    except (OSError, EOFError, ValueError) as err:
        raise Fatal(f"{path}: can't be read: {err}") from err
    days, faults = [], []
    for number, line in enumerate(lines, 1):
        try:
            day = msgspec.json.decode(line, type=Day)
            date.fromisoformat(day.date)
            days.append(day)
        except (*UNDECODABLE, ValueError) as err:
            faults.append(f"{path}: line {number}: {err}")
    if faults:
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=tuple(faults))
    return tuple(days)


def make_judge(days: Sequence[Day], mentions: Iterable[ScoredMention]) -> Judge:
    """Documents a day as they were said, copies and all."""
    counts: Counter[tuple[str, str]] = Counter()
    for mention in mentions:
        counts[mention.entity, _day(mention.published_at_ms)] += 1
    return Judge(days, counts, {day for _, day in counts})


def opened_by(result: BacktestResult) -> list[Opened]:
    """What a backtest opened."""
    return [
        Opened(step.alert.entity, step.at_ms, 1 if step.alert.direction == "positive" else -1)
        for step in result.transitions
        if step.change == "opened"
    ]


# The detectors that anyone could write. Each yields (entity, moment, score, sign) and is thresholded in hindsight, which is
# kinder to it than to us, who must hold a budget from the first day on.

Reading = tuple[str, int, float, int]


def plain_detectors(mentions: Sequence[ScoredMention]) -> dict[str, list[Reading]]:
    """`mentions` in the order of event time. Directions by the sign of the same model's tone in the window."""
    distinct = _distinct(mentions)
    return {
        "distinct voices, 4 h": _surplus(distinct, 4),
        "raw counts, 8 h": _surplus([(m, True) for m in mentions], 8),
        "sums of tone, 8 h": _tone_sums(mentions, 8),
        "untuned CUSUM of tone, k = 0.5": _cusum(mentions),
    }


def at_rate(readings: Sequence[Reading], alerts: float, cooldown_ms: int) -> list[Opened]:
    """The threshold, in hindsight, at which so many alerts open; the same direction stays quiet for the cooldown."""
    low, high = 0.0, max((score for _, _, score, _ in readings), default=1.0)
    for _ in range(30):
        middle = (low + high) / 2
        if len(_opens(readings, middle, cooldown_ms)) > alerts:
            low = middle
        else:
            high = middle
    return _opens(readings, high, cooldown_ms)


def _opens(readings: Sequence[Reading], threshold: float, cooldown_ms: int) -> list[Opened]:
    last: dict[tuple[str, int], int] = {}
    opened = []
    for entity, at_ms, score, sign in readings:
        if score <= threshold:
            continue
        before = last.get((entity, sign))
        if before is None or at_ms - before >= cooldown_ms:
            last[entity, sign] = at_ms
            opened.append(Opened(entity, at_ms, sign))
    return opened


def _distinct(mentions: Sequence[ScoredMention]) -> list[tuple[ScoredMention, bool]]:
    memories: dict[str, NoveltyMemory] = {}
    told = []
    for mention in mentions:
        memory = memories.setdefault(mention.entity, NoveltyMemory(NoveltyPolicy(horizon_ms=DAY_MS)))
        heard = memory.hear(mention.published_at_ms, mention.text, mention.author, None).heard
        told.append((mention, heard.root is heard))
    return told


def _surplus(told: Sequence[tuple[ScoredMention, bool]], hours: int) -> list[Reading]:
    """(n − mean) / √(mean + 1) against the mean of the last thirty days."""
    readings = []
    windows: dict[str, deque[tuple[int, float]]] = defaultdict(deque)
    months: dict[str, deque[int]] = defaultdict(deque)
    tones: dict[str, float] = defaultdict(float)
    for mention, counts in told:
        if not counts:
            continue
        at_ms, entity = mention.published_at_ms, mention.entity
        window, month = windows[entity], months[entity]
        window.append((at_ms, mention.polarity))
        month.append(at_ms)
        tones[entity] += mention.polarity
        while window[0][0] <= at_ms - hours * HOUR_MS:
            tones[entity] -= window.popleft()[1]
        while month[0] <= at_ms - _MEMORY_DAYS * DAY_MS:
            month.popleft()
        mean = len(month) * hours / 24 / _MEMORY_DAYS
        score = (len(window) - mean) / math.sqrt(mean + 1.0)
        readings.append((entity, at_ms, score, 1 if tones[entity] >= 0.0 else -1))
    return readings


def _tone_sums(mentions: Sequence[ScoredMention], hours: int) -> list[Reading]:
    """|sum of polarity| in the window."""
    readings = []
    windows: dict[str, deque[tuple[int, float]]] = defaultdict(deque)
    sums: dict[str, float] = defaultdict(float)
    for mention in mentions:
        at_ms, window = mention.published_at_ms, windows[mention.entity]
        window.append((at_ms, mention.polarity))
        sums[mention.entity] += mention.polarity
        while window[0][0] <= at_ms - hours * HOUR_MS:
            sums[mention.entity] -= window.popleft()[1]
        total = sums[mention.entity]
        readings.append((mention.entity, at_ms, abs(total), 1 if total >= 0.0 else -1))
    return readings


def _cusum(mentions: Sequence[ScoredMention]) -> list[Reading]:
    """Page's CUSUM of each mention's polarity, standardised by the entity's mentions so far."""
    readings = []
    states: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.25, 0.0, 0.0])
    for mention in mentions:
        state = states[mention.entity]
        n, mean, spread = state[0], state[1], state[2]
        z = (mention.polarity - mean) / math.sqrt(spread)
        state[3] = max(0.0, state[3] + z - 0.5)
        state[4] = max(0.0, state[4] - z - 0.5)
        state[0] = n + 1.0
        state[1] = mean + (mention.polarity - mean) / (n + 1.0)
        state[2] = max(0.01, spread + ((mention.polarity - mean) ** 2 - spread) / (n + 10.0))
        up, down = state[3], state[4]
        readings.append((mention.entity, mention.published_at_ms, max(up, down), 1 if up >= down else -1))
    return readings


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


def _close_ms(day: str) -> int:
    return round(datetime.fromisoformat(day).replace(tzinfo=UTC, hour=CLOSE_UTC_H).timestamp() * 1000)
