"""What a network answers to labelled rows, gathered by task and head for calibration.

Keys: `document:HEAD` and `mention:HEAD` (logits, class numbers), `polarity:HEAD` (mention logits, scores), `topic`, `events`
(logits, truth), `evidence` (list of (probabilities, tags)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from exporters.network import Network
from monitor.learning.epoch import collate
from monitor.learning.features import Example

_TEXTS = 64
Outputs = dict[str, Any]


def gather_outputs(network: Network, examples: Sequence[Example]) -> Outputs:
    """Each row is answered by the head of its own convention; a scored mention by the serving head as well."""
    network.eval()
    with torch.no_grad():
        return _gather(network, examples)


def merge_outputs(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of several sets of rows as those of one."""
    merged: Outputs = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        found = [part[key] for part in parts if key in part]
        if key == "evidence":
            merged[key] = [pair for pairs in found for pair in pairs]
        else:
            merged[key] = tuple(np.concatenate(column) for column in zip(*found, strict=True))
    return merged


def as_heads(outputs: Mapping[str, Any], *, document: str | None, mention: str | None) -> Outputs:
    """The `outputs` of `calibrate.fit_calibration`: with these two heads as the ones that answer."""
    chosen = {"document": f"document:{document}", "mention": f"mention:{mention}", "polarity": f"polarity:{mention}"}
    found = {task: outputs[key] for task, key in chosen.items() if key in outputs}
    return found | {task: outputs[task] for task in ("topic", "events", "evidence") if task in outputs}


def _gather(network: Network, examples: Sequence[Example]) -> Outputs:
    spec = network.spec
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for start in range(0, len(order), _TEXTS):
        chosen = [examples[i] for i in order[start : start + _TEXTS]]
        batch = collate(chosen, spec.pad_id)
        answers = network(batch["input_ids"], batch["attention_mask"], batch["mention_document"], batch["mention_mask"])
        for row, example in enumerate(chosen):
            if example.document is not None and example.document_head in answers["document"]:
                logits = answers["document"][example.document_head][row].numpy()
                truth = int(np.argmax(example.document))
                pairs.setdefault(f"document:{example.document_head}", []).append((logits, truth))
            if example.topic is not None and "topic" in answers:
                pairs.setdefault("topic", []).append((answers["topic"][row].numpy(), example.topic))
            if example.events is not None and "events" in answers:
                pairs.setdefault("events", []).append((answers["events"][row].numpy(), example.events))
        for row, mention in enumerate(batch["mentions"]):
            if mention.target is not None and mention.head in answers["mention"]:
                hard = max(mention.target) == 1.0
                # The map from polarity to scores is needed in service too, whichever convention the scored rows have.
                heads = [mention.head] if hard else dict.fromkeys([mention.head, spec.serve_mention or mention.head])
                truth = int(np.argmax(mention.target)) if hard else mention.target[2] - mention.target[0]
                for head in heads:
                    key = f"{'mention' if hard else 'polarity'}:{head}"
                    pairs.setdefault(key, []).append((answers["mention"][head][row].numpy(), truth))
            if mention.tags is not None and "evidence" in answers:
                tags = np.array(mention.tags)
                p = answers["evidence"][row].softmax(-1).numpy()[: len(tags)]
                pairs.setdefault("evidence", []).append((p[tags >= 0], tags[tags >= 0]))
    return {
        key: found if key == "evidence" else tuple(np.array(column) for column in zip(*found, strict=True))
        for key, found in pairs.items()
    }
