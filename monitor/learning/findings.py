"""An evaluation in full, as one JSON object: figures, change, slices, reliability, worst errors. Pure; `report` draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monitor.learning.evaluate import Answers, figures_of, slices_of, subset
from monitor.learning.rows import LabelledRow
from monitor.records import LABELS

WORST = 20
_BINS = 10
_TEXT_CHARS_MAX = 300
_SLICED = {
    "sentiment": ("accuracy", "macro_f1", "ece"),
    "mentions": ("accuracy", "macro_f1", "ece"),
    "polarity": ("mse", "sign_accuracy"),
    "topic": ("accuracy", "macro_f1"),
    "events": ("micro_f1",),
    "evidence": ("token_f1",),
}


def findings(
    rows: Sequence[LabelledRow],
    after: Answers,
    *,
    before: Answers | None = None,
    conventions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that the report shows. `before`: another model's answers to the same rows."""
    found: dict[str, Any] = {
        "texts": len(rows),
        "figures": figures_of(rows, after),
        "before": None if before is None else figures_of(rows, before),
        "conventions": dict(conventions or {}),
        "slices": _slices(rows, after, before),
        "reliability": {},
        "worst": _worst(rows, after),
    }
    for task in ("sentiment", "mentions"):
        if task in found["figures"]:
            found["reliability"][task] = reliability(*_confidence(rows, after, task))
    return found


def reliability(sure: Sequence[float], right: Sequence[bool]) -> list[dict[str, float]]:
    """For answers of like confidence: how many there are, how sure they are on average, and how many of them are right."""
    confidence, correct = np.asarray(sure, dtype=float), np.asarray(right, dtype=float)
    index = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        {
            "from": b / _BINS,
            "to": (b + 1) / _BINS,
            "n": int((index == b).sum()),
            "confidence": float(confidence[index == b].mean()),
            "right": float(correct[index == b].mean()),
        }
        for b in range(_BINS)
        if (index == b).any()
    ]


def averages(figures: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Micro, macro and weighted average of a task's precision, recall and F1."""
    columns = ("precision", "recall", "f1")
    per = figures["per_class"].values()
    values = np.array([[scores[c] for c in columns] for scores in per])
    matrix = np.asarray(figures["confusion"])
    support = matrix.sum(1).astype(float)
    there = (support > 0) | (matrix.sum(0) > 0)  # a label that was only ever said counts as 0, as in `macro_f1`
    means = {
        "micro": [figures["accuracy"]] * 3,
        "macro": values[there].mean(0),
        "weighted": (values * support[:, None]).sum(0) / support.sum(),
    }
    return {name: dict(zip(columns, map(float, row), strict=True)) for name, row in means.items()}


def _slices(rows: Sequence[LabelledRow], after: Answers, before: Answers | None) -> list[dict[str, Any]]:
    lines = []
    for name, indices in sorted(slices_of(rows).items()):
        chosen = [rows[i] for i in indices]
        found = figures_of(chosen, subset(after, indices))
        old = {} if before is None else figures_of(chosen, subset(before, indices))
        for task, names in _SLICED.items():
            if task in found:
                line = {"slice": name, "task": task, "n": found[task]["n"]}
                line |= {figure: found[task][figure] for figure in names}
                if task in old:
                    line["before"] = old[task][names[0]]
                lines.append(line)
    return lines


def _worst(rows: Sequence[LabelledRow], answers: Answers) -> list[dict[str, Any]]:
    """The answers that were most sure and wrong."""
    wrong = []
    for row, target, label, p in _judged(rows, answers):
        said = int(np.argmax(p))
        if LABELS[said] != label:
            wrong.append(
                {
                    "about": target or "the text",
                    "truth": label,
                    "said": LABELS[said],
                    "sure": float(p[said]),
                    "source": row.source,
                    "text": row.text[:_TEXT_CHARS_MAX],
                }
            )
    return sorted(wrong, key=lambda one: -float(one["sure"]))[:WORST]  # type: ignore[arg-type]


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
