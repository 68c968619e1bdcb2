"""From a recipe to a network and its optimiser: heads, adapters, what is frozen when, and how fast each layer learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.network import Network, NetworkSpec, load_run
from monitor.errors import Fatal
from monitor.learning.bases import base_model_of, encoder_config, is_run
from monitor.learning.recipe import Recipe, head_for
from monitor.learning.rows import LabelledRow


def spec_of(base: Path, rows: Sequence[LabelledRow], recipe: Recipe) -> NetworkSpec:
    config = encoder_config(base)
    heads = recipe.data

    def used(names: dict[str, str], weight: float, has: Callable[[LabelledRow], bool]) -> tuple[str, ...]:
        return tuple(sorted({h for r in rows if has(r) and (h := head_for(names, r.source))})) if weight else ()

    documents = used(
        heads.document_heads, recipe.tasks.document, lambda r: r.label is not None or r.probabilities is not None
    )
    mentions = used(
        heads.mention_heads,
        recipe.tasks.mention,
        lambda r: any(m.label or m.score is not None or m.probabilities for m in r.mentions),
    )
    topics = tuple(sorted({r.topic for r in rows if r.topic})) if recipe.tasks.topic else ()
    events = tuple(sorted({e for r in rows for e in r.events or ()})) if recipe.tasks.events else ()
    evidence = bool(recipe.tasks.evidence) and any(m.evidence for r in rows for m in r.mentions)
    return NetworkSpec(
        encoder=config,
        base_model=base_model_of(base) or recipe.base,
        hidden=int(config.get("hidden_size", 768)),
        pad_id=int(config.get("pad_token_id") or 0),
        tokens_max=recipe.run.tokens_max,
        document_heads=documents,
        mention_heads=mentions,
        serve_document=heads.serve_document if heads.serve_document in documents else "",
        serve_mention=heads.serve_mention if heads.serve_mention in mentions else "",
        topics=topics,
        events=events,
        evidence=evidence,
        head_dropout=recipe.run.head_dropout,
        head_hidden=recipe.run.head_hidden,
    )


def build_network(base: Path, spec: NetworkSpec, recipe: Recipe) -> Network:
    """A network with the heads of `spec` on the encoder of `base`.

    Where `base` is an earlier run's network, each head that the two have in common goes on as it was. Raises Fatal naming
    the file when that network doesn't load.
    """
    try:
        earlier = load_run(base) if is_run(base) else None
    except (FileNotFoundError, ValueError) as err:
        raise Fatal(f"base {base}: {err}") from err
    network = Network(_encoder(base, spec, recipe, earlier), spec)
    if earlier is not None:
        network.load_state_dict(_heads_in_common(earlier, network), strict=False)
    return network


def _heads_in_common(earlier: Network, network: Network) -> dict[str, Tensor]:
    """What the earlier network's heads learnt, but for those whose labels are others now."""
    before, now, own = earlier.spec, network.spec, network.state_dict()
    relabelled = [
        name
        for name, same in (("topic.", before.topics == now.topics), ("events.", before.events == now.events))
        if not same
    ]
    return {
        name: value
        for name, value in earlier.state_dict().items()
        if not name.startswith(("encoder.", *relabelled)) and name in own and own[name].shape == value.shape
    }


def _encoder(base: Path, spec: NetworkSpec, recipe: Recipe, earlier: Network | None) -> nn.Module:
    from transformers import AutoModel

    if earlier is not None:
        encoder = earlier.encoder
    else:
        pooling = {"add_pooling_layer": False} if spec.encoder["model_type"] in {"bert", "mpnet", "roberta"} else {}
        options = {"attn_implementation": "eager", "dtype": torch.float32, **pooling}
        encoder = AutoModel.from_pretrained(str(base), **options)  # a folder, nothing is downloaded  # nosec B615
    if recipe.peft.kind != "none":
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=recipe.peft.rank,
            lora_alpha=recipe.peft.alpha,
            lora_dropout=recipe.peft.dropout,
            use_dora=recipe.peft.kind == "dora",
            target_modules="all-linear",
        )
        encoder = get_peft_model(encoder, adapters)
    return encoder


def layers_of(network: Network) -> list[nn.Module]:
    encoder = network.encoder
    while not hasattr(encoder, "encoder") and hasattr(encoder, "base_model"):
        encoder = encoder.base_model if encoder.base_model is not encoder else encoder.model
    return list(encoder.encoder.layer)


def freeze(network: Network, recipe: Recipe, epoch: int) -> None:
    """Decide anew before each epoch; adapters always learn, and under them the encoder's own weights never do."""
    if recipe.peft.kind != "none":
        return
    policy, layers = recipe.freeze.policy, layers_of(network)
    open_layers = {
        "none": len(layers),
        "heads": 0,
        "top": recipe.freeze.top_layers,
        "gradual": min(len(layers), epoch),
    }[policy]
    for parameter in network.encoder.parameters():
        parameter.requires_grad_(open_layers >= len(layers))
    for layer in layers[len(layers) - open_layers :]:
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
    if recipe.freeze.word_embeddings:
        for name, parameter in network.encoder.named_parameters():
            if "word_embeddings" in name:
                parameter.requires_grad_(False)


def build_optimiser(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """Heads learn faster than the encoder, lower layers slower than upper ones; norms and biases do not decay."""
    o = recipe.optimiser
    depth = {id(p): i for i, layer in enumerate(layers_of(network)) for p in layer.parameters()}
    count = len(layers_of(network))
    groups = []
    for name, parameter in network.named_parameters():
        inside = name.startswith("encoder.")
        below = count - depth.get(id(parameter), -1 if inside else count)
        rate = o.rate * (o.layer_decay**below if inside else o.head_rate_factor)
        decay = 0.0 if parameter.ndim < 2 else o.weight_decay
        groups.append({"params": [parameter], "lr": rate, "rate": rate, "weight_decay": decay})
    if o.kind == "sgd":
        return torch.optim.SGD(groups, lr=o.rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=o.rate, fused=True)


def rate_factor(step: int, total: int, recipe: Recipe) -> float:
    warmup = max(1, round(recipe.optimiser.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if recipe.optimiser.schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done)) if recipe.optimiser.schedule == "cosine" else 1.0
