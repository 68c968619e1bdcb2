"""The same graph at other precisions: weights stored in half the bytes, and engines made for one machine.

A bundle ships weights as fp16 with a cast back, so that it is small and runs anywhere. The engine of a machine (fp32 or
int8) is derived from it. Needs onnx and onnxruntime, not torch.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SMALL = 1_024  # biases and norms stay as they are
_SUFFIX = "_stored"


def to_fp16_storage(source: Path, out: Path) -> None:
    """Large fp32 initializers are stored as fp16 and cast to fp32 at load; arithmetic stays fp32."""
    model = onnx.load(str(source))
    graph, casts = model.graph, []
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) <= _SMALL:
            continue
        stored = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name + _SUFFIX)
        casts.append(
            helper.make_node("Cast", [stored.name], [tensor.name], name=f"cast_{tensor.name}", to=TensorProto.FLOAT)
        )
        graph.initializer[index].CopyFrom(stored)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    out.write_bytes(model.SerializeToString(deterministic=True))


def to_fp32(source: Path, out: Path) -> None:
    """Undo `to_fp16_storage`: the casts are computed once, here."""
    model = onnx.load(str(source))
    _fold(model)
    out.write_bytes(model.SerializeToString(deterministic=True))


def to_fp16(source: Path, out: Path) -> None:
    """Arithmetic in fp16 too, for GPUs; inputs and outputs stay fp32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(source))
    _fold(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # subnormal weights are cut to the smallest fp16, and it says so for each
        half = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    out.write_bytes(half.SerializeToString(deterministic=True))


def to_int8(source: Path, out: Path, *, ranges: Mapping[str, tuple[float, float]] | None = None) -> None:
    """Every matrix product on int8 weights, per channel.

    `ranges`: of the activations, for fixed scales; then a text's score does not hang on its neighbours in a batch. Without
    them the activations of each batch are measured as they come.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    _fold(model)
    with tempfile.TemporaryDirectory() as folder, _silence():
        folded, quantised = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        folded.write_bytes(model.SerializeToString())
        quantize_dynamic(
            str(folded),
            str(quantised),
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Attention", "Gemm"],
            extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
        made = onnx.load(str(quantised))
    if ranges:
        _fix_scales(made, ranges)
    out.write_bytes(made.SerializeToString(deterministic=True))


def _fix_scales(model: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """What measured a tensor's range in each batch becomes a quantisation by a constant scale and zero point (uint8)."""
    graph, nodes = model.graph, []
    for node in graph.node:
        if node.op_type != "DynamicQuantizeLinear" or node.input[0] not in ranges:
            nodes.append(node)
            continue
        low, high = min(0.0, ranges[node.input[0]][0]), max(0.0, ranges[node.input[0]][1])
        scale = max(high - low, 1e-6) / 255
        quantised, scale_name, zero_name = node.output
        graph.initializer.append(numpy_helper.from_array(np.array(scale, dtype=np.float32), scale_name))
        graph.initializer.append(numpy_helper.from_array(np.array(round(-low / scale), dtype=np.uint8), zero_name))
        inputs = [node.input[0], scale_name, zero_name]
        nodes.append(helper.make_node("QuantizeLinear", inputs, [quantised], name=node.name))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def drop_outputs(source: Path, out: Path, names: Collection[str]) -> None:
    """The same graph without these outputs, and without whatever no other output needs."""
    model = onnx.load(str(source))
    graph = model.graph
    outputs = [output for output in graph.output if output.name not in names]
    needed = {output.name for output in outputs}
    nodes = []
    for node in reversed(graph.node):  # nodes stand in the order of computation
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, kept in ((graph.output, outputs), (graph.node, reversed(nodes)), (graph.initializer, initializers)):
        copies = [type(one).FromString(one.SerializeToString()) for one in kept]
        del field[:]
        field.extend(copies)
    out.write_bytes(model.SerializeToString(deterministic=True))


def _fold(model: Any) -> None:
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.name.endswith(_SUFFIX)}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            tensor = stored[node.input[0]]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


@contextlib.contextmanager
def _silence() -> Any:
    """The quantiser advises on the root logger and on stdout to prepare the model; it is prepared."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
