"""The network as an ONNX graph, with its attention fused.

The legacy exporter is used on purpose: on a model with written-out attention it yields the one graph in which ONNX Runtime
fuses EmbedLayerNorm, Attention, SkipLayerNorm and BiasGelu.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch

from exporters.errors import ExportError
from exporters.network import Network, ServedNetwork, output_names

INPUTS = ("input_ids", "attention_mask", "mention_document", "mention_mask")
OPSET = 17
_AXES: dict[str, dict[int, str]] = {
    "input_ids": {0: "documents", 1: "tokens"},
    "attention_mask": {0: "documents", 1: "tokens"},
    "mention_document": {0: "mentions"},
    "mention_mask": {0: "mentions", 1: "tokens"},
    "document_logits": {0: "documents"},
    "mention_logits": {0: "mentions"},
    "topic_logits": {0: "documents"},
    "event_logits": {0: "documents"},
    "evidence_logits": {0: "mentions", 1: "tokens"},
    "embedding": {0: "documents"},
}


def export_graph(network: Network, path: Path) -> None:
    """Write the fused fp32 graph. Raises ExportError when a BERT encoder's layers were not all fused."""
    outputs = output_names(network.spec)
    odd = [name for name in outputs if not name.isidentifier() or not name.isascii()]
    if odd:
        raise ExportError(f"names: {odd[0]} can't name an output; call the recipe's heads by letters, digits and _")
    served = ServedNetwork(network).eval()  # on the outermost module, or a dropout stays in the graph
    plain = path.with_suffix(".plain.onnx")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # the legacy exporter announces its end and every traced shape
        torch.onnx.export(
            served,
            sample(network),
            str(plain),
            input_names=list(INPUTS),
            output_names=outputs,
            dynamic_axes={name: axes_of(name) for name in (*INPUTS, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
    try:
        _fuse(plain, path, network)
    finally:
        plain.unlink(missing_ok=True)


def axes_of(name: str) -> dict[int, str]:
    """Axis number → name, of whatever may change from batch to batch; a convention's head has those of the served one."""
    plain = next((one for one in ("document_logits", "mention_logits") if name.startswith(f"{one}_")), name)
    return dict(_AXES[plain])


def sample(network: Network, *, documents: int = 3, tokens: int = 12, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes: padded rows, one mention without words of its own."""
    rng = torch.Generator().manual_seed(seed)
    vocabulary = int(network.spec.encoder.get("vocab_size", 100))
    ids = torch.randint(5, vocabulary, (documents, tokens), generator=rng)
    mask = torch.ones_like(ids)
    for row in range(1, documents):
        mask[row, max(2, tokens - 3 * row) :] = 0
        ids[row, max(2, tokens - 3 * row) :] = network.spec.pad_id
    own = torch.zeros(documents + 1, tokens)
    own[:documents, 1] = 1.0
    return ids, mask, torch.tensor([*range(documents), 0]), own


def _fuse(plain: Path, path: Path, network: Network) -> None:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    encoder = network.spec.encoder
    bert = encoder["model_type"] == "bert"
    heads, layers = int(encoder.get("num_attention_heads", 12)), int(encoder.get("num_hidden_layers", 12))
    quiet = logging.getLogger("onnxruntime.transformers")
    before, quiet.level = quiet.level, logging.ERROR
    try:
        model = optimizer.optimize_model(
            str(plain),
            model_type="bert",
            num_heads=heads,
            hidden_size=network.spec.hidden,
            opt_level=0,
            optimization_options=FusionOptions("bert"),
        )
    finally:
        quiet.setLevel(before)
    counts = model.get_fused_operator_statistics()
    if bert and counts.get("Attention", 0) != layers:
        raise ExportError(
            f"fusion: {counts.get('Attention', 0)} of {layers} attention layers were fused; refusing a slow graph"
        )
    proto = model.model
    proto.producer_name, proto.producer_version, proto.doc_string = "tapewatch", "", ""
    del proto.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    if not any(opset.domain == "com.microsoft" for opset in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
