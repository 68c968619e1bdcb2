"""Sources disagree about what neutral means: each convention has a head, a bundle carries all, service computes one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporters.errors import ExportError
from exporters.graph import export_graph
from exporters.network import Network, empty_encoder, load_run, output_names
from exporters.parity import _alike, check_parity
from monitor.errors import Fatal
from monitor.intake import clean
from monitor.learning.rows import LabelledMention, LabelledRow
from monitor.learning.served import ServedModel, conventions_of
from monitor.registry import engine_file, load_bundle
from monitor.scoring import OnnxEngine, Scorer
from monitor.scoring.evidence import answer_spans
from tests.builders import tiny_bundle


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def model_of(folder: Path, cache: Path, **options: str) -> ServedModel:
    bundle = load_bundle(folder)
    engine = OnnxEngine(engine_file(bundle, "fp32", cache, every_convention=True), threads=1)
    return ServedModel(Scorer(bundle, engine, clean=clean), clean=clean, answer_spans=answer_spans, **options)  # type: ignore[arg-type]


def row(source: str) -> LabelledRow:
    mention = LabelledMention(target="Tesla", start=0, end=5, label="positive", score=0.5)
    return LabelledRow(text="Tesla soars after its record profit", source=source, label="positive", mentions=(mention,))


def test_a_row_is_judged_by_the_head_of_its_own_convention(bundle_folder: Path, tmp_path: Path) -> None:
    """Another head, its own temperature and knots; a source that nobody knows is judged as in service."""
    rows = [row("phrases-2020"), row("names"), row("elsewhere")]
    phrases, names, elsewhere = (p.mentions[0] for p in model_of(bundle_folder, tmp_path)(rows).predictions)
    assert names == elsewhere
    assert phrases.probabilities != pytest.approx(names.probabilities, abs=1e-3)
    raw = phrases.probabilities[2] - phrases.probabilities[0]
    assert phrases.polarity == pytest.approx(0.5 * raw)
    served = model_of(bundle_folder, tmp_path, convention="serve")(rows).predictions
    assert all(p.mentions[0] == names for p in served)


def test_it_is_told_which_head_judged_which_source(bundle_folder: Path, tmp_path: Path) -> None:
    told = conventions_of(model_of(bundle_folder, tmp_path), [row("phrases-2020"), row("elsewhere")])
    assert told == {
        "elsewhere": {
            "document": {"head": "news", "by": "serve"},
            "mention": {"head": "company", "by": "serve"},
        },
        "phrases-2020": {
            "document": {"head": "news", "by": "serve"},
            "mention": {"head": "phrase", "by": "source"},
        },
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_service_does_not_compute_the_heads_that_it_does_not_ask(
    bundle_folder: Path, tmp_path: Path, precision: str
) -> None:
    """The engine of service has neither the outputs nor the weights of the other conventions, and says the same."""
    import onnx

    bundle = load_bundle(bundle_folder)
    assert bundle.other_outputs == ("mention_logits_phrase",)
    served, every = (engine_file(bundle, precision, tmp_path, every_convention=asked) for asked in (False, True))
    assert served != every
    small, whole = onnx.load(served), onnx.load(every)
    assert len(small.graph.node) < len(whole.graph.node)
    assert not any("mention.phrase" in tensor.name for tensor in small.graph.initializer)
    feed = {
        "input_ids": np.array([[2, 5, 6, 3]]),
        "attention_mask": np.ones((1, 4), dtype=np.int64),
        "mention_document": np.array([0]),
        "mention_mask": np.array([[0, 1, 0, 0]], dtype=np.float32),
    }
    one, other = OnnxEngine(served, threads=1).run(feed), OnnxEngine(every, threads=1).run(feed)
    assert set(other) - set(one) == {"mention_logits_phrase"}
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], atol=1e-6)


def test_a_bundle_from_before_conventions_still_answers(bundle_folder: Path, tmp_path: Path) -> None:
    """Its manifest says nothing of them: all rows by the served heads, and that is told."""
    for file in bundle_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["conventions"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    model = model_of(tmp_path, tmp_path / "cache")
    phrases, names = (p.mentions[0] for p in model([row("phrases"), row("names")]).predictions)
    assert phrases == names
    assert conventions_of(model, [row("names")])["names"]["mention"] == {"head": "served", "by": "serve"}


def test_a_convention_without_its_output_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    for file in bundle_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace("mention_logits_phrase", "mention_logits_social"))
    with pytest.raises(Fatal, match=r"no output mention_logits_social, which conventions\.mention\.phrase names"):
        load_bundle(tmp_path)


def test_parity_covers_every_convention_and_names_what_is_wrong(bundle_folder: Path, tmp_path: Path) -> None:
    """A graph of the same network but for one unserved head."""
    import torch

    network = load_run(bundle_folder.parent / "tiny-run")
    export_graph(network, tmp_path / "graph.onnx")
    assert check_parity(network, tmp_path / "graph.onnx", tolerance=1e-3)["decisions_equal"] == 1.0
    with torch.no_grad():
        network.mention["phrase"][-1].bias.add_(1.0)
    with pytest.raises(ExportError, match=r"parity values: mention_logits_phrase at .* differs by 1"):
        check_parity(network, tmp_path / "graph.onnx", tolerance=1e-3)


def test_parity_names_missing_outputs_and_fixed_axes(bundle_folder: Path, tmp_path: Path) -> None:
    import onnx

    network = load_run(bundle_folder.parent / "tiny-run")
    model = onnx.load(bundle_folder / "model.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(ExportError, match="parity axes: axis 0 of document_logits is 3, should be free"):
        check_parity(network, tmp_path / "fixed.onnx", tolerance=1e-3)
    del model.graph.output[-1]
    onnx.save(model, tmp_path / "lacking.onnx")
    with pytest.raises(ExportError, match=r"parity names: outputs lack \['mention_logits_phrase'\]"):
        check_parity(network, tmp_path / "lacking.onnx", tolerance=1e-3)


def test_parity_judges_decisions_apart_from_values(bundle_folder: Path, tmp_path: Path) -> None:
    """Within the tolerance of values, but deciding otherwise: still refused."""
    import torch

    network = load_run(bundle_folder.parent / "tiny-run")
    export_graph(network, tmp_path / "graph.onnx")
    with torch.no_grad():
        network.mention["company"][-1].bias.add_(torch.tensor([2.0, 0.0, -2.0]))
    with pytest.raises(ExportError, match="parity decisions: 0"):
        check_parity(network, tmp_path / "graph.onnx", tolerance=3.0)


def test_a_head_whose_name_is_no_identifier_is_not_exported(bundle_folder: Path, tmp_path: Path) -> None:
    spec = replace(load_run(bundle_folder.parent / "tiny-run").spec, mention_heads=("company", "twitter posts"))
    assert "mention_logits_twitter posts" in output_names(spec)
    with pytest.raises(ExportError, match="mention_logits_twitter posts can't name an output"):
        export_graph(Network(empty_encoder(spec), spec), tmp_path / "graph.onnx")


def test_a_tie_may_fall_either_way_and_a_decision_may_not() -> None:
    network = np.array([[1.0, 0.995, 0.0], [1.0, 0.9, 0.0], [0.0, 0.0, 2.0]], dtype=np.float32)
    graph = np.array([[0.99, 1.0, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 2.1]], dtype=np.float32)
    assert _alike("mention_logits_phrase", network, graph) == (2, 3)
    assert _alike("event_logits", np.array([[0.01, 0.3]]), np.array([[-0.01, -0.3]])) == (1, 2)
    assert _alike("embedding", network, graph) == (0, 0)
