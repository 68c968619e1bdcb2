"""From B / I / O probabilities to the words that carry a judgement. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Offsets = Sequence[tuple[int, int]]


def answer_spans(
    probabilities: NDArray[Any], offsets: Offsets, *, threshold: float, spans_max: int = 3
) -> list[tuple[int, int]]:
    """`probabilities` [tokens, 3] in the order O, B, I. Half-open character spans, strongest first, at most `spans_max`.

    A token is inside when p(B) + p(I) reaches the threshold; tokens of one word go together; a gap of one token between
    two answers is bridged, so that a quote reads as a phrase.
    """
    inside = probabilities[:, 1] + probabilities[:, 2]
    chosen = [i for i, (a, b) in enumerate(offsets) if a < b and inside[i] >= threshold]
    if not chosen:
        return []
    runs = [[chosen[0], chosen[0]]]
    for token in chosen[1:]:
        if token - runs[-1][1] <= 2:
            runs[-1][1] = token
        else:
            runs.append([token, token])
    ranked = sorted(runs, key=lambda run: -float(np.sum(inside[run[0] : run[1] + 1])))[:spans_max]
    return [_whole_words(offsets, first, last) for first, last in ranked]


def clause_around(text: str, start: int, end: int, *, chars_max: int = 160) -> tuple[int, int]:
    """The clause that holds [start, end): what is quoted where the tagger found nothing."""
    marks = ".;!?\n"
    left = max((text.rfind(mark, 0, start) for mark in marks), default=-1) + 1
    stops = [at for mark in marks if (at := text.find(mark, end)) >= 0]
    right = min(stops, default=len(text))
    left, right = max(left, start - chars_max), min(right, max(end, left + chars_max))
    while left < right and text[left].isspace():
        left += 1
    while right > left and text[right - 1].isspace():
        right -= 1
    return left, right


def _whole_words(offsets: Offsets, first: int, last: int) -> tuple[int, int]:
    """A word that was cut into pieces is quoted whole: neighbours that touch without a gap belong to it."""
    while first > 0 and offsets[first - 1][1] == offsets[first][0] and offsets[first - 1][0] < offsets[first - 1][1]:
        first -= 1
    while (
        last + 1 < len(offsets)
        and offsets[last + 1][0] == offsets[last][1]
        and offsets[last + 1][1] > offsets[last + 1][0]
    ):
        last += 1
    return offsets[first][0], offsets[last][1]
