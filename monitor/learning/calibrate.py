"""What a network's answers are worth: temperatures, thresholds and the polarity map, fitted on the validation split alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.errors import Fatal
from monitor.learning.features import make_examples
from monitor.learning.metrics import calibration_error, classification, multilabel, polarity_figures, tag_f1
from monitor.learning.recipe import Recipe
from monitor.learning.rows import LabelledRow, splits_of

_KNOTS = 9


def calibrate(run: Path, rows: Sequence[LabelledRow], split: str = "valid") -> tuple[dict[str, Any], dict[str, Any]]:
    """(calibration for `export_bundle`, figures on that split before and after). Raises Fatal for another run's rows."""
    from tokenizers import Tokenizer

    from exporters.network import load_run
    from monitor.learning.train import predict

    recipe = Recipe.model_validate(json.loads((run / "run.json").read_text("utf-8"))["recipe"])
    network = load_run(run / "best")
    tokenizer = Tokenizer.from_file(str(run / "best" / "tokenizer.json"))
    sides = splits_of(rows, valid_percent=recipe.data.valid_percent, test_percent=recipe.data.test_percent)
    chosen = [row for row, side in zip(rows, sides, strict=True) if side == split]
    if not chosen:
        raise Fatal(f"{run}: the data have no {split} split")
    spec = network.spec
    examples = make_examples(chosen, tokenizer, recipe, topics=spec.topics, events=spec.events)
    return fit(predict(network, examples))


def fit(gathered: dict[str, list[Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """From (prediction, truth) pairs by task to calibration and figures."""
    calibration: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for task in ("document", "mention"):
        if gathered[task]:
            p, truth = _columns(gathered[task])
            t = best_temperature(p, truth)
            calibration[task] = {"temperature": round(t, 4)}
            scaled = scale(p, t)
            result = classification(truth, scaled)
            figures[task] = {k: result[k] for k in ("n", "accuracy", "macro_f1", "ece")} | {
                "ece_before": calibration_error(truth, p)
            }
            if task == "mention":
                calibration[task]["abstain_below"] = round(abstain_below(scaled, truth), 4)
    if gathered["topic"]:
        logits, truth = _columns(gathered["topic"])
        p = np.exp(logits - logits.max(-1, keepdims=True))
        t = best_temperature(p / p.sum(-1, keepdims=True), truth)
        calibration["topic"] = {"temperature": round(t, 4)}
        figures["topic"] = {"n": len(truth), "accuracy": float((logits.argmax(-1) == truth).mean())}
    if gathered["events"]:
        p, truth = _columns(gathered["events"])
        limits = [best_threshold(p[:, i], truth[:, i]) for i in range(p.shape[1])]
        calibration["events"] = {"thresholds": [round(limit, 3) for limit in limits]}
        result = multilabel(truth, p >= np.array(limits))
        figures["events"] = {"n": len(truth), "micro_f1": result["micro_f1"], "macro_f1": result["macro_f1"]}
    if gathered["evidence"]:
        limit = best_evidence_threshold(gathered["evidence"])
        calibration["evidence"] = {"threshold": round(limit, 3)}
        figures["evidence"] = {"n": len(gathered["evidence"]), "token_f1": evidence_f1(gathered["evidence"], limit)}
    if len(gathered["polarity"]) >= 20:
        said, truth = _columns(gathered["polarity"])
        x, y = monotone_knots(said, truth)
        calibration["polarity"] = {"knots_x": x, "knots_y": y}
        figures["polarity"] = polarity_figures(truth, np.interp(said, x, y))
    return calibration, _rounded(figures)


def scale(probabilities: NDArray[Any], temperature: float) -> NDArray[Any]:
    """Temperature scaling of probabilities: their logarithms are logits up to a constant."""
    logits = np.log(np.maximum(probabilities, 1e-9)) / temperature
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def best_temperature(probabilities: NDArray[Any], truth: NDArray[Any]) -> float:
    """The temperature of least negative log likelihood (Guo et al. 2017), by golden section."""

    def loss(t: float) -> float:
        return float(-np.log(np.maximum(scale(probabilities, t)[np.arange(len(truth)), truth], 1e-12)).mean())

    return _golden(loss, 0.3, 5.0)


def abstain_below(probabilities: NDArray[Any], truth: NDArray[Any], coverage: float = 0.97) -> float:
    """The confidence that the surest `coverage` of the rows reach: below it the model says that it does not know."""
    return float(np.quantile(probabilities.max(-1), 1.0 - coverage)) if len(truth) else 0.0


def best_threshold(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Of highest F1 for one label; with fewer than five positives the neutral one."""
    if truth.sum() < 5:
        return 0.5
    limits = np.linspace(0.1, 0.95, 35)
    return float(max(limits, key=lambda limit: multilabel(truth[:, None], (scores >= limit)[:, None])["micro_f1"]))


def best_evidence_threshold(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    return float(max(np.linspace(0.1, 0.8, 29), key=lambda limit: evidence_f1(pairs, float(limit))))


def evidence_f1(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], limit: float) -> float:
    return tag_f1([(truth, (p[:, 1] + p[:, 2] >= limit).astype(np.int64)) for p, truth in pairs])


def monotone_knots(said: NDArray[Any], truth: NDArray[Any]) -> tuple[list[float], list[float]]:
    """A rising piecewise-linear map from p(+) − p(−) to the labelled score: pooled adjacent violators over quantile means."""
    cuts = np.array_split(np.argsort(said, kind="stable"), min(_KNOTS, len(said)))
    x = np.array([said[c].mean() for c in cuts])
    blocks = [[float(truth[c].mean()), len(c), 1] for c in cuts]
    merged: list[list[float]] = []
    for block in blocks:
        merged.append(list(block))
        while len(merged) > 1 and merged[-2][0] > merged[-1][0]:
            b, a = merged.pop(), merged.pop()
            weight = a[1] + b[1]
            merged.append([(a[0] * a[1] + b[0] * b[1]) / weight, weight, a[2] + b[2]])
    y = np.repeat([m[0] for m in merged], [int(m[2]) for m in merged])
    xs, first = np.unique(np.round(np.concatenate([[-1.0], x, [1.0]]), 4), return_index=True)
    ys = np.concatenate([[min(y[0], -0.5)], y, [max(y[-1], 0.5)]])[first]
    return xs.tolist(), np.round(np.maximum.accumulate(np.clip(ys, -1, 1)), 4).tolist()


def _golden(loss: Callable[[float], float], low: float, high: float) -> float:
    ratio = (5**0.5 - 1) / 2
    for _ in range(40):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if loss(a) < loss(b):
            high = b
        else:
            low = a
    return (low + high) / 2


def _columns(pairs: Sequence[tuple[Any, Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    one, other = zip(*pairs, strict=True)
    return np.array(one), np.array(other)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
