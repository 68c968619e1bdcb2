"""The model card of a bundle: what it was trained on, how good it is, where it fails. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIGURES = ("n", "accuracy", "macro_f1", "micro_f1", "token_f1", "mse", "r2", "sign_accuracy", "ece")
_SHORT = {"sentiment": "document", "mentions": "company"}


def model_card(
    *,
    name: str,
    base_model: str,
    licences: Mapping[str, str],
    rows: Mapping[str, int],
    figures: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
    calibration: Mapping[str, Mapping[str, float]],
    served: Mapping[str, str],
    slices: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> str:
    """Markdown. `figures`: title (which split) → source → the figures of `evaluate`; `rows`: rows a source has in all splits.

    `calibration`: what `calibration_figures` says of the test split; `served`: task → the sources whose convention answers.
    `slices`: kind of row → the figures of `evaluate` on the test rows of that kind.
    """
    parts = [
        f"# {name}",
        (
            f"One shared encoder ({base_model}) with heads for the sentiment of a text and of each company in it, topic,\n"
            "company events, and the words that carry a judgement. English finance news and posts, at most 128 tokens."
        ),
        "## Trained on\n\n| source | rows | licence as stated |\n|---|---:|---|\n"
        + "\n".join(f"| {source} | {rows.get(source, 0)} | {stated} |" for source, stated in sorted(licences.items())),
        (
            "80% of the rows train, 10% choose (epoch, temperatures, thresholds, polarity map), 10% judge; split by text, so that\n"
            "near-duplicates stand on one side. Sources whose licence is not stated: see to your own right to use them, or train\n"
            "with the permissive recipe, which takes MIT rows alone."
        ),
        "Sources disagree about what neutral means, so each convention has a head of its own; in service answer: "
        + ", ".join(f"{task} as in {source}" for task, source in sorted(served.items()))
        + ".",
    ]
    parts += [f"## Figures: {split}\n\n{_table(found)}" for split, found in figures.items()]
    if slices:
        parts.append(f"## What is hard: slices of the test split\n\n{_table(slices)}")
    parts += [_calibration(calibration), _LIMITS]
    return "\n\n".join(parts) + "\n"


def _table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    used = [f for f in _FIGURES if any(f in task for tasks in found.values() for task in tasks.values())]
    lines = ["| source | task | " + " | ".join(used) + " |", "|---|---|" + "---:|" * len(used)]
    for source, tasks in sorted(found.items()):
        for task, values in tasks.items():
            cells = [_cell(values[f]) if f in values else "" for f in used]
            lines.append(f"| {source} | {_SHORT.get(task, task)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _calibration(calibration: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    for task, values in calibration.items():
        lines.append(
            f"- {task}: expected calibration error {values['ece_before']:.3f} before, {values['ece_after']:.3f} after"
        )
        if "coverage" in values:
            lines.append(f"- {task}: not abstained from {values['coverage']:.0%}, of which wrong {values['risk']:.1%}")
    return "## Calibration on the test split\n\n" + "\n".join(lines)


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{float(value):.3f}"


_LIMITS = """## Limits and known failures

- Sources with another idea of neutral are judged by the served one's: posts that their authors marked bullish or bearish
  are mostly called neutral, and so are many facts that annotators of company news called good or bad. The tables show it.
- Two companies with opposite fates in one sentence: the weakest point; the loser is often given the winner's tone.
- Negated statements, more than plain ones.
- Irony, memes and emoji in posts; comparisons ("less bad than feared"); a company that is only an analyst of another.
- The same company judged twice in one sentence, once well and once badly, gets one answer.
- Words beyond 128 tokens are read only around a company that is first named there.
- The polarity map was fitted on about a hundred headlines and posts; treat it as a scale, not as a measurement.
- Not for advice on investments, and not for texts about private persons."""
