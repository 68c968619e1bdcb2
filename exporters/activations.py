"""How large the values inside a network become, measured on real texts: the fixed scales of its int8 engine.

With scales that are measured anew in every batch, a text's score hangs on its neighbours in the batch, and what fired live
need not fire in a backtest. With fixed scales it does not, to the last bit, at the same speed and agreement with fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

_TEXTS_A_BATCH = 16

Text = tuple[str, Sequence[tuple[int, int]]]  # a cleaned text and the character spans of what is judged in it
Ranges = dict[str, tuple[float, float]]  # tensor → smallest and largest value


def activation_ranges(
    graph: Path, tokenizer_file: Path, texts: Sequence[Text], *, tokens_max: int, pad_id: int
) -> Ranges:
    """Of the left side of every matrix product with fixed weights, over `texts`; `graph` computes in fp32."""
    model = onnx.load(str(graph))
    names = quantised_inputs(model)
    shown = {output.name for output in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in shown
    )
    session = cpu_session(model.SerializeToString())
    low, high = np.zeros(len(names)), np.zeros(len(names))
    for feed in _feeds(tokenizer_file, texts, tokens_max=tokens_max, pad_id=pad_id):
        values = session.run(names, feed)
        low = np.minimum(low, [float(v.min()) for v in values])
        high = np.maximum(high, [float(v.max()) for v in values])
    return {name: (round(float(a), 4), round(float(b), 4)) for name, a, b in zip(names, low, high, strict=True)}


def cpu_session(graph: str | bytes) -> Any:
    """A session that leaves the other cores to others: waiting threads don't spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def quantised_inputs(model: Any) -> list[str]:
    """The tensors that int8 quantisation measures: first inputs of products whose second input is a constant."""
    constant = {tensor.name for tensor in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type in {"MatMul", "Attention", "Gemm"} and n.input[1] in constant]
    return list(dict.fromkeys(node.input[0] for node in products))


def _feeds(
    tokenizer_file: Path, texts: Sequence[Text], *, tokens_max: int, pad_id: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Batches of texts of like length, as in service."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(tokens_max)
    encodings = tokenizer.encode_batch([text for text, _ in texts])
    order = sorted(range(len(texts)), key=lambda i: (len(encodings[i].ids), i))
    for start in range(0, len(order), _TEXTS_A_BATCH):
        chosen = order[start : start + _TEXTS_A_BATCH]
        width = len(encodings[chosen[-1]].ids)
        ids = np.full((len(chosen), width), pad_id, dtype=np.int64)
        mask = np.zeros((len(chosen), width), dtype=np.int64)
        owners, masks = [], []
        for row, index in enumerate(chosen):
            encoding = encodings[index]
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
            for span in texts[index][1] or [(0, 0)]:
                inside = [a < b and a < span[1] and b > span[0] for a, b in encoding.offsets]
                owners.append(row)
                masks.append(np.pad(np.array(inside, dtype=np.float32), (0, width - len(inside))))
        yield {
            "input_ids": ids,
            "attention_mask": mask,
            "mention_document": np.array(owners, dtype=np.int64),
            "mention_mask": np.stack(masks),
        }
