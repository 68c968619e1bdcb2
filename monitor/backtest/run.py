"""Run and compare. One core a partition, exactly as `watch` has them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec

from monitor.alerting import Reason, Rules, Told, Verdict, page_history
from monitor.clock import to_rfc3339
from monitor.intake.kafka import partition_of
from monitor.loops.core import Fate, Outcome, PartitionCore, WatchPolicy
from monitor.records import Alert, AlertTransition, Notice, ScoredMention
from monitor.windows import BucketRow

DAY_MS = 86_400_000
BATCH = 1_000
STORM = 4  # alerts in one hour
STRAY_MS = 30 * DAY_MS
STRAYS_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    """`alerts` as they stand at the end, in the order of opening; `transitions` in the order of event time; `told`: the pages."""

    rules: Rules
    alerts: tuple[Alert, ...]
    transitions: tuple[AlertTransition, ...]
    buckets: tuple[BucketRow, ...]
    notices: tuple[Notice, ...]
    told: Told
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

    def storms(self) -> list[dict[str, Any]]:
        """Hours in which at least `STORM` alerts opened."""
        hours: dict[str, list[str]] = defaultdict(list)
        for alert in self.alerts:
            hours[alert.opened_at[:13]].append(alert.entity)
        return [
            {"hour": f"{hour}:00Z", "alerts": len(names), "entities": sorted(set(names))}
            for hour, names in sorted(hours.items())
            if len(names) >= STORM
        ]

    def flaps(self) -> list[dict[str, Any]]:
        """Alerts that opened within a day after the same company's last in the same direction had calmed or turned."""
        return [again for again, expired in self._opened_again() if not expired]

    def renewals(self) -> list[dict[str, Any]]:
        """Alerts that opened within a day after the same company's last in the same direction had lived its longest: the
        matter goes on, and other stories carry it."""
        return [again for again, expired in self._opened_again() if expired]

    def _opened_again(self) -> Iterator[tuple[dict[str, Any], bool]]:
        resolved: dict[tuple[str, str], AlertTransition] = {}
        for step in self.transitions:
            key = (step.alert.entity, step.alert.direction)
            before = resolved.get(key)
            if step.change == "resolved":
                resolved[key] = step
            elif step.change == "opened" and before is not None and step.at_ms - before.at_ms < DAY_MS:
                after = round((step.at_ms - before.at_ms) / 60_000)
                again = {"entity": key[0], "direction": key[1], "at": step.alert.opened_at, "minutes_after": after}
                yield again, before.reason == Reason.EXPIRED

    def summary(self) -> dict[str, Any]:
        """What summary.json holds."""
        opened = {step.alert.id: step.at_ms for step in self.transitions if step.change == "opened"}
        open_min = sorted(
            (step.at_ms - opened[step.alert.id]) / 60_000 for step in self.transitions if step.change == "resolved"
        )
        raw_n, effective_n = sum(r.raw_n for r in self.buckets), sum(r.effective_n for r in self.buckets)
        return {
            "rule": self.rules.name,
            "false_alerts_per_day_budget": self.rules.budget.false_alerts_per_day,
            "from": to_rfc3339(self.first_ms) if self.first_ms is not None else None,
            "to": to_rfc3339(self.last_ms) if self.last_ms is not None else None,
            "days": round(self.days, 3),
            "mentions": self.mentions,
            "raw_n": raw_n,
            "effective_n": round(effective_n, 3),
            "entities": self.entities,
            "fates": dict(sorted(self.counts.items())),
            "alerts": len(self.alerts),
            "alerts_per_day": round(len(self.alerts) / self.days, 3),
            "by_kind": dict(sorted(Counter(a.kind for a in self.alerts).items())),
            "by_direction": dict(sorted(Counter(a.direction for a in self.alerts).items())),
            "by_severity": dict(sorted(Counter(a.severity for a in self.alerts).items())),
            "by_entity": dict(sorted(Counter(a.entity for a in self.alerts).items())),
            "transitions": dict(sorted(Counter(f"{t.change}/{t.reason}" for t in self.transitions).items())),
            "open_minutes_median": round(open_min[len(open_min) // 2], 1) if open_min else None,
            "storms": self.storms(),
            "flaps": self.flaps(),
            "renewals": self.renewals(),
            "brigades": [msgspec.to_builtins(notice) for notice in self.notices],
            "messages": len(self.told.messages),
            "messages_by_reason": dict(sorted(Counter(str(m.reason) for m in self.told.messages).items())),
            "steps_not_told": dict(
                sorted(
                    Counter(
                        str(s.reason) for s in self.told.settled if s.verdict not in {Verdict.TOLD, Verdict.PENDING}
                    ).items()
                )
            ),
            "models": sorted({alert.model for alert in self.alerts}),
        }


def run_backtest(
    mentions: Iterable[ScoredMention],
    *,
    rules: Rules,
    names: Mapping[str, str] = {},
    sectors: Mapping[str, str] = {},
    partitions: int = 4,
    progress: Callable[[int], None] = lambda _count: None,
) -> BacktestResult:
    """Fold a history in the order of event time; twice the same mention counts once, as in the database."""
    policy = WatchPolicy.of(rules, partitions=partitions)
    cores: dict[int, PartitionCore] = {}
    by_id: dict[str, ScoredMention] = {}
    for mention in mentions:
        by_id.setdefault(mention.id, mention)
    ordered, strays = _without_strays(sorted(by_id.values(), key=lambda m: (m.published_at_ms, m.id)))
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
                core = cores[partition] = PartitionCore(policy=policy, rules=rules, names=names, sectors=sectors)
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
    counts: Counter[str] = Counter(strays)
    for core in cores.values():
        counts.update(core.counts)
    return BacktestResult(
        rules=rules,
        alerts=tuple(sorted(latest.values(), key=lambda alert: (alert.opened_at, alert.entity, alert.id))),
        transitions=tuple(transitions),
        buckets=tuple(row for outcome in outcomes for row in outcome.buckets),
        notices=_latest(notice for outcome in outcomes for notice in outcome.notices),
        told=page_history(transitions, rules=rules, sectors=sectors),
        counts={str(key): value for key, value in counts.items()},
        mentions=len(ordered) + sum(strays.values()),
        entities=len(where),
        first_ms=ordered[0].published_at_ms if ordered else None,
        last_ms=ordered[-1].published_at_ms if ordered else None,
    )


def _without_strays(ordered: list[ScoredMention]) -> tuple[list[ScoredMention], dict[str, int]]:
    """A history has no clock to say what is too old or not yet: a few items beyond a month of silence at either end are.

    One mistyped year would otherwise stretch the history by it. They have the fates that they would have had live.
    """
    few = min(STRAYS_MAX, (len(ordered) + 80) // 100)  # none among fewer than twenty
    gaps = [b.published_at_ms - a.published_at_ms > STRAY_MS for a, b in pairwise(ordered)]
    head = max((at + 1 for at in range(min(few, len(gaps))) if gaps[at]), default=0)
    tail = max((at + 1 for at in range(min(few, len(gaps))) if gaps[-1 - at]), default=0)
    fates = {str(Fate.LATE): head, str(Fate.FUTURE): tail}
    return ordered[head : len(ordered) - tail], {fate: count for fate, count in fates.items() if count}


def _latest(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """As they stood at the end, in the order of their beginning."""
    last = {(each.since_ms, each.entity, each.channel, each.kind): each for each in notices}
    return tuple(last[key] for key in sorted(last))


def compare(one: BacktestResult, other: BacktestResult, *, within_ms: int = DAY_MS) -> dict[str, Any]:
    """Two rule files side by side: the alerts that only one of them has. The same entity and direction within a day is the same alert."""

    def missing(here: BacktestResult, there: BacktestResult) -> list[dict[str, Any]]:
        known: dict[tuple[str, str], list[int]] = defaultdict(list)
        for step in there.transitions:
            if step.change == "opened":
                known[step.alert.entity, step.alert.direction].append(step.at_ms)
        latest = {alert.id: alert for alert in here.alerts}
        return [
            {
                "entity": s.alert.entity,
                "direction": s.alert.direction,
                "kind": s.alert.kind,
                "severity": latest[s.alert.id].severity,
                "at": s.alert.opened_at,
                "quote": s.alert.evidence[0].quote if s.alert.evidence else "",
            }
            for s in here.transitions
            if s.change == "opened"
            and not any(abs(s.at_ms - at) <= within_ms for at in known[s.alert.entity, s.alert.direction])
        ]

    return {
        "rules": [one.rules.name, other.rules.name],
        "alerts": [len(one.alerts), len(other.alerts)],
        "alerts_per_day": [round(len(one.alerts) / one.days, 3), round(len(other.alerts) / other.days, 3)],
        "added": missing(other, one),
        "dropped": missing(one, other),
    }
