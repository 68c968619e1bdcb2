"""One delivered alert as an analyst would read it in a terminal.

The input is a webhook body: its `type` and its `data`, an alert as a dict. Every text in it comes from strangers:
it is shown as plain text (never as rich markup), without control, bidirectional or other invisible characters, on one
line, and cut.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

QUOTE_CHARS_MAX = 160
LINE_CHARS_MAX = 400
EVIDENCE_MAX = 5
COUNTER_EVIDENCE_MAX = 3

_SEVERITY_STYLES = {"low": "cyan", "medium": "yellow", "high": "bold red", "critical": "bold white on red"}
_DIRECTION_SIGNS = {"negative": "▼", "positive": "▲"}
_DIRECTION_STYLES = {"negative": "red", "positive": "green"}
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def render(data: Mapping[str, Any], *, event_type: str = "alert.opened") -> RenderableType:
    """An open alert as a panel; a resolved one, a digest or word about the service as a line. `event_type` is the webhook's `type`."""
    if event_type.startswith("operator.") or event_type == "alert.digest":
        return Text.assemble((f"{_plain(event_type)} ", "bold magenta"), _plain(data.get("brief", ""), LINE_CHARS_MAX))
    if event_type.endswith("resolved") or data.get("resolved_at"):
        return Text.assemble(("✔ resolved ", "green"), summary_line(data))
    title = "UPDATED" if event_type.endswith("updated") else "ALERT"
    severity = _plain(data.get("severity", ""))
    return Panel(
        Group(*_sections(data)),
        title=Text(f"{title} {severity}".strip()),
        title_align="left",
        border_style=_DIRECTION_STYLES.get(str(data.get("direction")), "yellow"),
    )


def summary_line(data: Mapping[str, Any]) -> str:
    """The alert in one line of plain text, safe to write to a terminal; print it with `markup=False`."""
    if "direction" not in data:
        return _plain(data.get("brief", ""), LINE_CHARS_MAX)
    since = _time(data.get("opened_at"))
    until = f" to {_time(data['resolved_at'])}" if data.get("resolved_at") else ""
    return (
        f"{_plain(data.get('severity', '')).upper()} {_who(data)} {_plain(data.get('direction', ''))} "
        f"{_plain(data.get('kind', ''))}, {since}{until}: polarity {_signed(data.get('polarity'))}, "
        f"{_number(data.get('effective_n'))} voices in {_number(data.get('raw_n'))} items, "
        f"p = {_number(data.get('p_value'))}"
    )


def _sections(data: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield _headline(data)
    if data.get("brief"):
        yield Text(_plain(data["brief"], LINE_CHARS_MAX))
    yield Text()
    yield _numbers(data)
    yield from _quotes("evidence", data.get("evidence"), EVIDENCE_MAX)
    yield from _quotes("on the other side", data.get("counter_evidence"), COUNTER_EVIDENCE_MAX)
    yield Text()
    footer = (_plain(data.get(name, "")) or "unknown" for name in ("model", "rule", "id"))
    yield Text("model {} · rule {} · alert {}".format(*footer), style="dim")


def _headline(data: Mapping[str, Any]) -> Text:
    severity, direction = _plain(data.get("severity", "")), str(data.get("direction"))
    return Text.assemble(
        (f" {severity.upper()} ", _SEVERITY_STYLES.get(severity, "bold")),
        " ",
        (_who(data), "bold"),
        " ",
        (
            f"{_DIRECTION_SIGNS.get(direction, '•')} {_plain(direction)} {_plain(data.get('kind', ''))}",
            _DIRECTION_STYLES.get(direction, "yellow"),
        ),
        (f"  since {_time(data.get('opened_at'))}", "dim"),
    )


def _numbers(data: Mapping[str, Any]) -> Table:
    """Now beside before, and how far it is from being nothing."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    voices, items = _number(data.get("effective_n")), _number(data.get("raw_n"))
    table.add_row("now", Text(f"polarity {_signed(data.get('polarity'))}, {voices} voices in {items} items"))
    baseline = data.get("baseline")
    if isinstance(baseline, Mapping) and baseline:
        facts = (f"{_plain(name).replace('_', ' ')} {_number(value)}" for name, value in baseline.items())
        table.add_row("baseline", Text(_plain(", ".join(facts), LINE_CHARS_MAX)))
    table.add_row("p-value", Text(_number(data.get("p_value"))))
    table.add_row(
        "flip margin", Text(f"{_number(data.get('flip_margin'))} (how much must change until it is no alert)")
    )
    return table


def _quotes(heading: str, stories: Any, limit: int) -> Iterator[RenderableType]:
    rows = [story for story in stories if isinstance(story, Mapping)] if isinstance(stories, Sequence) else []
    if not rows:
        return
    yield Text()
    yield Text(heading if len(rows) <= limit else f"{heading} ({limit} of {len(rows)})", style="dim")
    for story in rows[:limit]:
        polarity = story.get("polarity")
        style = "red" if isinstance(polarity, int | float) and polarity < 0 else "green"
        copies = story.get("copies", 1)
        times = f", {_number(copies)} copies" if isinstance(copies, int) and copies > 1 else ""
        yield Text.assemble(
            (f"{_signed(polarity)} ", style),
            f"“{_plain(story.get('quote', ''), QUOTE_CHARS_MAX)}”",
            (f" {_plain(story.get('source', ''))}, {_time(story.get('published_at'))}{times}", "dim"),
        )


def _who(data: Mapping[str, Any]) -> str:
    entity, name = _plain(data.get("entity", "")), _plain(data.get("name") or "")
    return f"{name} ({entity})" if name else entity


def _plain(value: Any, chars_max: int = 80) -> str:
    """Visible characters on one line, at most `chars_max` of them."""
    text = "".join(" " if unicodedata.category(char) in _INVISIBLE else char for char in str(value)[: 4 * chars_max])
    line = " ".join(text.split())
    return line if len(line) <= chars_max else line[: chars_max - 1].rstrip() + "…"


def _time(value: Any) -> str:
    """RFC 3339 as people read it: 2026-11-03 02:31Z."""
    text = _plain(value or "unknown time", 32)
    return f"{text[:10]} {text[11:16]}Z" if len(text) >= 17 and text[10] == "T" and text.endswith("Z") else text


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _plain(value) if value is not None else "unknown"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _signed(value: Any) -> str:
    return f"{value:+.2f}" if isinstance(value, int | float) else "unknown"
