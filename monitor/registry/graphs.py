"""What a graph may be made of: everything within its own file, and operators that the runtime ships. Checked before a runtime
sees it, in every graph that it has, those inside of its nodes as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from monitor.errors import Fatal

_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_GRAPHS_MAX = 1_000


def read_graph(path: Path) -> Any:
    """The model proto, checked. Raises Fatal for one that reads other files, brings operators of its own, or is none."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as err:  # protobuf's own errors have no common base
        raise Fatal(f"{path}: not an ONNX graph ({type(err).__name__})") from err
    foreign = {imported.domain for imported in model.opset_import}
    if model.functions or model.training_info:
        raise Fatal(f"{path}: local functions and training graphs are not allowed")
    for graph in _graphs(path, model.graph):
        for tensor in _tensors(graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                raise Fatal(f"{path}: {tensor.name[:100]!r} lies outside of the file; such graphs are not loaded")
        foreign |= {node.domain for node in graph.node}
    foreign -= _DOMAINS
    if foreign:
        raise Fatal(f"{path}: operators of {', '.join(sorted(foreign))[:200]!r} are not allowed")
    return model


def _graphs(path: Path, outermost: Any) -> Iterator[Any]:
    """The graph and all that its nodes carry (If, Loop, Scan), without recursion: a file may nest as deep as it likes."""
    waiting, seen = [outermost], 0
    while waiting:
        graph = waiting.pop()
        seen += 1
        if seen > _GRAPHS_MAX:
            raise Fatal(f"{path}: more than {_GRAPHS_MAX} graphs inside of each other")
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        yield graph


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor that a graph holds, wherever it may be written."""
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            sparse += [
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            ]
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices
