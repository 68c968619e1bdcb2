"""What one epoch learns from and in which order: it follows from the seed and the epoch alone."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from monitor.learning.features import Example, join
from monitor.learning.recipe import Recipe, named_for

JOINERS = (";", ",", "while", "as", "but", "and", "|", ".", "-", "; meanwhile", ", whereas", "even as")


def epoch_examples(
    examples: Sequence[Example], recipe: Recipe, joiners: Sequence[Sequence[int]], epoch: int
) -> list[Example]:
    """What one epoch learns from, in no order: the same for the same seed and epoch. `joiners`: token ids of JOINERS."""
    data, run = recipe.data, recipe.run
    examples = [example for example in examples if teaches(example, recipe)]
    rng = random.Random(f"{run.seed}/{epoch}/rows")
    chosen = [examples[i] for i in visited(examples, data.passes, rng)]
    served = sum(
        1.0 if (passes := named_for(data.passes, e.source)) is None else passes
        for e in examples
        if any(m.head == data.serve_mention for m in e.mentions)
    )
    count = round(data.joined_share * served)
    return chosen + joined_pairs(examples, data.serve_mention, count, joiners, tokens_max=run.tokens_max, rng=rng)


def teaches(example: Example, recipe: Recipe) -> bool:
    """Whether any task of the recipe learns from it: a row without such a label costs as much as one with it."""
    tasks = recipe.tasks
    return bool(
        (tasks.document and example.document_head)
        or (tasks.topic and example.topic is not None)
        or (tasks.events and example.events is not None)
        or any((tasks.mention and m.head) or (tasks.evidence and m.tags is not None) for m in example.mentions)
    )


def visited(examples: Sequence[Example], passes: dict[str, float], rng: random.Random) -> list[int]:
    """Which examples an epoch visits, by the passes of their sources; the count doesn't depend on `rng`."""
    by_source: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        by_source.setdefault(example.source, []).append(index)
    chosen: list[int] = []
    for source, indices in sorted(by_source.items()):
        wanted = named_for(passes, source)
        count = round(len(indices) * (1.0 if wanted is None else wanted))
        chosen += indices * (count // len(indices))
        chosen += rng.sample(indices, count % len(indices))
    return chosen


def joined_pairs(
    examples: Sequence[Example],
    head: str,
    count: int,
    joiners: Sequence[Sequence[int]],
    *,
    tokens_max: int,
    rng: random.Random,
) -> list[Example]:
    """`count` pairs of examples of one mention head in one breath; three in four have companies with different fates."""
    able = [e for e in examples if any(m.head == head for m in e.mentions) and len(e.ids) <= tokens_max // 2 - 4]
    by_fate: dict[int, list[Example]] = {}
    for example in able:
        fate = next(m.target for m in example.mentions if m.head == head)
        by_fate.setdefault(max(range(3), key=(fate or (0, 1, 0)).__getitem__), []).append(example)
    if len(able) < 2:
        return []
    pairs = []
    for _ in range(count):
        first = second = rng.choice(able)
        if len(by_fate) > 1 and rng.random() < 0.75:
            one, other = rng.sample(sorted(by_fate), 2)
            first, second = rng.choice(by_fate[one]), rng.choice(by_fate[other])
        while second is first:
            second = rng.choice(able)
        pairs.append(join(first, second, rng.choice(joiners)))
    return pairs


def batches_of(examples: Sequence[Example], *, batch_documents: int, rng: random.Random) -> list[list[int]]:
    """Shuffled, but texts of like length together: pools of 32 batches are sorted by length, then cut, then mixed."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    pool = 32 * batch_documents
    batches = []
    for start in range(0, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lambda i: len(examples[i].ids))
        batches += [chunk[i : i + batch_documents] for i in range(0, len(chunk), batch_documents)]
    rng.shuffle(batches)
    return batches


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, Any]:
    """Tensors of one batch, padded to a multiple of 8 tokens."""
    width = 8 * math.ceil(max(len(e.ids) for e in examples) / 8)
    ids = np.full((len(examples), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(examples), width), dtype=np.int64)
    mentions = [(i, m) for i, e in enumerate(examples) for m in e.mentions]
    spans = np.zeros((max(1, len(mentions)), width), dtype=np.float32)
    tags = np.full((max(1, len(mentions)), width), -100, dtype=np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        mask[row, : len(example.ids)] = 1
    for row, (_, mention) in enumerate(mentions):
        spans[row, mention.tokens] = 1.0
        if mention.tags is not None:
            tags[row, : len(mention.tags)] = mention.tags
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "mention_document": torch.tensor([i for i, _ in mentions] or [0], dtype=torch.int64),
        "mention_mask": torch.from_numpy(spans),
        "tags": torch.from_numpy(tags),
        "mentions": [mention for _, mention in mentions],
    }
