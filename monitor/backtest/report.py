"""alerts.jsonl, summary.json and a self-contained report.html. The same result gives the same bytes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from monitor.backtest.charts import calibration, timeline
from monitor.backtest.run import DAY_MS, BacktestResult
from monitor.clock import to_rfc3339
from monitor.records import Alert

ENTITIES_MAX = 60
ALERTS_MAX = 1_000
_STYLE = """
:root{--ink:#1d2935;--soft:#5d6c7b;--line:#dfe5eb;--paper:#fff;--panel:#f5f7f9;--bad:#b3322b;--good:#1c7a4c}
body{font:14px/1.5 system-ui,sans-serif;max-width:1060px;margin:2rem auto 6rem;padding:0 1.2rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.55rem;margin:0}h2{font-size:1.15rem;margin:2.6rem 0 .6rem}h3{font-size:1rem;margin:1.4rem 0 .2rem}
p{margin:.3rem 0 .8rem}small,.soft{color:var(--soft)}nav{margin:.8rem 0}nav a{margin-right:1rem}a{color:#24588f}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.7rem;margin:1.2rem 0}
.card{background:var(--panel);border-radius:8px;padding:.7rem .9rem}.card b{display:block;font-size:1.45rem;line-height:1.25}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.38rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{background:var(--panel);font-weight:600}td.n,th.n{text-align:right}tr:target{background:#fff6d8}
.negative{color:var(--bad);fill:var(--bad)}.positive{color:var(--good);fill:var(--good)}
.tag{display:inline-block;border-radius:4px;padding:0 .4rem;font-size:.85em;background:var(--panel)}
.tag.critical,.tag.high{background:#fae1df;color:#8c211b}.tag.medium{background:#fdf0d3;color:#7a5200}
.yes{color:var(--good)}.no{color:var(--bad)}
svg{width:100%;height:auto;display:block}svg text{font:10.5px system-ui,sans-serif;fill:#6a7885}
.grid{stroke:#e6ebf0}.axis{stroke:#9aa7b3}.diagonal{stroke:#9aa7b3;stroke-dasharray:4 4}.frame{fill:#fafbfc;stroke:#dfe5eb}
.event{stroke:#3b6fb5;stroke-dasharray:3 3}.kept line,.kept circle{stroke:#1c7a4c;fill:#1c7a4c;stroke-width:2}
.broken line,.broken circle{stroke:#b3322b;fill:#b3322b;stroke-width:2}
.side{display:grid;grid-template-columns:380px 1fr;gap:1.6rem;align-items:start}
#alerts td:first-child{white-space:nowrap}#alerts td:nth-child(3){min-width:7.5rem}
details summary{cursor:pointer}blockquote{margin:.2rem 0;padding-left:.6rem;border-left:3px solid var(--line)}
input{font:inherit;padding:.3rem .6rem;border:1px solid #b9c4cf;border-radius:6px;min-width:16rem}
@media(max-width:760px){.side{grid-template-columns:1fr}}
"""
# The only script: it filters the table of alerts as one types.
_SCRIPT = """
const find=document.getElementById('find');
find?.addEventListener('input',()=>{const w=find.value.toLowerCase();
for(const r of document.querySelectorAll('#alerts tbody tr'))r.hidden=!r.textContent.toLowerCase().includes(w)});
"""


def write_report(result: BacktestResult, out: Path, *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the three files into `out`; returns the summary. `extra` (events, calibration, a sweep) joins it."""
    out.mkdir(parents=True, exist_ok=True)
    summary = {**result.summary(), **(extra or {})}
    lines = b"".join(msgspec.json.encode(alert) + b"\n" for alert in result.alerts)
    (out / "alerts.jsonl").write_bytes(lines)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", "utf-8")
    (out / "report.html").write_text(_page(result, summary), "utf-8")
    return summary


def _page(result: BacktestResult, summary: Mapping[str, Any]) -> str:
    title = f"Backtest of rule {escape(result.rules.name)}"
    sections = [
        ("events", "Known events", _events(summary.get("events"))),
        ("calibration", "Are the promises kept?", _calibration(summary.get("calibration"))),
        ("sweep", "Rules side by side", _sweep(summary)),
        ("days", "Alerts by day", _by_day(result)),
        ("trouble", "Storms, flaps and brigades", _trouble(summary)),
        ("list", "Alerts", _alerts(result)),
        ("lines", "Companies", _timelines(result, summary)),
        ("facts", "All figures", _facts(summary)),
    ]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, body in sections if body)
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            f'<p class="soft">{_span(summary)}</p>',
            _cards(summary),
            f"<nav>{links}</nav>",
            *(f'<h2 id="{key}">{name}</h2>\n{body}' for key, name, body in sections if body),
            f"<script>{_SCRIPT}</script></body></html>\n",
        ]
    )


def _span(summary: Mapping[str, Any]) -> str:
    if summary["from"] is None:
        return "No mentions: nothing in this stream names a company of the watchlist."
    models = ", ".join(summary["models"]) or "no alert, so no model is named"
    return f"{_moment(summary['from'])} to {_moment(summary['to'])}, times in UTC. Model: {escape(models)}."


def _moment(rfc3339: str | None) -> str:
    return rfc3339[:16].replace("T", " ") if rfc3339 else ""


def _cards(summary: Mapping[str, Any]) -> str:
    """The figures that one looks for first."""
    budget = summary["false_alerts_per_day_budget"]
    cards = [
        (f"{summary['alerts_per_day']:g}", f"alerts a day; the budget allows {budget:g} false ones"),
        (f"{summary['alerts']:,}", f"alerts in {summary['days']:,.0f} days"),
        (f"{summary['mentions']:,}", f"mentions of {summary['entities']:,} companies"),
        (f"{summary['effective_n']:,.0f}", f"voices they were worth (raw: {summary['raw_n']:,})"),
    ]
    events = summary.get("events")
    if events and events["judged"]:
        cards.append((f"{events['detected']} of {events['judged']}", "known events found"))
        if events["delay_stories_median"] is not None:
            delay = f"stories until the alert, median; {events['delay_minutes_median']:g} minutes"
            cards.append((f"{events['delay_stories_median']:g}", delay))
    checked = summary.get("calibration")
    if checked:
        kept = sum(row["kept"] for row in checked["budgets"])
        cards.append((f"{kept} of {len(checked['budgets'])}", "budgets kept on null replays"))
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{big}</b><small>{small}</small></div>' for big, small in cards)
        + "</div>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), key: str = "") -> str:
    """`numbers`: columns to be set right. Cells are HTML already."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=n' if at in numbers else ''}>{cell}</{tag}>" for at, cell in enumerate(cells))

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    marked = f' id="{key}"' if key else ""
    return f"<table{marked}><thead><tr>{row(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _events(found: Mapping[str, Any] | None) -> str:
    if not found or not found["events"]:
        return ""
    rows = [
        (
            f"{escape(each['name'])}<br><small>{escape(each['entity'])}, {each['date']}</small>",
            _direction(each["direction"]),
            f"{each['items']} <small>in {each['stories']} stories</small>",
            _detected(each),
            _delay(each["delay_minutes"]),
            "" if each["delay_stories"] is None else str(each["delay_stories"]),
        )
        for each in found["events"]
    ]
    note = (
        f"<p>{found['detected']} of {found['judged']} events with enough items are found. Of all alerts,"
        f" {_share(found.get('precision'))} are on a listed event in its direction; {found['other_alerts_per_day']:g} a day"
        " are on none (not all of them false: no list names everything that happened). Delays run from the first item on"
        " the event; copies count as one story.</p>"
    )
    head = ("event", "", "items", "found", "delay", "stories until then")
    return note + _table(head, rows, numbers=(2, 4, 5))


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.0f}%"


def _direction(direction: str) -> str:
    return f'<span class="{direction}">{"▼" if direction == "negative" else "▲"} {direction}</span>'


def _detected(each: Mapping[str, Any]) -> str:
    if each["detected"]:
        return f'<a class="yes" href="#a-{each["alert"]}">{_moment(each["opened_at"])}</a>'
    return (
        '<span class="no">missed</span>'
        if each["counts"]
        else '<span class="soft">missed, too few items to judge</span>'
    )


def _delay(minutes: float | None) -> str:
    if minutes is None:
        return ""
    size = abs(minutes)
    told = f"{size:.0f} min" if size < 120 else f"{size / 60:.1f} h"
    return f"{told} ahead" if minutes < 0 else told


def _calibration(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    head = ("", "promised", "found", "95% interval", "alerts", "kept")

    def cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
        verdict = '<span class="yes">yes</span>' if row["kept"] else '<span class="no">no</span>'
        numbers = (f"{row['promised_per_day']:g}", f"{row['found_per_day']:g}", f"{row['low']:g} to {row['high']:g}")
        return (name, *numbers, f"{row['alerts']} in {row['days']:g} days", verdict)

    rows = [cells(f"budget {row['promised_per_day']:g}", row) for row in found["budgets"]]
    parts = [cells(row["detector"], row) for row in found["detectors"]]
    return (
        f"<p>{found['replays']} null replay{'' if found['replays'] == 1 else 's'}: every story moved to another story's day, so that nothing happens and whatever"
        " fires is false. False alerts a day, as promised by the budget and as found.</p>"
        f'<div class="side">{calibration(found["budgets"])}<div>{_table(head, rows, numbers=(1, 2, 3, 4))}'
        f"<h3>By detector, at the budget of the rules</h3>{_table(head, parts, numbers=(1, 2, 3, 4))}</div></div>"
    )


def _sweep(summary: Mapping[str, Any]) -> str:
    sweep = summary.get("sweep")
    if not sweep:
        return ""
    first = {"rule": summary["rule"], "alerts": summary["alerts"], "alerts_per_day": summary["alerts_per_day"]}
    first |= {"by_kind": summary["by_kind"], "events": summary.get("events")}
    rows = []
    for each in (first, *sweep):
        events = each.get("events")
        rows.append(
            (
                escape(each["rule"]),
                f"{each['alerts']}",
                f"{each['alerts_per_day']:g}",
                ", ".join(f"{kind} {n}" for kind, n in each["by_kind"].items()),
                f"{events['detected']} of {events['judged']}" if events else "",
                "" if not events or events["delay_stories_median"] is None else f"{events['delay_stories_median']:g}",
                f"+{len(each['added'])} −{len(each['dropped'])}" if "added" in each else "",
            )
        )
    head = ("rule", "alerts", "a day", "by detector", "events found", "stories until then", "against the first")
    parts = [_table(head, rows, numbers=(1, 2, 4, 5, 6))]
    for each in sweep:
        for name, sign in (("added", "would add"), ("dropped", "would drop")):
            changes = [
                (_moment(a["at"]), escape(a["entity"]), _direction(a["direction"]), a["kind"], escape(a["quote"][:160]))
                for a in each[name]
            ]
            if changes:
                listing = _table(("opened", "company", "", "detector", "strongest words"), changes)
                told = f"{escape(each['rule'])} {sign} {len(changes)} alerts"
                parts.append(f"<details><summary>{told}</summary>{listing}</details>")
    return "".join(parts)


def _by_day(result: BacktestResult) -> str:
    if result.first_ms is None or result.last_ms is None or not result.alerts:
        return ""
    first_day = result.first_ms // DAY_MS
    days = result.last_ms // DAY_MS - first_day + 1
    daily: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for step in result.transitions:
        if step.change == "opened":
            daily[step.at_ms // DAY_MS - first_day][0 if step.alert.direction == "negative" else 2] += 1.0
    return timeline(daily, (), days=days, first_day=first_day, unit="alerts", high=80.0)


def _trouble(summary: Mapping[str, Any]) -> str:
    storms = [(_moment(s["hour"]), str(s["alerts"]), escape(", ".join(s["entities"]))) for s in summary["storms"]]
    brigades = [
        (
            _moment(to_rfc3339(b["since_ms"])),
            f"{escape(b['entity'])}, {b['channel']}",
            str(b["accounts"]),
            f"{b['voices']:g}",
            escape(b["text"][:140]),
        )
        for b in summary["brigades"]
    ]
    parts = []
    if storms:
        parts += ["<h3>Storms: many alerts in one hour</h3>", _table(("hour", "alerts", "companies"), storms)]
    for kind, title in (
        ("flaps", "Flaps: opened again within a day after it had calmed or turned"),
        ("renewals", "Renewals: opened again within a day after it had lived its longest"),
    ):
        again = [
            (_moment(f["at"]), escape(f["entity"]), _direction(f["direction"]), f"{f['minutes_after']} min")
            for f in summary[kind]
        ]
        if again:
            parts += [f"<h3>{title}</h3>", _table(("opened again", "company", "", "after it was resolved"), again)]
    if brigades:
        head_of = ("since", "company", "new accounts", "voices", "the first post")
        parts += [
            "<h3>Brigades: many new accounts saying nearly the same</h3>",
            _table(head_of, brigades, numbers=(2, 3)),
        ]
    return "".join(parts) or '<p class="soft">None of them.</p>'


def _alerts(result: BacktestResult) -> str:
    if not result.alerts:
        return "<p>None.</p>"
    shown = result.alerts[-ALERTS_MAX:]
    rest = len(result.alerts) - len(shown)
    note = f"<p>The last {len(shown)}; {rest} earlier ones are in alerts.jsonl.</p>" if rest else ""
    head = "<tr><th>opened</th><th>company</th><th>alert</th><th>why</th></tr>"
    body = "".join(_alert(alert) for alert in shown)
    return (
        f'{note}<p><input id="find" placeholder="Filter: company, word, detector…"></p>'
        f'<table id="alerts"><thead>{head}</thead><tbody>{body}</tbody></table>'
    )


def _alert(alert: Alert) -> str:
    closed = f"until {_moment(alert.resolved_at)}" if alert.resolved_at else "still open at the end"
    name = f"<br><small>{escape(alert.name)}</small>" if alert.name else ""
    quotes = [_quote(each.quote, each.polarity, each.source, each.published_at, each.copies) for each in alert.evidence]
    against = [
        _quote(each.quote, each.polarity, each.source, each.published_at, each.copies)
        for each in alert.counter_evidence
    ]
    facts = (
        f"p {alert.p_value:g} · score {alert.details.get('score', 0):g}, needed {alert.details.get('score_needed', 0):g}"
        f" · flip margin {alert.flip_margin:g} · {alert.effective_n:g} voices in {alert.raw_n} items"
    )
    more = f"<p><small>{escape(facts)}</small></p>" + "".join(quotes)
    if against:
        more += "<p><small>On the other side</small></p>" + "".join(against)
    return (
        f'<tr id="a-{alert.id}"><td>{_moment(alert.opened_at)}<br><small>{closed}</small></td>'
        f"<td><b>{escape(alert.entity)}</b>{name}</td>"
        f'<td>{_direction(alert.direction)}<br>{alert.kind} <span class="tag {alert.severity}">{alert.severity}</span></td>'
        f"<td>{escape(alert.brief)}<details><summary><small>evidence</small></summary>{more}</details></td></tr>"
    )


def _quote(quote: str, polarity: float, source: str, published_at: str, copies: int) -> str:
    tone = "negative" if polarity < 0 else "positive"
    repeated = f", {copies} copies" if copies > 1 else ""
    told = f"{escape(source)}, {_moment(published_at)}{repeated}"
    return f'<blockquote><b class="{tone}">{polarity:+.2f}</b> {escape(quote)} <small>{told}</small></blockquote>'


def _timelines(result: BacktestResult, summary: Mapping[str, Any]) -> str:
    """One drawing an entity, those with most alerts first, and those with a known event."""
    if result.first_ms is None or result.last_ms is None:
        return ""
    first_day = result.first_ms // DAY_MS
    days = result.last_ms // DAY_MS - first_day + 1
    events: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for each in (summary.get("events") or {}).get("events", ()):
        day = int(datetime.fromisoformat(each["date"]).replace(tzinfo=UTC).timestamp()) // 86_400
        events[each["entity"]].append((day - first_day, each["name"]))
    marks: dict[str, list[tuple[int, str, str, str]]] = defaultdict(list)
    names: dict[str, str] = {}
    for step in result.transitions:
        if step.change == "opened":
            alert = step.alert
            told = f"{_moment(alert.opened_at)} {alert.kind}, {alert.direction}, {alert.severity}"
            marks[alert.entity].append((step.at_ms, alert.direction, alert.id, told))
            names[alert.entity] = alert.name or ""
    ranked = sorted({*marks, *events}, key=lambda name: (-len(events.get(name, ())), -len(marks.get(name, ())), name))
    shown = ranked[:ENTITIES_MAX]
    daily: dict[str, dict[int, list[float]]] = {name: defaultdict(lambda: [0.0, 0.0, 0.0]) for name in shown}
    for row in result.buckets:
        if row.entity in daily:
            sums = daily[row.entity][row.start_ms // DAY_MS - first_day]
            for index, value in enumerate((row.negative, row.neutral, row.positive)):
                sums[index] += value
    parts = [
        "<p>Bars: independent voices a day, red negative, grey neutral, green positive. Triangles: alerts, linked to their"
        " row. Dashed lines: known events. Those with an event first, then those with most alerts.</p>"
    ]
    if len(ranked) > len(shown):
        parts.append(f"<p>{len(ranked) - len(shown)} more companies with alerts are not drawn.</p>")
    for name in shown:
        count = len(marks.get(name, ()))
        label = (
            f"{escape(name)} <small>{escape(names.get(name, ''))} · {count} alert{'' if count == 1 else 's'}</small>"
        )
        drawing = timeline(
            daily[name], marks.get(name, ()), days=days, first_day=first_day, events=events.get(name, ())
        )
        parts.append(f"<h3>{label}</h3>{drawing}")
    return "\n".join(parts)


def _facts(summary: Mapping[str, Any]) -> str:
    left_out = ("by_entity", "events", "sweep", "calibration", "storms", "flaps", "renewals", "brigades")
    rows = [
        (escape(key.replace("_", " ")), escape(_plain(value)))
        for key, value in sorted(summary.items())
        if key not in left_out
    ]
    return _table(("figure", ""), rows)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
