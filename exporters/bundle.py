"""A folder that can be served: graph, tokenizer, card, and a manifest that says what everything is. No pickle anywhere."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from exporters.activations import Text, activation_ranges
from exporters.errors import ExportError
from exporters.graph import export_graph
from exporters.network import EVIDENCE, SENTIMENT, TOKENIZER_FILE, NetworkSpec, load_run, output_of
from exporters.parity import check_parity
from exporters.precision import to_fp16, to_fp16_storage

FORMAT = 1
INT8_MACRO_F1_LOST_MAX = 0.01
Judge = Callable[[Path], Mapping[str, float]]
STRAIGHT = {"knots_x": [-1.0, 1.0], "knots_y": [-1.0, 1.0]}
MANIFEST, GRAPH, CARD = "manifest.json", "model.onnx", "card.md"


def export_bundle(
    run: Path,
    out: Path,
    *,
    name: str,
    calibration: Mapping[str, Any],
    metrics: Mapping[str, Any],
    card: str,
    data_fingerprint: str,
    texts: Sequence[Text] = (),
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Write the bundle of the training run in `run` to the new folder `out`; returns the manifest.

    `calibration`: {"document": {"temperature"}, "mention": {"temperature", "abstain_below"}, "topic": {"temperature"},
    "events": {"thresholds"}, "evidence": {"threshold"}, "polarity": {"knots_x", "knots_y"}, "conventions": {"document" or
    "mention": {head: {"sources", "temperature", "polarity"}}}}; what is left out is neutral. The same inputs give the same bytes. Raises ExportError; `out` is there whole or not at all.
    """
    if out.exists():
        raise ExportError(f"{out}: exists already; a bundle is never overwritten, name another folder")
    try:
        network = load_run(run)
    except (FileNotFoundError, ValueError) as err:
        raise ExportError(str(err)) from err
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        full = work / "full.onnx"
        export_graph(network, full)
        parity = {"fp32": check_parity(network, full, tolerance=1e-3)}
        to_fp16_storage(full, work / GRAPH)
        parity["stored"] = check_parity(network, work / GRAPH, tolerance=0.1)
        half = work / "half.onnx"
        to_fp16(work / GRAPH, half)
        parity["fp16"] = check_parity(network, half, tolerance=0.1)
        spec = network.spec
        ranges = (
            activation_ranges(full, run / TOKENIZER_FILE, texts, tokens_max=spec.tokens_max, pad_id=spec.pad_id)
            if texts
            else {}
        )
        full.unlink()
        half.unlink()
        shutil.copyfile(run / TOKENIZER_FILE, work / TOKENIZER_FILE)
        (work / CARD).write_text(card, "utf-8")
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "name": name,
            "base_model": network.spec.base_model,
            "hidden": network.spec.hidden,
            "tokens_max": network.spec.tokens_max,
            "pad_id": network.spec.pad_id,
            "heads": _heads(network.spec, calibration),
            "polarity": dict(calibration.get("polarity", STRAIGHT)),
            "conventions": _conventions(network.spec, calibration.get("conventions", {})),
            "data_fingerprint": data_fingerprint,
            "code_fingerprint": code_fingerprint(),
            "metrics": dict(metrics),
            "parity": {
                precision: {key: round(value, 6) for key, value in found.items()} for precision, found in parity.items()
            },
            "activations": {name: list(limits) for name, limits in ranges.items()},
            "files": {file: _digest(work / file) for file in (CARD, GRAPH, TOKENIZER_FILE)},
        }
        _write(work / MANIFEST, manifest)
        if judge is not None:
            manifest["parity"]["int8"] = _int8(judge(work))
            _write(work / MANIFEST, manifest)
        work.chmod(0o755)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return manifest


def code_fingerprint() -> str:
    """sha256 over the exporters themselves: which code made a bundle."""
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _int8(macro_f1: Mapping[str, float]) -> dict[str, float]:
    lost = macro_f1["fp32"] - macro_f1["int8"]
    if lost > INT8_MACRO_F1_LOST_MAX:
        raise ExportError(
            f"parity int8: macro F1 is {macro_f1['int8']:.4f}, at fp32 {macro_f1['fp32']:.4f}; "
            f"at most {INT8_MACRO_F1_LOST_MAX} less is allowed"
        )
    return {f"macro_f1_{precision}": round(value, 4) for precision, value in macro_f1.items()}


def _write(path: Path, manifest: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")


def _heads(spec: NetworkSpec, calibration: Mapping[str, Any]) -> dict[str, Any]:
    heads: dict[str, Any] = {}
    if spec.serve_document:
        heads["document"] = {"labels": SENTIMENT, "temperature": 1.0, **calibration.get("document", {})}
    if spec.serve_mention:
        heads["mention"] = {
            "labels": SENTIMENT,
            "temperature": 1.0,
            "abstain_below": 0.0,
            **calibration.get("mention", {}),
        }
    if spec.topics:
        heads["topic"] = {"labels": spec.topics, "temperature": 1.0, **calibration.get("topic", {})}
    if spec.events:
        heads["events"] = {
            "labels": spec.events,
            "thresholds": [0.5] * len(spec.events),
            **calibration.get("events", {}),
        }
    if spec.evidence:
        heads["evidence"] = {"labels": EVIDENCE, "threshold": 0.5, **calibration.get("evidence", {})}
    return heads


def _conventions(spec: NetworkSpec, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Task → head → the output that it answers on, the sources whose convention it is, and its own calibration."""
    found: dict[str, Any] = {}
    for task, heads in (("document", spec.document_heads), ("mention", spec.mention_heads)):
        for head in heads:
            own = {"sources": [], "temperature": 1.0, "polarity": STRAIGHT, **calibration.get(task, {}).get(head, {})}
            found.setdefault(task, {})[head] = {"output": output_of(spec, task, head), **own}
    return found


def _digest(path: Path) -> dict[str, Any]:
    blob = path.read_bytes()
    return {"sha256": sha256(blob).hexdigest(), "bytes": len(blob)}
