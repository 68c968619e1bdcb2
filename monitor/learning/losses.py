"""Masked losses: each row trains the heads that it has labels for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monitor.errors import Fatal
from monitor.learning.features import Example
from monitor.learning.recipe import Recipe
from monitor.records import LABELS


def losses_of(
    answers: dict[str, Any], batch: dict[str, Any], examples: list[Example], recipe: Recipe, weights: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Mean loss of each task over the rows that have labels for it, times the task's weight."""
    tasks = recipe.tasks
    losses: dict[str, Tensor] = {}

    def three_way(task: str, weight: float, logits: dict[str, Tensor], wanted: list[tuple[int, str, Any]]) -> None:
        parts = []
        for name, answer in logits.items():
            rows = [(row, target) for row, head, target in wanted if head == name]
            if rows:
                index = torch.tensor([row for row, _ in rows], device=answer.device)
                target = torch.tensor([t for _, t in rows], dtype=torch.float32, device=answer.device)
                own = weights.get(f"{task}/{name}")
                parts.append(
                    nn.functional.cross_entropy(
                        answer[index].float(),
                        target,
                        weight=None if own is None else own.to(answer.device),
                        label_smoothing=recipe.run.label_smoothing,
                        reduction="sum",
                    )
                )
        if parts and weight:
            losses[task] = weight * torch.stack(parts).sum() / len(wanted)

    documents = [(i, e.document_head, e.document) for i, e in enumerate(examples) if e.document_head]
    three_way("document", tasks.document, answers["document"], documents)
    mentions = [(i, m.head, m.target) for i, m in enumerate(batch["mentions"]) if m.head]
    three_way("mention", tasks.mention, answers["mention"], mentions)
    topics = [(i, e.topic) for i, e in enumerate(examples) if e.topic is not None]
    if topics and "topic" in answers and tasks.topic:
        device = answers["topic"].device
        index, wanted = (torch.tensor(column, device=device) for column in zip(*topics, strict=True))
        losses["topic"] = tasks.topic * nn.functional.cross_entropy(answers["topic"][index].float(), wanted)
    events = [(i, e.events) for i, e in enumerate(examples) if e.events is not None]
    if events and "events" in answers and tasks.events:
        device = answers["events"].device
        index = torch.tensor([i for i, _ in events], device=device)
        wanted = torch.tensor([e for _, e in events], dtype=torch.float32, device=device)
        losses["events"] = tasks.events * nn.functional.binary_cross_entropy_with_logits(
            answers["events"][index].float(), wanted, pos_weight=torch.full((wanted.shape[1],), 3.0, device=device)
        )
    if "evidence" in answers and tasks.evidence and bool((batch["tags"] >= 0).any()):
        losses["evidence"] = tasks.evidence * nn.functional.cross_entropy(
            answers["evidence"].float().flatten(0, 1),
            batch["tags"].flatten().to(answers["evidence"].device),
            ignore_index=-100,
        )
    return losses


def class_weights(examples: Sequence[Example], recipe: Recipe) -> dict[str, Tensor]:
    """1 / sqrt(share) per class and head, mean 1; rare classes are heard without drowning the others."""
    if recipe.run.class_weights == "none":
        return {}
    sums: dict[str, np.ndarray] = {}
    for example in examples:
        if example.document_head:
            sums.setdefault(f"document/{example.document_head}", np.zeros(3))[:] += example.document
        for mention in example.mentions:
            if mention.head:
                sums.setdefault(f"mention/{mention.head}", np.zeros(3))[:] += mention.target
    found = {}
    for name, total in sums.items():
        weights = 1.0 / np.sqrt(np.maximum(total, 1.0) / max(1.0, total.sum()))
        weights[total == 0] = 0.0
        found[name] = torch.tensor(weights / weights[weights > 0].mean(), dtype=torch.float32)
    return found


def check_classes(examples: Sequence[Example]) -> list[str]:
    """What should be known of heads some of whose classes have no training row; one line each.

    Raises Fatal for a head whose rows all say the same: there is nothing to learn.
    """
    seen: dict[str, dict[int, int]] = {}
    sources: dict[str, set[str]] = {}
    for example in examples:
        targets = [("document", example.document_head, example.document)]
        targets += [("mention", m.head, m.target) for m in example.mentions]
        for task, head, target in targets:
            if head is not None and target is not None:
                name = f"{task} head {head}"
                top = max(range(len(LABELS)), key=target.__getitem__)
                seen.setdefault(name, {})[top] = seen.setdefault(name, {}).get(top, 0) + 1
                sources.setdefault(name, set()).add(example.source or "unnamed")
    told = []
    for name, counts in sorted(seen.items()):
        of = f"{name} (sources {', '.join(sorted(sources[name]))})"
        if len(counts) == 1:
            raise Fatal(
                f"{of}: all {sum(counts.values())} training rows are {LABELS[next(iter(counts))]}; give rows of other labels, or don't map these sources to a head"
            )
        empty = [label for index, label in enumerate(LABELS) if index not in counts]
        if empty:
            told.append(f"{of}: no training row is {' or '.join(empty)}; this head will never say so")
    return told
