"""Does the graph answer as the network does? Judged by names, axes, shapes, values and decisions, on several shapes.

A failure carries the name of the check, the output and where: `parity values: mention_logits differs by …`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.activations import cpu_session
from exporters.errors import ExportError
from exporters.graph import INPUTS, axes_of, sample
from exporters.network import Network, ServedNetwork, output_names

_SHAPES = ((1, 8), (3, 12), (7, 40), (16, 24), (2, 128), (256, 16))
TIE = 0.02  # in logits: half a percent of probability at most, a few times what storing weights in fp16 moves
_DECIDED_BY_TOP = ("document_logits", "mention_logits", "topic_logits", "evidence_logits")


def check_parity(network: Network, graph: Path, *, tolerance: float, decisions: float = 0.999) -> dict[str, float]:
    """Raises ExportError with the name of the first check that fails; returns the largest difference and the agreement.

    `tolerance` bounds the difference of any output; `decisions` is the share of rows that must be decided alike: by the
    top class, or for events by each side of one half; where the network itself is undecided by less than TIE, either answer
    is the same. Graphs of lower precision than fp32 and fp16 are judged by their
    figures on labelled rows instead.
    """
    session = cpu_session(str(graph))
    served = ServedNetwork(network).eval()
    names = output_names(network.spec)
    _check_names("inputs", [i.name for i in session.get_inputs()], list(INPUTS))
    _check_names("outputs", [o.name for o in session.get_outputs()], names)
    for value in [*session.get_inputs(), *session.get_outputs()]:
        _check_axes(value)
    worst, worst_at, same, rows = 0.0, "", 0, 0
    for seed, (documents, tokens) in enumerate(_SHAPES):
        inputs = sample(network, documents=documents, tokens=min(tokens, network.spec.tokens_max), seed=seed)
        with torch.no_grad():
            wanted = [tensor.numpy() for tensor in served(*inputs)]
        got = session.run(names, {n: t.numpy() for n, t in zip(INPUTS, inputs, strict=True)})
        for name, one, other in zip(names, wanted, got, strict=True):
            where = f"{name} at {documents} texts of {tokens} tokens"
            if one.shape != other.shape:
                raise ExportError(f"parity shapes: {where} is {other.shape}, should be {one.shape}")
            if not np.isfinite(other).all():
                raise ExportError(f"parity values: {where} is not finite")
            difference = float(np.abs(one - other).max())
            if difference > worst:
                worst, worst_at = difference, where
            decided, count = _alike(name, one, other)
            same, rows = same + decided, rows + count
    if worst > tolerance:
        raise ExportError(f"parity values: {worst_at} differs by {worst:.2e}, at most {tolerance:.0e} is allowed")
    agreement = same / rows if rows else 1.0
    if agreement < decisions:
        raise ExportError(f"parity decisions: {agreement:.4f} of the rows agree, at least {decisions} is asked")
    return {"max_difference": worst, "decisions_equal": agreement}


def _check_names(kind: str, found: list[str], wanted: list[str]) -> None:
    missing, extra = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    if missing or extra:
        raise ExportError(f"parity names: {kind} lack {missing or 'nothing'} and have {extra or 'nothing'} besides")
    if found != wanted:
        raise ExportError(f"parity names: {kind} stand in the order {found}, not {wanted}")


def _check_axes(value: Any) -> None:
    """What may change from batch to batch has a name in the graph; whatever else is a fixed number."""
    wanted = axes_of(value.name)
    for axis, size in enumerate(value.shape):
        if axis in wanted and size != wanted[axis]:
            raise ExportError(
                f"parity axes: axis {axis} of {value.name} is {size!r}, should be free as {wanted[axis]!r}"
            )
        if axis not in wanted and not isinstance(size, int):
            raise ExportError(f"parity axes: axis {axis} of {value.name} is {size!r}, should be a fixed number")


def _alike(name: str, one: Any, other: Any) -> tuple[int, int]:
    """How many decisions are the same, and of how many."""
    if name.startswith(_DECIDED_BY_TOP):
        said = np.take_along_axis(one, other.argmax(-1)[..., None], -1)[..., 0]
        return int((one.max(-1) - said <= TIE).sum()), int(np.prod(one.shape[:-1]))
    if name == "event_logits":
        return int((((one > 0) == (other > 0)) | (np.abs(one) <= TIE)).sum()), one.size
    return 0, 0
