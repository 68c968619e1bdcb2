"""Figures of classification, in numpy alone. Conventions as in scikit-learn: an undefined ratio counts as 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitor.records import LABELS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def classification(truth: ArrayLike, probabilities: ArrayLike, labels: Sequence[str] = LABELS) -> dict[str, Any]:
    """`truth` [n] class numbers, `probabilities` [n, classes].

    Gives n, accuracy, macro_f1, weighted_f1, per_class {label: precision, recall, f1, support}, confusion, ece.
    """
    wanted, p = np.asarray(truth, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    chosen = p.argmax(-1)
    matrix = confusion(wanted, chosen, len(labels))
    per_class = {label: _scores(matrix, index) for index, label in enumerate(labels)}
    support = matrix.sum(1)
    f1 = np.array([scores["f1"] for scores in per_class.values()])
    heard = (support > 0) | (matrix.sum(0) > 0)
    return {
        "n": len(wanted),
        "accuracy": _ratio(np.trace(matrix), matrix.sum()),
        "macro_f1": float(f1[heard].mean()) if heard.any() else 0.0,
        "weighted_f1": _ratio((f1 * support).sum(), support.sum()),
        "per_class": per_class,
        "confusion": matrix.tolist(),
        "ece": calibration_error(wanted, p),
    }


def confusion(truth: Ints, chosen: Ints, classes: int) -> Ints:
    """Rows are the truth, columns what was said."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (truth, chosen), 1)
    return matrix


def calibration_error(truth: Ints, probabilities: Floats, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017) of the top class, equal-width bins."""
    if not len(truth):
        return 0.0
    sure = probabilities.max(-1)
    right = probabilities.argmax(-1) == truth
    index = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gap = 0.0
    for b in range(bins):
        inside = index == b
        if inside.any():
            gap += float(inside.mean() * abs(right[inside].mean() - sure[inside].mean()))
    return gap


def multilabel(truth: ArrayLike, chosen: ArrayLike, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Both boolean [n, labels]. Gives n, micro_f1, macro_f1 and, with names, per_label."""
    t, c = np.asarray(truth, dtype=bool), np.asarray(chosen, dtype=bool)
    hit, said, meant = (t & c).sum(0), c.sum(0), t.sum(0)
    f1 = np.array([_f1(int(h), int(s), int(m)) for h, s, m in zip(hit, said, meant, strict=True)])
    there = meant > 0
    return {
        "n": len(t),
        "micro_f1": _f1(int(hit.sum()), int(said.sum()), int(meant.sum())),
        "macro_f1": float(f1[there].mean()) if there.any() else 0.0,
        "per_label": {
            name: {
                "precision": _ratio(hit[i], said[i]),
                "recall": _ratio(hit[i], meant[i]),
                "f1": float(f1[i]),
                "support": int(meant[i]),
            }
            for i, name in enumerate(labels)
        },
    }


def tag_f1(pairs: Sequence[tuple[Ints, Ints]]) -> float:
    """F1 of being inside a span (B or I), over all tokens of all (truth, chosen) pairs."""
    hit = sum(int(((t > 0) & (c > 0)).sum()) for t, c in pairs)
    return _f1(hit, sum(int((c > 0).sum()) for _, c in pairs), sum(int((t > 0).sum()) for t, _ in pairs))


def polarity_figures(truth: ArrayLike, said: ArrayLike) -> dict[str, float]:
    """n, mse, r2 and sign_accuracy (scores of exactly 0 have no sign and don't count there)."""
    t, s = np.asarray(truth, dtype=np.float64), np.asarray(said, dtype=np.float64)
    mse = float(((t - s) ** 2).mean())
    spread = float(((t - t.mean()) ** 2).mean())
    signed = t != 0
    return {
        "n": len(t),
        "mse": mse,
        "r2": 1.0 - mse / spread if spread > 0 else 0.0,
        "sign_accuracy": float((np.sign(t[signed]) == np.sign(s[signed])).mean()) if signed.any() else 0.0,
    }


def _scores(matrix: Ints, index: int) -> dict[str, float]:
    hit, said, meant = int(matrix[index, index]), int(matrix[:, index].sum()), int(matrix[index].sum())
    return {
        "precision": _ratio(hit, said),
        "recall": _ratio(hit, meant),
        "f1": _f1(hit, said, meant),
        "support": meant,
    }


def _f1(hit: int, said: int, meant: int) -> float:
    return _ratio(2 * hit, said + meant)


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0
