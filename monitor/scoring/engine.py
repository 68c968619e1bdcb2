"""The one way to the model: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from monitor.errors import Fatal

Arrays = Mapping[str, NDArray[Any]]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Engine(Protocol):
    """`run` takes input_ids, attention_mask int64 [B, T], mention_document int64 [M], mention_mask float32 [M, T]."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]: ...


class OnnxEngine:
    """ONNX Runtime on one provider. Asked for CUDA it runs on CUDA or refuses: never a silent fall-back."""

    def __init__(self, graph: Path, *, provider: Literal["cpu", "cuda"] = "cpu", threads: int = 0) -> None:
        """`threads` 0: one per core. Raises Fatal when the provider isn't there or the graph can't be loaded."""
        import onnxruntime

        name = _PROVIDERS[provider]
        if name not in onnxruntime.get_available_providers():
            raise Fatal(
                f"bundle.provider = {provider!r}: this onnxruntime has {', '.join(onnxruntime.get_available_providers())}; "
                "install tapewatch[gpu] instead of tapewatch[cpu], with its CUDA libraries, or say cpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # A pattern is a plan of memory for one shape, kept for ever, in one piece: but nearly every batch is of a new shape.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other roles need the cores too
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=[name])
        except Exception as err:
            raise Fatal(f"{graph}: ONNX Runtime can't load it: {str(err).splitlines()[0][:200]}") from err
        if self._session.get_providers()[0] != name:
            raise Fatal(
                f"bundle.provider = {provider!r}: the session runs on {self._session.get_providers()[0]} instead; "
                "CUDA or cuDNN libraries are missing or of another version"
            )
        self._run_options = onnxruntime.RunOptions()
        if provider == "cuda":
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def outputs(self) -> list[str]:
        return list(self._outputs)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        answers = self._session.run(self._outputs, dict(inputs), self._run_options)
        return dict(zip(self._outputs, answers, strict=True))

    def warm_up(self) -> None:
        """The first run allocates; do it before traffic comes."""
        ids = np.full((2, 16), 1, dtype=np.int64)
        mask = np.zeros((2, 16), dtype=np.float32)
        self.run(
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "mention_document": np.array([0, 1], dtype=np.int64),
                "mention_mask": mask,
            }
        )
