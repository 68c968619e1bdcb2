"""Cut a queue of texts into batches by what they cost: padded tokens, not their number. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """A batch holds at most `documents_max` texts and `tokens_max` padded tokens; lengths round up to `pad_to`."""

    tokens_max: int = 2_048
    documents_max: int = 64
    pad_to: int = 8


def padded(length: int, policy: BatchPolicy) -> int:
    """The width that a text of `length` tokens takes in a batch."""
    return -(-max(1, length) // policy.pad_to) * policy.pad_to


def cut_batches(lengths: Sequence[int], policy: BatchPolicy) -> list[list[int]]:
    """Indexes of `lengths`, longest first, so that each batch is about as long as its longest text.

    Only a single text may exceed the token budget, in a batch of its own.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        batch = batches[-1] if batches else []
        if not batch or len(batch) >= policy.documents_max or (len(batch) + 1) * width > policy.tokens_max:
            width = padded(lengths[index], policy)
            batch = []
            batches.append(batch)
        batch.append(index)
    return batches
