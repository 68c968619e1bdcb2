"""An evaluation as a person reads it: one HTML page without scripts or anything fetched. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from monitor.learning.evaluate import Answers, figures_of, slices_of, subset
from monitor.learning.rows import LabelledRow
from monitor.records import LABELS

WORST = 20
_TITLES = {"sentiment": "Sentiment of the text", "mentions": "Sentiment of each company", "topic": "Topic"}
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:.6rem 0 1.4rem}td,th{padding:.25rem .7rem;border-bottom:1px solid #d8dee4;text-align:right}
td:first-child,th:first-child{text-align:left}td.text{text-align:left;max-width:36rem}caption{text-align:left;color:#57606a}
.good{color:#116329}.bad{color:#a40e26}@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}
td,th{border-color:#30363d}caption{color:#9198a1}.good{color:#56d364}.bad{color:#ff7b72}}"""


def render_report(
    rows: Sequence[LabelledRow], after: Answers, *, before: Answers | None = None, title: str = "Evaluation"
) -> str:
    """The page; with `before`, the answers of another model to the same rows, every headline figure is shown beside it."""
    figures = figures_of(rows, after)
    parts = [
        f"<h1>{escape(title)}</h1><p>{len(rows)} texts.</p>",
        _headline(figures, figures_of(rows, before) if before else None),
    ]
    for task, name in _TITLES.items():
        if task in figures:
            parts.append(f"<h2>{name}</h2>{_per_label(figures[task])}{_confusion(figures[task])}")
            parts.append(reliability_svg(*_confidence(rows, after, task)) if task != "topic" else "")
    parts += [_slices(rows, after), _worst(rows, after)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def reliability_svg(sure: Sequence[float], right: Sequence[bool], *, bins: int = 10) -> str:
    """How often an answer of a given confidence is right; on the diagonal, confidence means what it says."""
    confidence, correct = np.asarray(sure, dtype=float), np.asarray(right, dtype=float)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    side, bars = 220, []
    for b in range(bins):
        inside = index == b
        if inside.any():
            height = float(correct[inside].mean()) * side
            label = f"{b / bins:.1f}–{(b + 1) / bins:.1f}: {correct[inside].mean():.0%} of {int(inside.sum())} right"
            bars.append(
                f'<rect x="{b * side / bins + 1:.1f}" y="{side - height:.1f}" width="{side / bins - 2:.1f}" '
                f'height="{height:.1f}" fill="#4c8dd6"><title>{label}</title></rect>'
            )
    return (
        f'<figure><svg role="img" aria-label="Reliability: share right by confidence" width="{side}" height="{side}" '
        f'viewBox="0 0 {side} {side}">{"".join(bars)}<path d="M0 {side}L{side} 0" stroke="#888" stroke-dasharray="4"/></svg>'
        "<figcaption>share right (up) by confidence (across)</figcaption></figure>"
    )


def _headline(after: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    names = ("accuracy", "macro_f1", "weighted_f1", "ece", "mse", "r2", "sign_accuracy", "micro_f1", "token_f1")
    lines = []
    for task, values in after.items():
        for name in (n for n in names if n in values):
            old = (before or {}).get(task, {}).get(name)
            lines.append(
                [
                    f"{task} {name}",
                    *([_number(old), _change(name, values[name], old)] if before else []),
                    _number(values[name]),
                ]
            )
    head = ["figure", *(["before", "change"] if before else []), "after" if before else "value"]
    return _table(head, lines)


def _change(name: str, new: float, old: float | None) -> str:
    if old is None:
        return ""
    better = (new < old) if name in {"ece", "mse"} else (new > old)
    kind = "good" if better else "bad" if new != old else ""
    return f'<span class="{kind}">{new - old:+.3f}</span>'


def _per_label(figures: Mapping[str, Any]) -> str:
    """Precision, recall, F1 and support of each label, with the three usual averages."""
    columns = ("precision", "recall", "f1")
    per = figures["per_class"]
    lines = [
        [escape(label), *(_number(s[c]) for c in columns), str(s["support"])]
        for label, s in per.items()
        if s["support"]
    ]
    values = np.array([[s[c] for c in columns] for s in per.values()])
    support = np.array([s["support"] for s in per.values()], dtype=float)
    there = support > 0
    total = str(int(support.sum()))
    lines.append(["<i>micro average</i>", *[_number(figures["accuracy"])] * 3, total])
    lines.append(["<i>macro average</i>", *(_number(v) for v in values[there].mean(0)), total])
    lines.append(
        ["<i>weighted average</i>", *(_number(v) for v in (values * support[:, None]).sum(0) / support.sum()), total]
    )
    return _table(["label", *columns, "support"], lines)


def _confusion(figures: Mapping[str, Any]) -> str:
    labels = list(figures["per_class"])
    if len(labels) > 6:
        return ""
    lines = [[escape(label), *map(str, row)] for label, row in zip(labels, figures["confusion"], strict=True)]
    return _table(["truth ↓ said →", *map(escape, labels)], lines)


def _slices(rows: Sequence[LabelledRow], answers: Answers) -> str:
    lines = []
    for name, indices in sorted(slices_of(rows).items()):
        found = figures_of([rows[i] for i in indices], subset(answers, indices))
        for task in ("sentiment", "mentions"):
            if task in found:
                f = found[task]
                lines.append([escape(f"{name}, {task}"), str(f["n"]), _number(f["accuracy"]), _number(f["macro_f1"])])
    return f"<h2>Slices</h2>{_table(['slice', 'n', 'accuracy', 'macro F1'], lines)}" if lines else ""


def _worst(rows: Sequence[LabelledRow], answers: Answers) -> str:
    """The answers that were most sure and wrong."""
    wrong = []
    for row, target, label, p in _judged(rows, answers):
        said = int(np.argmax(p))
        if LABELS[said] != label:
            wrong.append((float(p[said]), row.text, target, label, LABELS[said]))
    wrong.sort(key=lambda entry: -entry[0])
    lines = [
        [escape(t or "the text"), label, said, _number(sure), escape(text[:300])]
        for sure, text, t, label, said in wrong[:WORST]
    ]
    return f"<h2>Worst errors</h2>{_table(['about', 'truth', 'said', 'sure', 'text'], lines, text=4)}" if lines else ""


def _confidence(rows: Sequence[LabelledRow], answers: Answers, task: str) -> tuple[list[float], list[bool]]:
    chosen = [(p, label) for _, target, label, p in _judged(rows, answers) if bool(target) == (task == "mentions")]
    return [max(p) for p, _ in chosen], [LABELS[int(np.argmax(p))] == label for p, label in chosen]


def _judged(rows: Sequence[LabelledRow], answers: Answers) -> list[tuple[LabelledRow, str, str, Sequence[float]]]:
    """(row, target or "" for the text, truth, probabilities) for everything that has a label and an answer."""
    found: list[tuple[LabelledRow, str, str, Sequence[float]]] = []
    for row, said in zip(rows, answers.predictions, strict=True):
        if row.label is not None and said.document is not None:
            found.append((row, "", row.label, said.document))
        for mention, answer in zip(row.mentions, said.mentions, strict=False):
            if mention.label is not None:
                found.append((row, mention.target or "a company", mention.label, answer.probabilities))
    return found


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], *, text: int = -1) -> str:
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=text' if i == text else ''}>{cell}</td>" for i, cell in enumerate(line))
        + "</tr>"
        for line in lines
    )
    return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{body}</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
