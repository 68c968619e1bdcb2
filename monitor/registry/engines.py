"""The engine file of this machine: made once from the bundle's graph, cached under its hash, checked when used again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from monitor.errors import Fatal
from monitor.registry.bundles import Bundle
from monitor.registry.graphs import read_graph


def engine_file(
    bundle: Bundle, precision: str, cache_dir: Path | None = None, *, every_convention: bool = False
) -> Path:
    """fp32, fp16 or int8 graph for `bundle`. Raises Fatal when it can't be made or stored.

    The heads of conventions that are not served are cut away, unless `every_convention` is asked for, to evaluate.
    """
    import onnxruntime

    from exporters import precision as precisions

    int8 = partial(precisions.to_int8, ranges=bundle.activations)
    makers: dict[str, Callable[[Path, Path], None]] = {
        "fp32": precisions.to_fp32,
        "fp16": precisions.to_fp16,
        "int8": int8,
    }
    folder = cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tapewatch"
    cut = () if every_convention else bundle.other_outputs
    kind = precision if cut or not bundle.other_outputs else f"{precision}-all"
    path = folder / f"{bundle.fingerprint[:16]}-{kind}-ort{onnxruntime.__version__}.onnx"
    seal = path.with_suffix(".sha256")
    if path.is_file() and seal.is_file() and seal.read_text() == sha256(path.read_bytes()).hexdigest():
        read_graph(path)  # the seal tells damage, not intent: what lies in a cache is checked like any other graph
        return path
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            half = Path(work) / "engine.onnx"
            source = bundle.graph
            if cut:
                source = Path(work) / "served.onnx"
                precisions.drop_outputs(bundle.graph, source, cut)
            makers[precision](source, half)
            mark = Path(work) / "engine.sha256"
            mark.write_text(sha256(half.read_bytes()).hexdigest())
            half.replace(path)
            mark.replace(seal)
    except OSError as err:
        raise Fatal(f"{folder}: the engine can't be stored ({err.strerror}); set [bundle] cache_dir") from err
    return path
