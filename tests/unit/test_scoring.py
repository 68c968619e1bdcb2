"""Batches lose nothing; what is scored is what the bundle says; a bundle that is not whole is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.bundle import export_bundle
from exporters.errors import ExportError
from monitor.errors import Fatal
from monitor.intake import clean
from monitor.records import Document, LinkedEntity, Span
from monitor.registry import engine_file, load_bundle
from monitor.scoring import BatchPolicy, OnnxEngine, Scorer, ScorerPolicy, cut_batches, explain, faithfulness
from monitor.scoring.evidence import answer_spans, clause_around
from tests.builders import WordJudge, tiny_bundle


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def copied(bundle_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in bundle_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def scorer_of(folder: Path, cache: Path, precision: str = "fp32", **batch: int) -> Scorer:
    bundle = load_bundle(folder)
    engine = OnnxEngine(engine_file(bundle, precision, cache), threads=1)
    return Scorer(bundle, engine, clean=clean, policy=ScorerPolicy(batch=BatchPolicy(**batch)))


def article(title: str, body: str | None = None, number: int = 0) -> Document:
    return Document(id=str(number), source="s", channel="news", published_at_ms=0, title=title, body=body)


def named(text: str, name: str, entity: str = "X") -> LinkedEntity:
    at = text.index(name)
    return LinkedEntity(entity=entity, spans=(Span(start=at, end=at + len(name)),), cue="name")


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(64, 512), st.integers(1, 16))
def test_batches_hold_every_text_once_and_keep_the_budget(lengths: list[int], tokens: int, documents: int) -> None:
    batches = cut_batches(lengths, BatchPolicy(tokens_max=tokens, documents_max=documents))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        width = -(-max(lengths[i] for i in batch) // 8) * 8
        assert len(batch) == 1 or (len(batch) * width <= tokens and len(batch) <= documents)


def test_a_mention_is_judged_alike_alone_and_in_any_batch(bundle_folder: Path, tmp_path: Path) -> None:
    """Padding and neighbours must not move a score."""
    scorer = scorer_of(bundle_folder, tmp_path)
    texts = [
        "Apple soars after its record profit",
        "Tesla misses",
        "the bank of Nvidia loses its company shares on fraud",
    ]
    documents = [
        (article(t, number=i), (named(t, n),))
        for i, (t, n) in enumerate(zip(texts, ["Apple", "Tesla", "Nvidia"], strict=True))
    ]
    together = scorer.judge(documents, now_ms=1)
    for document, mentions in zip(documents, together, strict=True):
        alone = scorer.judge([document], now_ms=1)[0]
        assert [m.id for m in alone] == [m.id for m in mentions]
        assert alone[0].probabilities == pytest.approx(mentions[0].probabilities, abs=2e-4)


def test_a_company_named_far_down_a_long_text_gets_a_window_of_its_own(bundle_folder: Path, tmp_path: Path) -> None:
    scorer = scorer_of(bundle_folder, tmp_path)
    body = " ".join(["the shares of the bank"] * 60) + " and Tesla loses"
    document = article("Apple wins", body)
    entities = (named(document.text, "Apple", "AAPL"), named(document.text, "Tesla", "TSLA"))
    units = scorer.units([clean(document.text)], [entities])
    assert [len(unit.mentions) for unit in units] == [1, 1]
    assert units[1].mentions[0][1], "the window must hold the mention's own tokens"
    mentions = scorer.judge([(document, entities)], now_ms=1)[0]
    assert [m.entity for m in mentions] == ["AAPL", "TSLA"]


def test_quotes_are_cut_from_the_original_text(bundle_folder: Path, tmp_path: Path) -> None:
    scorer = scorer_of(bundle_folder, tmp_path)
    text = "Apple\u200b &amp; its bank: record profit https://example.com after loss"
    mention = scorer.judge([(article(text), (named(text, "Apple"),))], now_ms=1)[0][0]
    assert mention.evidence
    assert all(text[e.start : e.end].startswith(e.quote) for e in mention.evidence)


def test_int8_decides_as_fp32_does_on_most_rows(bundle_folder: Path, tmp_path: Path) -> None:
    documents = [
        (article(f"{a} {b} on {c}", number=i), ())
        for i, (a, b, c) in enumerate(
            (a, b, c) for a in ("apple", "tesla") for b in ("soars", "falls") for c in ("profit", "fraud")
        )
    ]
    linked = [(d, (LinkedEntity(entity="X", spans=(), cue="symbol"),)) for d, _ in documents]
    one, other = (
        [m[0].polarity for m in scorer_of(bundle_folder, tmp_path, precision).judge(linked, now_ms=1)]
        for precision in ("fp32", "int8")
    )
    assert one == pytest.approx(other, abs=0.1)


def test_every_word_but_the_company_is_explained(bundle_folder: Path, tmp_path: Path) -> None:
    scorer = scorer_of(bundle_folder, tmp_path)
    document = article("Apple soars on record profit")
    found = explain(document, named(document.title, "Apple"), lambda documents: scorer.judge(documents, now_ms=1))
    assert [a.word for a in found.attributions] == ["soars", "on", "record", "profit"]


def test_faithful_are_words_that_carry_the_judgement() -> None:
    """A judge of words: without "plunges" its judgement is gone; what it quotes is the whole text, so all goes with it."""
    judge = WordJudge()
    asked = [
        (article("Acme plunges on the news of the day", number=1), named("Acme plunges", "Acme")),
        (article("Acme up", number=2), named("Acme up", "Acme")),  # too short to test
    ]
    found = faithfulness(asked, lambda documents: judge.judge(documents, now_ms=1), rng=random.Random(5))
    assert found is not None
    assert found.mentions == 1
    assert found.aopc == pytest.approx(0.75)  # from 0.85 negative to 0.1
    assert found.aopc_random < 0.5
    assert found.evidence == pytest.approx(0.75)
    assert faithfulness(asked[1:], lambda documents: judge.judge(documents, now_ms=1), rng=random.Random(5)) is None


def test_answers_are_whole_words_and_the_strongest_comes_first() -> None:
    offsets = [(0, 0), (0, 4), (4, 7), (8, 11), (12, 15), (16, 20), (0, 0)]
    p = [[1, 0, 0], [0.1, 0.9, 0], [0.9, 0, 0.1], [0.9, 0.1, 0], [0.9, 0, 0.1], [0.4, 0.6, 0], [1, 0, 0]]
    import numpy as np

    assert answer_spans(np.array(p), offsets, threshold=0.5) == [(0, 7), (16, 20)]


def test_the_clause_around_a_mention_ends_at_its_marks() -> None:
    text = "First one. Apple fell sharply; others rose."
    a, b = clause_around(text, 11, 16)
    assert text[a:b] == "Apple fell sharply"


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json", "card.md"])
def test_a_changed_file_is_refused_by_name(copied: Path, file: str) -> None:
    with (copied / file).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(Fatal, match=rf"{file}: sha256 is"):
        load_bundle(copied)


def test_another_label_order_is_refused(copied: Path) -> None:
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["heads"]["mention"]["labels"].reverse()
    path.write_text(json.dumps(manifest))
    with pytest.raises(Fatal, match=r"heads\.mention\.labels is positive, neutral, negative"):
        load_bundle(copied)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"manifest\.json: can't be read"):
        load_bundle(tmp_path / "none")


def test_a_bundle_of_another_format_is_refused(copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(Fatal, match="format is 9"):
        load_bundle(copied)


def test_cuda_that_is_not_there_is_refused(bundle_folder: Path, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        OnnxEngine(engine_file(load_bundle(bundle_folder), "fp32", tmp_path), provider="cuda")
        return
    with pytest.raises(Fatal, match=r"tapewatch\[gpu\]"):
        OnnxEngine(engine_file(load_bundle(bundle_folder), "fp32", tmp_path), provider="cuda")


def test_a_spoiled_engine_in_the_cache_is_made_again(bundle_folder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(bundle_folder)
    path = engine_file(bundle, "int8", tmp_path)
    good = path.read_bytes()
    path.write_bytes(b"spoiled")
    assert engine_file(bundle, "int8", tmp_path).read_bytes() == good


def test_the_same_run_gives_the_same_bytes_and_never_overwrites(bundle_folder: Path, tmp_path: Path) -> None:
    again = tiny_bundle(tmp_path / "again")
    assert all((again / f.name).read_bytes() == f.read_bytes() for f in bundle_folder.iterdir())
    with pytest.raises(ExportError, match="never overwritten"):
        export_bundle(
            tmp_path / "again-run", again, name="tiny", calibration={}, metrics={}, card="", data_fingerprint="0"
        )
