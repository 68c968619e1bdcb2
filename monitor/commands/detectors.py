"""`bench detection` and `bench prices`: what the detectors are worth, against the best possible and against plain ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monitor.settings import Settings


def detection(*, runs: int, false_alarm_every: int, seed: int) -> dict[str, Any]:
    """Delay on synthetic shifts, over the optimum's."""
    from monitor.backtest.delay import delay_against_optimum

    return delay_against_optimum(runs=runs, false_alarm_every=false_alarm_every, seed=seed)


def prices(
    settings: Settings,
    streams: Sequence[Path],
    prices_file: Path,
    *,
    rates: Sequence[float],
    split: str,
    rules: Path | None,
    progress: Callable[[int], None],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Ours at budgets of `rates` a day and plain detectors at the same rates, judged by prices before `split`, after it, and
    over the whole. Only companies with prices are watched."""
    from monitor.alerting import load_rules
    from monitor.app import make_scorer
    from monitor.backtest import run_backtest, score_documents
    from monitor.backtest.prices import at_rate, load_prices, make_judge, opened_by, plain_detectors
    from monitor.linking import load_watchlist
    from monitor.offline import read_documents

    days = load_prices(prices_file)
    listed = {day.entity for day in days}
    chosen, watchlist = load_rules(rules or settings.rules.path), load_watchlist(settings.watchlist.path)
    scorer = make_scorer(settings)
    scored = score_documents(
        read_documents(settings, streams, None, progress=progress, warn=warn),
        judge=scorer,
        bundle=f"{scorer.bundle.model}/{settings.bundle.precision}",
        cache_dir=settings.bundle.cache_dir or Path.home() / ".cache" / "tapewatch",
    )
    by_id = {mention.id: mention for mention in scored if mention.entity in listed}
    mentions = sorted(by_id.values(), key=lambda m: (m.published_at_ms, m.id))
    judge = make_judge(days, mentions)
    cooldown_ms = round(chosen.life.cooldown_s * 1000)
    table = []

    def add(name: str, rate: float, opened: Sequence[Any]) -> None:
        table.append(
            {
                "detector": name,
                "rate": rate,
                "before": judge.judge(opened, until=split),
                "after": judge.judge(opened, since=split),
                "whole": judge.judge(opened),
            }
        )

    for rate in rates:
        budget = chosen.budget.model_copy(update={"false_alerts_per_day": rate})
        result = run_backtest(
            mentions,
            rules=chosen.model_copy(update={"budget": budget}),
            sectors=watchlist.sectors(),
            partitions=settings.kafka.partitions,
        )
        add(f"tapewatch {chosen.name}", rate, opened_by(result))
    for name, readings in plain_detectors(mentions).items():
        for rate in rates:
            add(name, rate, at_rate(readings, rate * judge.days(), cooldown_ms))
    return {"mentions": len(mentions), "entities": len(listed), "days": judge.days(), "split": split, "table": table}


def lines_of(figures: dict[str, Any]) -> list[str]:
    """The table for a person."""
    head = f"{'detector':34} {'a day':>6}  {'before ' + figures['split']:>18} {'after':>14} {'whole':>14}  before the close"
    rows = [
        f"{row['detector']:34} {row['whole']['alerts_per_day']:>6.2f}"
        + "".join(
            f"{part['precision']:>{wide}.3f} / {part['recall']:.2f}"
            for part, wide in ((row["before"], 13), (row["after"], 8), (row["whole"], 8))
        )
        + f"  {row['whole']['right_before_the_close']:.2f}"
        for row in figures["table"]
    ]
    return [head, *rows]
