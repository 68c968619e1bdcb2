"""Evaluating from a shell: the agreed keys, the page and its JSON, and calls that contradict themselves."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from monitor.errors import Fatal
from monitor.lab import evaluate, faithful, peers
from monitor.learning import peers as others
from monitor.settings import Settings, load_settings
from tests.builders import tiny_bundle
from tests.unit.test_learning import rows_of


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    base = load_settings(Path("configs/default.toml"))
    update = {"precision": "fp32", "cache_dir": tmp_path / "cache", "threads": 1}
    return base.model_copy(update={"bundle": base.bundle.model_copy(update=update)})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [msgspec.structs.replace(row, source="phrases" if row.mentions else row.source) for row in rows_of(40)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def test_an_evaluation_has_the_agreed_keys_and_says_which_head_judged(
    settings: Settings, bundle: Path, data: Path, tmp_path: Path
) -> None:
    figures = evaluate(settings, data, bundle=bundle, before=bundle, report=tmp_path / "page.html")
    assert set(figures) == {"sentiment", "mentions", "topic", "events", "evidence", "conventions"}
    wanted = {"n", "accuracy", "macro_f1", "per_class", "ece"}
    assert wanted <= set(figures["mentions"])
    assert set(figures["mentions"]["per_class"]["negative"]) == {"precision", "recall", "f1", "support"}
    assert figures["conventions"]["phrases"]["mention"] == {"head": "phrase", "by": "source"}
    served = evaluate(settings, data, bundle=bundle, convention="serve")
    assert served["conventions"]["phrases"]["mention"] == {"head": "company", "by": "serve"}
    assert served["mentions"] != figures["mentions"]
    assert "Evaluation on rows.jsonl" in (tmp_path / "page.html").read_text("utf-8")
    found = json.loads((tmp_path / "page.json").read_text("utf-8"))
    assert found["figures"]["mentions"] == found["before"]["mentions"] == figures["mentions"]


def test_two_ideas_of_before_are_a_fault(settings: Settings, bundle: Path, data: Path) -> None:
    with pytest.raises(Fatal, match="either --before or --fit"):
        evaluate(settings, data, bundle=bundle, before=bundle, fit=[data])


def test_peers_are_judged_on_the_same_rows_of_the_test_split(
    settings: Settings, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word lists and the encoder stand in for themselves here; the bag of words is fitted on the training split."""
    for name in ("finance_vader", "loughran_mcdonald"):
        monkeypatch.setattr(others, name, lambda: others.Lexicon(lambda text: 1.0 if "soars" in text else -1.0))
    monkeypatch.setattr(others, "FrozenEncoder", others.BagOfWords)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows_of(160)))
    told: list[str] = []
    found = peers(settings, [path], bundle=bundle, say=told.append)
    assert told == list(found["mentions"]) == list(found["sentiment"])
    assert len({figures["n"] for figures in found["mentions"].values()}) == 1
    assert (
        found["mentions"]["loughran_mcdonald"]["n"] + found["sentiment"]["loughran_mcdonald"]["n"] == found["test_rows"]
    )
    assert found["mentions"]["vader_finance"]["accuracy"] > 0.7  # the second word decides, others are drawn at random


def test_faithfulness_asks_toned_companies_alone(settings: Settings, bundle: Path, data: Path) -> None:
    found = faithful(settings, data, bundle=bundle, mentions_max=3)
    assert found["mentions"] == 3
    assert set(found["by_share"]) == {"5%", "10%", "20%", "50%"}
    assert found["aopc"] >= found["aopc_random"] - 1e-3
    only_topics = data.with_name("topics.jsonl")
    only_topics.write_text('{"text": "Tesla soars", "topic": "markets"}\n')
    with pytest.raises(Fatal, match="no row judges a company"):
        faithful(settings, only_topics, bundle=bundle, mentions_max=3)
