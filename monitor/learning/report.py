"""An evaluation as a person reads it: one HTML page without scripts or anything fetched. Pure; it draws `findings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from monitor.learning.findings import averages

_TITLES = {"sentiment": "Sentiment of the text", "mentions": "Sentiment of each company", "topic": "Topic"}
_HEADLINE = ("accuracy", "macro_f1", "weighted_f1", "ece", "mse", "r2", "sign_accuracy", "micro_f1", "token_f1")
_LOWER_IS_BETTER = {"ece", "mse"}
_SIDE = 240  # of the reliability plot, in pixels
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-top:2px solid #d8dee4;padding-top:.8rem}
table{border-collapse:collapse;margin:.6rem 0 1.4rem;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;border-bottom:1px solid #d8dee4;text-align:right}
th{font-weight:600;color:#57606a}td:first-child,th:first-child,td.text,th.text{text-align:left}td.text{max-width:34rem}
.row{display:flex;flex-wrap:wrap;gap:2rem;align-items:flex-start}figure{margin:.6rem 0}
figcaption,.note{color:#57606a;font-size:.9rem}text{fill:#57606a;font-size:10px}
.good{color:#116329}.bad{color:#a40e26}.cell{border-radius:3px;padding:.1rem .5rem}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}td,th,h2{border-color:#30363d}
th,figcaption,.note{color:#9198a1}text{fill:#9198a1}.good{color:#56d364}.bad{color:#ff7b72}}"""


def render_report(
    found: Mapping[str, Any], *, title: str, before_name: str = "before", after_name: str = "after"
) -> str:
    """The page of `findings(…)`; where they hold another model's figures, each headline figure is shown beside its own."""
    compared = found["before"] is not None
    note = f"{found['texts']} texts." + (
        f" Before: {escape(before_name)}. After: {escape(after_name)}." if compared else f" {escape(after_name)}."
    )
    parts = [f"<h1>{escape(title)}</h1><p>{note}</p>", _headline(found["figures"], found["before"])]
    parts.append(_conventions(found["conventions"]))
    for task, name in _TITLES.items():
        if task in found["figures"]:
            figures = found["figures"][task]
            plot = reliability_svg(found["reliability"][task]) if task in found["reliability"] else ""
            beside = f'<div class="row">{_confusion(figures)}{plot}</div>'
            parts.append(f"<h2>{name}</h2>{_per_label(figures)}{beside}")
    if "events" in found["figures"]:
        parts.append(f"<h2>Company events</h2>{_per_event(found['figures']['events'])}")
    parts += [_slices(found["slices"], compared=compared), _worst(found["worst"])]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def reliability_svg(bins: Sequence[Mapping[str, float]]) -> str:
    """How often an answer of a given confidence is right; on the diagonal, confidence means what it says."""
    bars = []
    for b in bins:
        height, left = b["right"] * _SIDE, b["from"] * _SIDE
        label = f"{b['from']:.1f}–{b['to']:.1f}: {b['right']:.0%} of {int(b['n'])} right, {b['confidence']:.0%} sure"
        bars.append(
            f'<rect x="{left + 1:.1f}" y="{_SIDE - height:.1f}" width="{(b["to"] - b["from"]) * _SIDE - 2:.1f}" '
            f'height="{height:.1f}" fill="#4c8dd6"><title>{label}</title></rect>'
            f'<text x="{left + 12:.1f}" y="{max(10.0, _SIDE - height - 3):.1f}" text-anchor="middle">{int(b["n"])}</text>'
        )
    ticks = "".join(
        f'<text x="{x * _SIDE:.0f}" y="{_SIDE + 13}" text-anchor="middle">{x:.1f}</text>'
        f'<text x="-4" y="{_SIDE - x * _SIDE + 3:.0f}" text-anchor="end">{x:.1f}</text>'
        for x in (0.0, 0.5, 1.0)
    )
    return (
        f'<figure><svg role="img" aria-label="Reliability: share right by confidence" width="{_SIDE + 40}" '
        f'height="{_SIDE + 30}" viewBox="-30 -10 {_SIDE + 40} {_SIDE + 30}">'
        f'<rect width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>{"".join(bars)}'
        f'<path d="M0 {_SIDE}L{_SIDE} 0" stroke="#888" stroke-dasharray="4"/>{ticks}</svg>'
        "<figcaption>share right (up) by confidence (across); above each bar, how many answers</figcaption></figure>"
    )


