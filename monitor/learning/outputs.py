"""What a network answers to labelled rows, gathered by task for calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from exporters.network import Network
from monitor.learning.features import Example
from monitor.learning.train import collate


def gather_outputs(network: Network, examples: Sequence[Example]) -> dict[str, Any]:
    """The `outputs` of `calibrate.fit_calibration`, from the serving heads; rows of other conventions are left out."""
    network.eval()
    with torch.no_grad():
        return _gather(network, examples)


def _gather(network: Network, examples: Sequence[Example]) -> dict[str, Any]:
    spec = network.spec
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for start in range(0, len(order), 64):
        chosen = [examples[i] for i in order[start : start + 64]]
        batch = collate(chosen, spec.pad_id)
        answers = network(batch["input_ids"], batch["attention_mask"], batch["mention_document"], batch["mention_mask"])
        for row, example in enumerate(chosen):
            if example.document is not None and example.document_head == spec.serve_document:
                logits = answers["document"][spec.serve_document][row].numpy()
                pairs.setdefault("document", []).append((logits, int(np.argmax(example.document))))
            if example.topic is not None and "topic" in answers:
                pairs.setdefault("topic", []).append((answers["topic"][row].numpy(), example.topic))
            if example.events is not None and "events" in answers:
                pairs.setdefault("events", []).append((answers["events"][row].numpy(), example.events))
        for row, mention in enumerate(batch["mentions"]):
            if mention.target is not None and mention.head == spec.serve_mention:
                logits = answers["mention"][spec.serve_mention][row].numpy()
                if max(mention.target) == 1.0:
                    pairs.setdefault("mention", []).append((logits, int(np.argmax(mention.target))))
                else:
                    pairs.setdefault("polarity", []).append((logits, mention.target[2] - mention.target[0]))
            if mention.tags is not None and "evidence" in answers:
                tags = np.array(mention.tags)
                p = answers["evidence"][row].softmax(-1).numpy()[: len(tags)]
                pairs.setdefault("evidence", []).append((p[tags >= 0], tags[tags >= 0]))
    return {
        task: found if task == "evidence" else tuple(np.array(column) for column in zip(*found, strict=True))
        for task, found in pairs.items()
    }
