"""From logits to probabilities that mean what they say. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Along the last axis; temperature scaling after Guo et al. 2017."""
    scaled = logits / temperature
    scaled = np.exp(scaled - scaled.max(-1, keepdims=True))
    return scaled / scaled.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def sigmoid(logits: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-logits))


def polarity(probabilities: Floats, knots_x: Sequence[float], knots_y: Sequence[float]) -> Floats:
    """p(positive) − p(negative), mapped by the bundle's knots: raw differences crowd at ±1. [n, 3] → [n]."""
    return np.interp(probabilities[..., 2] - probabilities[..., 0], knots_x, knots_y)  # type: ignore[no-any-return]
