"""From a training run to a bundle that answers, and the bundle that comes with the product."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from exporters.bundle import export_bundle
from monitor.errors import Fatal
from monitor.intake import clean
from monitor.lab import export
from monitor.learning.evaluate import evaluate
from monitor.learning.finish import finish_run, read_finished
from monitor.learning.rows import LabelledMention, LabelledRow, splits_of
from monitor.learning.served import ServedModel
from monitor.learning.train import train
from monitor.registry import SHIPPED, engine_file, load_bundle
from monitor.scoring import OnnxEngine, Scorer
from monitor.scoring.evidence import answer_spans
from tests.builders import tiny_base
from tests.unit.test_learning import recipe_of, rows_of

MEGABYTES_MAX = 60


def served(folder: Path | None, cache: Path) -> ServedModel:
    bundle = load_bundle(folder)
    engine = OnnxEngine(engine_file(bundle, "fp32", cache, every_convention=True), threads=1)
    return ServedModel(Scorer(bundle, engine, clean=clean), clean=clean, answer_spans=answer_spans)


def test_a_finished_run_becomes_a_bundle_with_the_same_figures(tmp_path: Path) -> None:
    """The network's figures, calibrated, are those of the exported bundle on the same rows."""
    rows, run = rows_of(), tmp_path / "run"
    train(rows, recipe_of(tiny_base(tmp_path / "base")), run)
    finished = finish_run(run, rows)
    assert read_finished(run) == finished
    export_bundle(
        run / "best",
        tmp_path / "bundle",
        name=finished.name,
        calibration=finished.calibration,
        metrics=finished.metrics,
        card=finished.card,
        data_fingerprint=finished.data_fingerprint,
    )
    test_rows = [row for row, side in zip(rows, splits_of(rows), strict=True) if side == "test"]
    found = evaluate(test_rows, served(tmp_path / "bundle", tmp_path / "cache"))
    for task in ("sentiment", "mentions", "topic"):
        if task in finished.metrics["test"]:
            assert found[task]["accuracy"] == pytest.approx(finished.metrics["test"][task]["accuracy"]), task
    assert "| tfns | 40 | MIT |" in (tmp_path / "bundle" / "card.md").read_text()


def test_every_convention_is_calibrated_and_judged_by_its_own_head(tmp_path: Path) -> None:
    """The bundle's answers, by source, have the figures that were measured on the network."""
    rows, run = rows_of(), tmp_path / "run"
    rows += [msgspec.structs.replace(row, source="phrases") for row in rows if row.mentions]
    recipe = recipe_of(tiny_base(tmp_path / "base"), data={"mention_heads": {"sentfin": "company", "phr*": "phrase"}})
    train(rows, recipe, run)
    finished = finish_run(run, rows)
    conventions = finished.calibration["conventions"]["mention"]
    assert conventions["phrase"]["sources"] == ["phr*"]
    assert conventions["phrase"]["temperature"] != conventions["company"]["temperature"]
    export(run, tmp_path / "bundle")
    judged = served(tmp_path / "bundle", tmp_path / "cache")
    for source in ("sentfin", "phrases"):
        chosen = [r for r, s in zip(rows, splits_of(rows), strict=True) if s == "test" and r.source == source]
        wanted = finished.metrics["test_by_source"][source]["mentions"]
        assert evaluate(chosen, judged)["mentions"]["accuracy"] == pytest.approx(wanted["accuracy"])
    assert "| phrases | company |" in (tmp_path / "bundle" / "card.md").read_text()


def test_other_rows_than_those_trained_on_are_refused(tmp_path: Path) -> None:
    rows, run = rows_of(), tmp_path / "run"
    train(rows, recipe_of(tiny_base(tmp_path / "base"), run={"epochs": 1}), run)
    with pytest.raises(Fatal, match="trained on other rows"):
        finish_run(run, rows[:-3])


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="not the folder of a finished training run"):
        finish_run(tmp_path, rows_of())
    with pytest.raises(Fatal, match=r"finished\.json: missing or damaged"):
        read_finished(tmp_path)


def test_the_shipped_bundle_is_small_enough_and_says_what_it_learned_from() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= MEGABYTES_MAX * 1_000_000
    card = (SHIPPED / "card.md").read_text("utf-8")
    for source in ("tfns", "sentfin", "fiqa-post", "sentivent", "sentifm", "tfn-topic", "stockemotions"):
        assert f"| {source} |" in card
    assert "known failures" in card


def test_the_shipped_bundle_is_right_on_plain_sentences(tmp_path: Path) -> None:
    """Sentences of our own that nobody would argue about."""
    rows = [
        _row("Harrow Foods shares plunge after the company cuts its profit forecast", ("Harrow Foods", "negative")),
        _row("Velmont Bank posts record quarterly profit, raises dividend", ("Velmont Bank", "positive")),
        _row("Kestrel Motors to hold its annual meeting on Thursday", ("Kestrel Motors", "neutral")),
    ]
    assert evaluate(rows, served(None, tmp_path))["mentions"]["accuracy"] == 1.0


def test_the_shipped_bundle_ranks_a_winner_above_a_loser_in_one_sentence(tmp_path: Path) -> None:
    """Only the order is held: the label of the second company is a known failure, which the card names."""
    row = _row(
        "Orrin Steel jumps 9% while rival Tarn Metals tumbles 12%",
        ("Orrin Steel", "positive"),
        ("Tarn Metals", "negative"),
    )
    winner, loser = served(None, tmp_path)([row]).predictions[0].mentions
    assert winner.polarity > loser.polarity + 0.3
    assert "opposite fates" in (SHIPPED / "card.md").read_text("utf-8")


def _row(text: str, *companies: tuple[str, str]) -> LabelledRow:
    return LabelledRow(
        text=text,
        mentions=tuple(
            LabelledMention(target=name, start=text.index(name), end=text.index(name) + len(name), label=label)
            for name, label in companies
        ),
    )
