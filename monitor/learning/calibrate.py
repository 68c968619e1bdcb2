"""After training: temperatures, thresholds and polarity knots, fitted on the validation split alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitor.learning.metrics import classification, multilabel, tag_f1

Floats = NDArray[np.float64]
KNOTS_X = (-1.0, -0.5, 0.0, 0.5, 1.0)
_PER_LABEL_SUPPORT_MIN = 20  # with fewer rows a threshold of its own would fit noise


def fit_calibration(outputs: Mapping[str, Any], *, risk_max: float = 0.10) -> dict[str, Any]:
    """What `export_bundle` wants as `calibration`, from the network's answers on the validation split.

    `outputs`: `document`, `mention`, `topic`: (logits [n, c], class numbers [n]); `events`: (logits [n, e], 0/1 [n, e]);
    `evidence`: list of (probabilities [tokens, 3], tags [tokens]); `polarity`: (mention logits [n, 3], scores [n]).
    Tasks may be missing. `risk_max`: share of wrong answers among those that are not abstained from.
    """
    found: dict[str, Any] = {}
    for task in ("document", "mention", "topic"):
        if task in outputs:
            found[task] = {"temperature": round(fit_temperature(*outputs[task]), 4)}
    if "mention" in outputs:
        logits, truth = outputs["mention"]
        limit = fit_abstention(softmax(logits, found["mention"]["temperature"]), truth, risk_max=risk_max)
        found["mention"]["abstain_below"] = limit["abstain_below"]
    if "events" in outputs:
        logits, truth = outputs["events"]
        found["events"] = {"thresholds": fit_event_thresholds(1.0 / (1.0 + np.exp(-np.asarray(logits))), truth)}
    if "evidence" in outputs:
        found["evidence"] = {"threshold": fit_evidence_threshold(outputs["evidence"])}
    if "polarity" in outputs:
        logits, scores = outputs["polarity"]
        p = softmax(logits, found.get("mention", {}).get("temperature", 1.0))
        found["polarity"] = {"knots_x": list(KNOTS_X), "knots_y": fit_knots(p[:, 2] - p[:, 0], scores)}
    return found


def fit_conventions(outputs: Mapping[str, Any], heads: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Any]:
    """Every head's own temperature and, where its rows have scores, polarity knots.

    `outputs`: with the keys `document:HEAD`, `mention:HEAD`, `polarity:HEAD`; `heads`: task → head → its sources.
    """
    found: dict[str, Any] = {}
    for task, named in heads.items():
        for head, sources in named.items():
            own: dict[str, Any] = {"sources": sorted(sources)}
            if f"{task}:{head}" in outputs:
                own["temperature"] = round(fit_temperature(*outputs[f"{task}:{head}"]), 4)
            if task == "mention" and f"polarity:{head}" in outputs:
                logits, scores = outputs[f"polarity:{head}"]
                p = softmax(logits, own.get("temperature", 1.0))
                own["polarity"] = {"knots_x": list(KNOTS_X), "knots_y": fit_knots(p[:, 2] - p[:, 0], scores)}
            found.setdefault(task, {})[head] = own
    return found


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Along the last axis."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(-1, keepdims=True))


def fit_temperature(logits: ArrayLike, truth: ArrayLike) -> float:
    """The one number that minimises the negative log-likelihood (Guo et al. 2017), searched from 0.25 to 8."""
    x, t = np.asarray(logits, dtype=np.float64), np.asarray(truth, dtype=np.int64)

    def loss(log_temperature: float) -> float:
        p = softmax(x, float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(p[np.arange(len(t)), t], 1e-12)).mean())

    grid = np.linspace(np.log(0.25), np.log(8.0), 141)
    return float(np.exp(grid[int(np.argmin([loss(g) for g in grid]))]))


def fit_abstention(probabilities: ArrayLike, truth: ArrayLike, *, risk_max: float) -> dict[str, float]:
    """The lowest confidence from which on at most `risk_max` of the answers are wrong; with its coverage and risk."""
    p, t = np.asarray(probabilities), np.asarray(truth)
    sure = p.max(-1)
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum(p.argmax(-1)[order] != t[order]) / np.arange(1, len(t) + 1)
    kept = np.flatnonzero(wrong <= risk_max)
    if not len(kept):
        return {"abstain_below": 1.0, "coverage": 0.0, "risk": 0.0}
    last = int(kept[-1])
    limit = 0.0 if last == len(t) - 1 else float(sure[order[last]])
    return {
        "abstain_below": float(np.floor(limit * 1e4) / 1e4),
        "coverage": (last + 1) / len(t),
        "risk": float(wrong[last]),
    }


def fit_event_thresholds(probabilities: ArrayLike, truth: ArrayLike) -> list[float]:
    """One threshold for all by micro F1; labels with enough rows get their own, half-way between theirs and the common one."""
    p, t = np.asarray(probabilities), np.asarray(truth, dtype=bool)
    grid = np.linspace(0.1, 0.95, 86)
    common = float(grid[int(np.argmax([multilabel(t, p >= g)["micro_f1"] for g in grid]))])
    limits = []
    for column in range(p.shape[1]):
        limit = common
        if t[:, column].sum() >= _PER_LABEL_SUPPORT_MIN:
            one = slice(column, column + 1)
            own = grid[int(np.argmax([multilabel(t[:, one], p[:, one] >= g)["micro_f1"] for g in grid]))]
            limit = (common + float(own)) / 2
        limits.append(round(limit, 3))
    return limits


def fit_evidence_threshold(answers: Sequence[tuple[ArrayLike, ArrayLike]]) -> float:
    """On p(B) + p(I), by token F1."""
    inside = [np.asarray(p)[:, 1:].sum(-1) for p, _ in answers]
    tags = [(np.asarray(t) > 0).astype(np.int64) for _, t in answers]
    grid = np.linspace(0.1, 0.8, 71)
    scores = [tag_f1([(t, (p >= g).astype(np.int64)) for t, p in zip(tags, inside, strict=True)]) for g in grid]
    return round(float(grid[int(np.argmax(scores))]), 3)


def fit_knots(said: ArrayLike, scores: ArrayLike, *, ridge: float = 3.0) -> list[float]:
    """Heights at KNOTS_X of the monotone piecewise-linear map from p(+) − p(−) to scores, by projected least squares.

    The ridge pulls towards the straight line that fits best, so that a stretch with few rows follows its neighbours.
    """
    x, y = np.asarray(said, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    knots = np.array(KNOTS_X)
    hats = np.stack([np.interp(x, knots, np.eye(len(knots))[k]) for k in range(len(knots))], axis=1)
    slope, base = (float(v) for v in np.polyfit(x, y, 1)) if len(set(x.tolist())) > 1 else (1.0, 0.0)
    line = base + max(slope, 0.0) * knots
    left = hats.T @ hats + ridge * np.eye(len(knots))
    heights = np.linalg.solve(left, hats.T @ y + ridge * line)
    heights = np.clip(np.maximum.accumulate(heights), -1.0, 1.0)
    return [round(float(h), 4) for h in heights]


def calibration_figures(outputs: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """ECE before and after, and what the abstention rule costs and buys, on whatever split `outputs` is of."""
    figures: dict[str, Any] = {}
    for task in ("document", "mention"):
        if task in outputs:
            logits, truth = outputs[task]
            raw = classification(truth, softmax(logits))["ece"]
            after = softmax(logits, calibration[task]["temperature"])
            figures[task] = {"ece_before": raw, "ece_after": classification(truth, after)["ece"]}
    if "mention" in outputs:
        logits, truth = outputs["mention"]
        p = softmax(logits, calibration["mention"]["temperature"])
        kept = p.max(-1) >= calibration["mention"]["abstain_below"]
        right = p.argmax(-1) == np.asarray(truth)
        risk = float(1.0 - right[kept].mean()) if kept.any() else 0.0
        figures["mention"] |= {"coverage": float(kept.mean()), "risk": risk}
    return figures
