"""How good a network in training is on a split, from its serving heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from exporters.network import Network
from monitor.learning.epoch import collate
from monitor.learning.features import Example
from monitor.learning.metrics import classification, multilabel, tag_f1


@torch.no_grad()
def validate(network: Network, examples: Sequence[Example], *, bf16: bool = False) -> dict[str, float]:
    """Figures on a split, from the serving heads. `score` is the mean of those that there are."""
    gathered = predict(network, examples, bf16=bf16)
    metrics: dict[str, float] = {}
    for task in ("document", "mention"):
        if gathered[task]:
            probabilities, truth = map(np.array, zip(*gathered[task], strict=True))
            result = classification(truth, probabilities)
            metrics |= {f"{task}_accuracy": result["accuracy"], f"{task}_macro_f1": result["macro_f1"]}
    if gathered["topic"]:
        logits, truth = map(np.array, zip(*gathered["topic"], strict=True))
        metrics["topic_accuracy"] = float((logits.argmax(-1) == truth).mean())
    if gathered["events"]:
        probabilities, truth = map(np.array, zip(*gathered["events"], strict=True))
        metrics["events_micro_f1"] = multilabel(truth, probabilities >= 0.5)["micro_f1"]
    if gathered["evidence"]:
        metrics["evidence_token_f1"] = tag_f1([(np.array(t), np.array(p).argmax(-1)) for p, t in gathered["evidence"]])
    chosen = [v for k, v in metrics.items() if k.endswith(("macro_f1", "topic_accuracy", "micro_f1", "token_f1"))]
    metrics["score"] = float(np.mean(chosen)) if chosen else -math.inf
    served = [metrics[name] for name in ("document_macro_f1", "mention_macro_f1") if name in metrics]
    if served:
        metrics["sentiment"] = float(np.mean(served))
    return {name: round(value, 5) for name, value in metrics.items()}


@torch.no_grad()
def predict(network: Network, examples: Sequence[Example], *, bf16: bool = False) -> dict[str, list[Any]]:
    """(prediction, truth) pairs by task; only rows of the serving conventions count for `document` and `mention`."""
    network.eval()
    spec = network.spec
    gathered: dict[str, list[Any]] = {
        name: [] for name in ("document", "mention", "topic", "events", "evidence", "polarity")
    }
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for start in range(0, len(order), 64):
        chosen = [examples[i] for i in order[start : start + 64]]
        batch = collate(chosen, spec.pad_id)
        with torch.autocast(device_of(network).type, torch.bfloat16, enabled=bf16):
            answers = ask(network, batch)
        for row, example in enumerate(chosen):
            if example.document is not None and example.document_head == spec.serve_document:
                logits = answers["document"][spec.serve_document][row].float().cpu()
                gathered["document"].append((logits.softmax(-1).numpy(), int(np.argmax(example.document))))
            if example.topic is not None and "topic" in answers:
                gathered["topic"].append((answers["topic"][row].float().cpu().numpy(), example.topic))
            if example.events is not None and "events" in answers:
                gathered["events"].append((answers["events"][row].float().cpu().sigmoid().numpy(), example.events))
        for row, mention in enumerate(batch["mentions"]):
            if mention.target is not None and mention.head == spec.serve_mention:
                p = answers["mention"][spec.serve_mention][row].float().cpu().softmax(-1).numpy()
                if max(mention.target) == 1.0:
                    gathered["mention"].append((p, int(np.argmax(mention.target))))
                else:
                    gathered["polarity"].append((float(p[2] - p[0]), mention.target[2] - mention.target[0]))
            if mention.tags is not None and "evidence" in answers:
                tags = np.array(mention.tags)
                p = answers["evidence"][row].float().cpu().softmax(-1).numpy()[: len(tags)]
                gathered["evidence"].append((p[tags >= 0], tags[tags >= 0]))
    return gathered


def ask(network: Network, batch: dict[str, Any]) -> dict[str, Any]:
    """The network's answers to a collated batch, on the network's device."""
    device = device_of(network)
    inputs = ("input_ids", "attention_mask", "mention_document", "mention_mask")
    answers: dict[str, Any] = network(*(batch[name].to(device) for name in inputs))
    return answers


def device_of(network: Network) -> torch.device:
    return next(network.parameters()).device
