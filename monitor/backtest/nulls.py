"""Null replays: the same stories with nothing happening, and what the rules make of them. Whatever fires there is false.

A story moves with its copies to the day of another story, drawn by permuting the days among all stories of all companies:

    AAA   ●   ●●●●●●    ●            AAA    ●  ● ●  ●   ●● ●
    BBB     ●     ●  ●        ─▶     BBB   ●    ●      ●
    day   1   2   3   4              day    1   2   3   4      as many a company, as many a day, the hour stays

So every company keeps its volume, tone and hours, every day keeps its loudness, and only what belonged together is torn apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from monitor.alerting import Rules
from monitor.alerting.rules import KINDS
from monitor.backtest.run import DAY_MS, BacktestResult, run_backtest
from monitor.backtest.stories import group_stories
from monitor.records import ScoredMention

BUDGETS = (0.5, 2.0, 10.0)


def null_replay(
    mentions: Sequence[ScoredMention], *, seed: int, stories: Mapping[str, str] | None = None
) -> list[ScoredMention]:
    """The mentions of a history in which nothing happens; `stories` as `group_stories` finds them."""
    stories = stories if stories is not None else group_stories(mentions)
    days = {m.id: m.published_at_ms // DAY_MS for m in mentions if stories[m.id] == m.id}
    roots = sorted(days)
    drawn = [days[root] for root in roots]
    random.Random(seed).shuffle(drawn)  # noqa: S311  a permutation that can be repeated, not a secret
    shift_ms = {root: (day - days[root]) * DAY_MS for root, day in zip(roots, drawn, strict=True)}
    moved = []
    for mention in mentions:
        at_ms = mention.published_at_ms + shift_ms[stories[mention.id]]
        moved.append(msgspec.structs.replace(mention, published_at_ms=at_ms, scored_at_ms=at_ms))
    return sorted(moved, key=lambda m: (m.published_at_ms, m.id))


def calibrate(
    mentions: Sequence[ScoredMention],
    *,
    rules: Rules,
    sectors: Mapping[str, str],
    replays: int,
    partitions: int,
    budgets: Sequence[float] = BUDGETS,
    progress: Callable[[int], None] = lambda _count: None,
) -> dict[str, Any]:
    """False alerts a day as promised and as found, for some budgets, and for each detector at the rules' own budget."""
    own = rules.budget.false_alerts_per_day
    stories = group_stories(mentions)
    found: dict[float, list[BacktestResult]] = {budget: [] for budget in sorted({own, *budgets})}
    for seed in range(1, replays + 1):
        replay = null_replay(mentions, seed=seed, stories=stories)
        for budget, results in found.items():
            section = rules.budget.model_copy(update={"false_alerts_per_day": budget})
            chosen = rules.model_copy(update={"budget": section})
            results.append(
                run_backtest(replay, rules=chosen, sectors=sectors, partitions=partitions, progress=progress)
            )
    # Short windows see the same bursts as the longest, and promise no more.
    shares = {kind: getattr(rules.budget, kind) for kind in KINDS}
    days = sum(result.days for result in found[own])
    return {
        "replays": replays,
        "budgets": [
            _row(budget, sum(len(r.alerts) for r in results), sum(r.days for r in results))
            | {"by_replay": [len(r.alerts) for r in results]}
            for budget, results in found.items()
        ],
        "detectors": [
            {"detector": kind}
            | _row(own * shares[kind], sum(a.kind == kind for r in found[own] for a in r.alerts), days)
            for kind in KINDS
        ],
    }


def _row(promised: float, alerts: int, days: float) -> dict[str, Any]:
    low, high = poisson_interval(alerts)
    return {
        "promised_per_day": round(promised, 4),
        "found_per_day": round(alerts / days, 4),
        "low": round(low / days, 4),
        "high": round(high / days, 4),
        "kept": low / days <= promised,
        "alerts": alerts,
        "days": round(days, 1),
    }


def poisson_interval(count: int) -> tuple[float, float]:
    """95% interval of the mean behind a count, by Byar's approximation (Breslow & Day 1987, vol. II, eq. 2.11–2.12)."""

    def bound(n: float, z: float) -> float:
        return float(n * (1.0 - 1.0 / (9.0 * n) + z / (3.0 * math.sqrt(n))) ** 3)

    return (bound(count, -1.96) if count else 0.0), bound(count + 1, 1.96)
