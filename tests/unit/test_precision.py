"""What an int8 engine promises: fixed scales where the bundle has them, and no bundle whose int8 judges worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from exporters.bundle import export_bundle
from exporters.errors import ExportError
from exporters.precision import to_int8
from monitor.intake import clean
from monitor.records import Document, LinkedEntity, Span
from monitor.registry import engine_file, load_bundle
from monitor.scoring import OnnxEngine, Scorer
from tests.builders import tiny_bundle, tiny_run


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def documents() -> list[tuple[Document, tuple[LinkedEntity, ...]]]:
    texts = [
        "Tesla soars",
        "Tesla misses its profit after the fraud on shares",
        "Tesla",
        "Tesla wins a record of the bank",
    ]
    return [
        (
            Document(id=str(i), source="s", channel="news", published_at_ms=0, title=text),
            (LinkedEntity(entity="TSLA", spans=(Span(start=0, end=5),), cue="name"),),
        )
        for i, text in enumerate(texts)
    ]


def test_an_int8_score_does_not_hang_on_its_neighbours(bundle_folder: Path, tmp_path: Path) -> None:
    """Bit for bit the same alone and in company: what fires live fires in a backtest."""
    bundle = load_bundle(bundle_folder)
    scorer = Scorer(bundle, OnnxEngine(engine_file(bundle, "int8", tmp_path), threads=1), clean=clean)
    units = scorer.units([clean(d.text) for d, _ in documents()], [entities for _, entities in documents()])
    together = scorer.answer(units)
    for row, unit in enumerate(units):
        alone = scorer.answer([unit])
        for name in ("document_logits", "mention_logits", "topic_logits", "event_logits"):
            np.testing.assert_array_equal(alone[name][0], together[name][row], err_msg=name)


def test_without_ranges_the_scales_are_measured_in_each_batch(bundle_folder: Path, tmp_path: Path) -> None:
    """Bundles of before had none; their engines are as they were."""
    bundle = load_bundle(bundle_folder)
    fixed = onnx.load(engine_file(bundle, "int8", tmp_path / "cache"))
    to_int8(bundle.graph, tmp_path / "dynamic.onnx")
    dynamic = onnx.load(tmp_path / "dynamic.onnx")
    measured = [sum(n.op_type == "DynamicQuantizeLinear" for n in model.graph.node) for model in (fixed, dynamic)]
    assert measured[0] == 0
    assert measured[1] >= 12


def test_a_bundle_whose_int8_judges_worse_is_not_made(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    given = {"name": "t", "calibration": {}, "metrics": {}, "card": "", "data_fingerprint": "0"}
    with pytest.raises(ExportError, match=r"parity int8: macro F1 is 0\.7800, at fp32 0\.8000"):
        export_bundle(run, tmp_path / "bad", **given, judge=lambda _folder: {"fp32": 0.80, "int8": 0.78})  # type: ignore[arg-type]
    assert not (tmp_path / "bad").exists()
    asked: list[Path] = []

    def judge(folder: Path) -> dict[str, float]:
        asked.append(load_bundle(folder).graph)  # what is judged is a whole bundle already
        return {"fp32": 0.80, "int8": 0.795}

    manifest = export_bundle(run, tmp_path / "good", **given, judge=judge)  # type: ignore[arg-type]
    assert manifest["parity"]["int8"] == {"macro_f1_fp32": 0.8, "macro_f1_int8": 0.795}
    assert set(manifest["parity"]) == {"fp32", "stored", "fp16", "int8"}
    assert len(asked) == 1
