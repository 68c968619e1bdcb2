"""Does the graph answer as the network does? Judged by names, shapes, values and decisions, on several shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from exporters.errors import ExportError
from exporters.graph import INPUTS, sample
from exporters.network import Network, ServedNetwork, output_names

_SHAPES = ((1, 8), (3, 12), (7, 40), (16, 24), (2, 128))


def check_parity(network: Network, graph: Path, *, tolerance: float, decisions: float = 0.999) -> dict[str, float]:
    """Raises ExportError with the name of the first check that fails; returns the largest difference and the agreement.

    `tolerance` bounds the difference of any logit; `decisions` the share of rows with the same top class.
    """
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    served = ServedNetwork(network).eval()
    names = output_names(network.spec)
    if [i.name for i in session.get_inputs()] != list(INPUTS):
        raise ExportError(f"parity names: inputs are {[i.name for i in session.get_inputs()]}, not {list(INPUTS)}")
    if [o.name for o in session.get_outputs()] != names:
        raise ExportError(f"parity names: outputs are {[o.name for o in session.get_outputs()]}, not {names}")
    worst, same, rows = 0.0, 0, 0
    for seed, (documents, tokens) in enumerate(_SHAPES):
        inputs = sample(network, documents=documents, tokens=min(tokens, network.spec.tokens_max), seed=seed)
        with torch.no_grad():
            wanted = [tensor.numpy() for tensor in served(*inputs)]
        feed = {n: t.numpy() for n, t in zip(INPUTS, inputs, strict=True)}
        got = session.run(names, feed)
        for name, one, other in zip(names, wanted, got, strict=True):
            if one.shape != other.shape:
                raise ExportError(
                    f"parity shapes: {name} is {other.shape} at {documents}x{tokens}, should be {one.shape}"
                )
            if not np.isfinite(other).all():
                raise ExportError(f"parity values: {name} is not finite at {documents}x{tokens}")
            worst = max(worst, float(np.abs(one - other).max()))
            if name in {"document_logits", "mention_logits", "topic_logits"}:
                same += int((one.argmax(-1) == other.argmax(-1)).sum())
                rows += len(one)
    if worst > tolerance:
        raise ExportError(f"parity values: outputs differ by {worst:.2e}, at most {tolerance:.0e} is allowed")
    agreement = same / rows if rows else 1.0
    if agreement < decisions:
        raise ExportError(f"parity decisions: {agreement:.4f} of the rows agree, at least {decisions} is asked")
    return {"max_difference": worst, "decisions_equal": agreement}