def _headline(after: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    lines = []
    for task, values in after.items():
        for name in (n for n in _HEADLINE if n in values):
            line = [f"{task} {name.replace('_', ' ')}", str(values["n"])]
            if before is not None:
                old = before.get(task, {}).get(name)
                line += [_number(old), _number(values[name]), _change(name, values[name], old)]
            else:
                line.append(_number(values[name]))
            lines.append(line)
    return _table(["figure", "n", *(["before", "after", "change"] if before is not None else ["value"])], lines)


def _change(name: str, new: float, old: float | None) -> str:
    if old is None:
        return ""
    better = (new < old) if name in _LOWER_IS_BETTER else (new > old)
    kind = "good" if better else "bad" if new != old else ""
    return f'<span class="{kind}">{new - old:+.3f}</span>'


def _conventions(conventions: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    """Sources disagree about what neutral means; say whose idea of it judged what."""
    lines = [
        [escape(source), escape(task), escape(voice["head"]), "its own" if voice["by"] == "source" else "as in service"]
        for source, tasks in conventions.items()
        for task, voice in tasks.items()
    ]
    if not lines:
        return ""
    return f"<h2>Which head judged which source</h2>{_table(['source', 'task', 'head', 'convention'], lines)}"


def _per_label(figures: Mapping[str, Any]) -> str:
    """Precision, recall, F1 and support of each label, with the three usual averages."""
    columns = ("precision", "recall", "f1")
    said = [sum(row[i] for row in figures["confusion"]) for i in range(len(figures["per_class"]))]
    lines = [
        [escape(label), *(_number(s[c]) for c in columns), str(s["support"])]
        for (label, s), times in zip(figures["per_class"].items(), said, strict=True)
        if s["support"] or times
    ]
    for name, values in averages(figures).items():
        lines.append([f"<i>{name} average</i>", *(_number(values[c]) for c in columns), str(figures["n"])])
    return _table(["label", *columns, "support"], lines)


def _per_event(figures: Mapping[str, Any]) -> str:
    columns = ("precision", "recall", "f1")
    lines = [
        [escape(label), *(_number(s[c]) for c in columns), str(s["support"])]
        for label, s in figures["per_label"].items()
    ]
    lines += [["<i>micro average</i>", "", "", _number(figures["micro_f1"]), ""]]
    lines += [["<i>macro average</i>", "", "", _number(figures["macro_f1"]), ""]]
    return _table(["event", *columns, "support"], lines)


def _confusion(figures: Mapping[str, Any]) -> str:
    """Each row is coloured by its shares, so that a rare label's errors are seen too."""
    labels, matrix = list(figures["per_class"]), figures["confusion"]
    used = [i for i in range(len(labels)) if sum(matrix[i]) or any(row[i] for row in matrix)]

    def cell(i: int, j: int) -> str:
        share = matrix[i][j] / max(1, sum(matrix[i]))
        colour = "76,141,214" if i == j else "214,76,76"
        return f'<span class="cell" style="background:rgba({colour},{0.75 * share:.2f})">{matrix[i][j]}</span>'

    lines = [[escape(labels[i]), *(cell(i, j) for j in used)] for i in used]
    heads = [escape(labels[i]) if len(used) <= 6 else f'<span title="{escape(labels[i])}">{i + 1}</span>' for i in used]
    if len(used) > 6:
        lines = [[f"{i + 1} {line[0]}", *line[1:]] for i, line in zip(used, lines, strict=True)]
    return _table(["truth ↓ said →", *heads], lines)


def _slices(slices: Sequence[Mapping[str, Any]], *, compared: bool) -> str:
    lines = []
    for line in slices:
        figures = [name for name in line if name not in {"slice", "task", "n", "before"}]
        shown = ", ".join(f"{name.replace('_', ' ')} {_number(line[name])}" for name in figures[1:])
        lines.append(
            [
                escape(line["slice"]),
                escape(line["task"]),
                str(line["n"]),
                *([_number(line.get("before"))] if compared else []),
                f"{figures[0].replace('_', ' ')} {_number(line[figures[0]])}",
                shown,
            ]
        )
    head = ["slice", "task", "n", *(["before"] if compared else []), "after" if compared else "figure", "and"]
    return f"<h2>Slices</h2>{_table(head, lines)}" if lines else ""


def _worst(worst: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [escape(w["about"]), w["truth"], w["said"], _number(w["sure"]), escape(w["source"]), escape(w["text"])]
        for w in worst
    ]
    head = ["about", "truth", "said", "sure", "source", "text"]
    return (
        f"<h2>Worst errors</h2><p class=note>The surest answers that were wrong.</p>{_table(head, lines, text=5)}"
        if lines
        else ""
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], *, text: int = -1) -> str:
    heads = "".join(f"<th{' class=text' if i == text else ''}>{cell}</th>" for i, cell in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=text' if i == text else ''}>{cell}</td>" for i, cell in enumerate(line))
        + "</tr>"
        for line in lines
    )
    return f"<table><tr>{heads}</tr>{body}</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
