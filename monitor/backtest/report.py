"""alerts.jsonl, summary.json and a self-contained report.html. The same result gives the same bytes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from monitor.backtest.run import DAY_MS, BacktestResult
from monitor.records import Alert

ENTITIES_MAX = 60
WIDTH, HEIGHT = 900, 70
_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#1c2733}"
    "table{border-collapse:collapse;width:100%}th,td{padding:.35rem .6rem;border-bottom:1px solid #dde3ea;"
    "text-align:left;vertical-align:top}th{background:#f3f6f9}.negative{color:#b3261e}.positive{color:#1b7f4b}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}svg{background:#f8fafc;width:100%;height:auto}"
    "small{color:#5b6b7b}"
)


def write_report(result: BacktestResult, out: Path, *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the three files into `out`; returns the summary. `extra` (events, null replays, a sweep) joins it."""
    out.mkdir(parents=True, exist_ok=True)
    summary = {**result.summary(), **(extra or {})}
    lines = b"".join(msgspec.json.encode(alert) + b"\n" for alert in result.alerts)
    (out / "alerts.jsonl").write_bytes(lines)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", "utf-8")
    (out / "report.html").write_text(_page(result, summary), "utf-8")
    return summary


def _page(result: BacktestResult, summary: Mapping[str, Any]) -> str:
    title = f"Backtest of rule {escape(result.rules.name)}"
    facts = "".join(
        f"<tr><th>{escape(key.replace('_', ' '))}</th><td>{escape(_plain(value))}</td></tr>"
        for key, value in sorted(summary.items())
        if key not in ("by_entity", "events", "sweep", "null_replays")
    )
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
        f"<h1>{title}</h1><table>{facts}</table>",
        _rows_table("Known events", summary.get("events", {}).get("events", []) if "events" in summary else []),
        _rows_table("Null replays", summary.get("null_replays", [])),
        "<h2>Alerts</h2>",
        _alerts_table(result),
        "<h2>Timelines</h2><p><small>Bars: independent voices a day (red negative, grey neutral, green positive)."
        " Triangles: alerts.</small></p>",
        *_timelines(result),
        "</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rows_table(title: str, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(str(v))}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<h2>{title}</h2><table><tr>{head}</tr>{body}</table>"


def _alerts_table(result: BacktestResult) -> str:
    head = "<tr><th>opened</th><th>resolved</th><th>entity</th><th>alert</th><th>severity</th><th>why</th></tr>"
    rows = [_alert_row(alert) for alert in result.alerts]
    return f"<table>{head}{''.join(rows)}</table>" if rows else "<p>None.</p>"


def _alert_row(alert: Alert) -> str:
    cells = (
        escape(alert.opened_at),
        escape(alert.resolved_at or "open"),
        escape(alert.entity),
        f'<span class="{alert.direction}">{alert.kind}, {alert.direction}</span>',
        alert.severity,
        escape(alert.brief),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _timelines(result: BacktestResult) -> list[str]:
    """One drawing an entity, those with most alerts first."""
    if result.first_ms is None or result.last_ms is None:
        return []
    first_day = result.first_ms // DAY_MS
    days = result.last_ms // DAY_MS - first_day + 1
    daily: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0, 0.0]))
    for row in result.buckets:
        sums = daily[row.entity][row.start_ms // DAY_MS - first_day]
        for index, value in enumerate((row.negative, row.neutral, row.positive)):
            sums[index] += value
    alerts: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for step in result.transitions:
        if step.change == "opened":
            alerts[step.alert.entity].append((step.at_ms, step.alert.direction))
    shown = sorted(alerts, key=lambda entity: (-len(alerts[entity]), entity))[:ENTITIES_MAX]
    return [_timeline(entity, daily[entity], alerts[entity], days, first_day * DAY_MS) for entity in shown]


def _timeline(
    entity: str, daily: Mapping[int, list[float]], alerts: list[tuple[int, str]], days: int, first_ms: int
) -> str:
    top = max((sum(sums) for sums in daily.values()), default=1.0) or 1.0
    wide = WIDTH / days
    shapes = []
    for day in sorted(daily):
        base = float(HEIGHT)
        for value, colour in zip(daily[day], ("#d9534f", "#b8c2cc", "#3c9d6b"), strict=True):
            high = value / top * (HEIGHT - 16)
            base -= high
            shapes.append(
                f'<rect x="{day * wide:.2f}" y="{base:.2f}" width="{max(wide * 0.9, 0.5):.2f}" height="{high:.2f}"'
                f' fill="{colour}"/>'
            )
    for at_ms, direction in alerts:
        x = (at_ms - first_ms) / DAY_MS * wide
        colour = "#b3261e" if direction == "negative" else "#1b7f4b"
        shapes.append(f'<path d="M{x - 5:.2f} 1h10l-5 9z" fill="{colour}"/>')
    label = f"{escape(entity)} <small>{len(alerts)} alerts, at most {top:.1f} voices a day</small>"
    return f'<h3>{label}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(shapes)}</svg>'
