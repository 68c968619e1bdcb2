"""Run, permute, compare. One core a partition, exactly as `watch` has them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from kafka.partitioner.default import murmur2

from monitor.alerting import Rules
from monitor.clock import to_rfc3339
from monitor.loops.core import Outcome, PartitionCore, WatchPolicy
from monitor.records import Alert, AlertTransition, Notice, ScoredMention
from monitor.windows import BucketRow

DAY_MS = 86_400_000
BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    """`alerts` as they stand at the end, in the order of opening; `transitions` in the order of event time."""

    rules: Rules
    alerts: tuple[Alert, ...]
    transitions: tuple[AlertTransition, ...]
    buckets: tuple[BucketRow, ...]
    notices: tuple[Notice, ...]
    counts: Mapping[str, int]
    mentions: int
    entities: int
    first_ms: int | None
    last_ms: int | None

    @property
    def days(self) -> float:
        """Length of the history, at least one day."""
        if self.first_ms is None or self.last_ms is None:
            return 1.0
        return max(1.0, (self.last_ms - self.first_ms) / DAY_MS)

    def summary(self) -> dict[str, Any]:
        """What summary.json holds."""
        stormiest = Counter(alert.opened_at[:13] for alert in self.alerts)
        again = Counter((alert.entity, alert.direction, alert.opened_at[:10]) for alert in self.alerts)
        return {
            "rule": self.rules.name,
            "false_alerts_per_day_budget": self.rules.budget.false_alerts_per_day,
            "from": to_rfc3339(self.first_ms) if self.first_ms is not None else None,
            "to": to_rfc3339(self.last_ms) if self.last_ms is not None else None,
            "days": round(self.days, 3),
            "mentions": self.mentions,
            "entities": self.entities,
            "fates": dict(sorted(self.counts.items())),
            "alerts": len(self.alerts),
            "alerts_per_day": round(len(self.alerts) / self.days, 3),
            "by_kind": dict(sorted(Counter(a.kind for a in self.alerts).items())),
            "by_direction": dict(sorted(Counter(a.direction for a in self.alerts).items())),
            "by_severity": dict(sorted(Counter(a.severity for a in self.alerts).items())),
            "by_entity": dict(sorted(Counter(a.entity for a in self.alerts).items())),
            "alerts_in_the_stormiest_hour": max(stormiest.values(), default=0),
            "flaps": sum(count - 1 for count in again.values()),
            "models": sorted({alert.model for alert in self.alerts}),
        }


def run_backtest(
    mentions: Iterable[ScoredMention],
    *,
    rules: Rules,
    names: Mapping[str, str] = {},
    partitions: int = 4,
    progress: Callable[[int], None] = lambda _count: None,
) -> BacktestResult:
    """Fold a history in the order of event time; twice the same mention counts once, as in the database."""
    policy = WatchPolicy.of(rules, partitions=partitions)
    cores: dict[int, PartitionCore] = {}
    by_id = {mention.id: mention for mention in mentions}
    ordered = sorted(by_id.values(), key=lambda m: (m.published_at_ms, m.id))
    where: dict[str, int] = {}
    outcomes: list[Outcome] = []
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        for mention in batch:
            partition = where.get(mention.entity)
            if partition is None:
                partition = where[mention.entity] = partition_of(mention.entity, partitions)
            core = cores.get(partition)
            if core is None:
                core = cores[partition] = PartitionCore(policy=policy, rules=rules, names=names)
            core.take(mention, origin="", now_ms=None)
        outcomes += [cores[partition].advance() for partition in sorted(cores)]
        progress(len(batch))
    outcomes += [cores[partition].finish() for partition in sorted(cores)]
    transitions = sorted(
        (each for outcome in outcomes for each in outcome.transitions),
        key=lambda each: (each.at_ms, each.alert.entity, each.change == "opened", each.alert.id),
    )
    latest: dict[str, Alert] = {}
    for each in transitions:
        latest[each.alert.id] = each.alert
    counts: Counter[str] = Counter()
    for core in cores.values():
        counts.update(core.counts)
    return BacktestResult(
        rules=rules,
        alerts=tuple(sorted(latest.values(), key=lambda alert: (alert.opened_at, alert.entity, alert.id))),
        transitions=tuple(transitions),
        buckets=tuple(row for outcome in outcomes for row in outcome.buckets),
        notices=_latest(notice for outcome in outcomes for notice in outcome.notices),
        counts={str(key): value for key, value in counts.items()},
        mentions=len(ordered),
        entities=len(where),
        first_ms=ordered[0].published_at_ms if ordered else None,
        last_ms=ordered[-1].published_at_ms if ordered else None,
    )


def _latest(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """As they stood at the end, in the order of their beginning."""
    last = {(each.since_ms, each.entity, each.channel, each.kind): each for each in notices}
    return tuple(last[key] for key in sorted(last))


def partition_of(entity: str, partitions: int) -> int:
    """Where Kafka's default partitioner puts this key."""
    return int(murmur2(entity.encode()) & 0x7FFFFFFF) % partitions


def null_replay(mentions: Sequence[ScoredMention], *, seed: int) -> list[ScoredMention]:
    """The same mentions with nothing happening: within each entity the stories change days, the time of day stays.

    Volume per entity, the shape of the day and every text stay as they are; what came together no longer does.
    """
    rng = random.Random(seed)  # noqa: S311  a permutation that can be repeated, not a secret
    by_entity: dict[str, list[ScoredMention]] = defaultdict(list)
    for mention in mentions:
        by_entity[mention.entity].append(mention)
    days = sorted({mention.published_at_ms // DAY_MS for mention in mentions})
    weekdays = [day for day in days if day % 7 not in (2, 3)]
    weekend = [day for day in days if day % 7 in (2, 3)]
    result = []
    for entity in sorted(by_entity):
        for mention in sorted(by_entity[entity], key=lambda m: m.id):
            day = mention.published_at_ms // DAY_MS
            other = rng.choice(weekend if day % 7 in (2, 3) else weekdays)
            moved_ms = other * DAY_MS + mention.published_at_ms % DAY_MS
            result.append(msgspec.structs.replace(mention, published_at_ms=moved_ms, scored_at_ms=moved_ms))
    return sorted(result, key=lambda m: (m.published_at_ms, m.id))


def compare(one: BacktestResult, other: BacktestResult, *, within_ms: int = DAY_MS) -> dict[str, Any]:
    """Two rule files side by side: the alerts that only one of them has. The same entity and direction within a day is the same alert."""

    def missing(here: BacktestResult, there: BacktestResult) -> list[dict[str, str]]:
        known: dict[tuple[str, str], list[int]] = defaultdict(list)
        for step in there.transitions:
            if step.change == "opened":
                known[step.alert.entity, step.alert.direction].append(step.at_ms)
        return [
            {"entity": s.alert.entity, "direction": s.alert.direction, "kind": s.alert.kind, "at": s.alert.opened_at}
            for s in here.transitions
            if s.change == "opened"
            and not any(abs(s.at_ms - at) <= within_ms for at in known[s.alert.entity, s.alert.direction])
        ]

    return {
        "rules": [one.rules.name, other.rules.name],
        "alerts": [len(one.alerts), len(other.alerts)],
        "added": missing(other, one),
        "dropped": missing(one, other),
    }
