"""A teacher's rows train and never judge; what resembles a validation or test text is left out."""

import json
from pathlib import Path

import pytest

from monitor import offline
from monitor.errors import Fatal
from monitor.learning.distil import choose, names_in, question, shares, soften
from monitor.learning.rows import LabelledMention, LabelledRow, licences, read_rows, splits_of
from monitor.records import Document, LinkedEntity, Span
from monitor.settings import load_settings
from tests.builders import WordJudge, tiny_run

HARD = [LabelledRow(text=f"firm w{n} told of x{n * 7} and y{n * 3} today", label="neutral") for n in range(200)]


def soft(text: str) -> LabelledRow:
    return LabelledRow(text=text, source="teacher", probabilities=(0.2, 0.5, 0.3))


def test_a_teachers_row_never_stands_where_people_judge() -> None:
    sides = splits_of(HARD)
    both = splits_of(HARD + [soft(row.text.replace("today", "yesterday")) for row in HARD])
    assert both[:200] == sides, "soft rows must not move the others"
    for side, softened in zip(sides, both[200:], strict=True):
        assert softened == ("train" if side == "train" else "left_out")


def linked(number: int, tone: str) -> tuple[Document, tuple[LinkedEntity, ...]]:
    document = Document(
        id=str(number), source="s", channel="news", published_at_ms=0, title=f"Acme {tone} number {number}"
    )
    return document, (LinkedEntity(entity="ACM", spans=(Span(start=0, end=4),), cue="name"),)


def test_half_of_the_chosen_texts_have_a_tone() -> None:
    pool = [linked(n, "falls" if n % 10 == 0 else "meets") for n in range(100)]
    judged = WordJudge().judge(pool, now_ms=0)
    toned = sum(any(abs(m.polarity) >= 0.3 for m in found) for found in judged)
    chosen = choose(pool, judged, rows_max=20)
    falls = sum("falls" in document.title for document, _ in chosen)
    assert (len(chosen), falls) == (20, min(10, toned))
    assert choose(pool, judged, rows_max=20) == chosen, "the same seed, the same texts"


def test_the_teacher_answers_for_the_text_and_for_each_company(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    rows = list(soften(run, [question(*linked(n, tone), licence="MIT") for n, tone in ((1, "falls"), (2, "rises"))]))
    assert [row.source for row in rows] == ["teacher", "teacher"]
    for row in rows:
        assert row.soft
        assert row.probabilities is not None
        assert sum(row.probabilities) == pytest.approx(1.0, abs=1e-3)
        assert [(m.target, m.start, m.end) for m in row.mentions] == [("Acme", 0, 4)]
        assert isinstance(row.mentions[0], LabelledMention)
        assert sum(row.mentions[0].probabilities or ()) == pytest.approx(1.0, abs=1e-3)


def test_a_folder_without_a_network_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"not the best network"):
        list(soften(tmp_path, [question(*linked(1, "falls"), licence="MIT")]))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Benue Cement says profit of Zenith rose", ["Benue Cement", "Zenith"]),
        ("$TSLA slips while $BRK.B holds, says Ann Lee", ["$TSLA", "$BRK.B"]),
        ("Smith & Wesson Holding Corp cuts its outlook", ["Smith & Wesson Holding", "Corp"]),
        ("oil falls 3% on $40 talk, a bank says", []),
    ],
)
def test_whoever_a_text_may_speak_of(text: str, names: list[str]) -> None:
    assert [text[e.spans[0].start : e.spans[0].end] for e in names_in(text)] == names


@pytest.mark.parametrize(
    ("pools", "rows_max", "given"),
    [([100, 5, 40], 60, [28, 5, 27]), ([10, 10], 100, [10, 10]), ([50, 50], 21, [10, 11]), ([], 5, [])],
)
def test_what_a_small_file_lacks_the_larger_ones_give(pools: list[int], rows_max: int, given: list[int]) -> None:
    assert shares(pools, rows_max) == given


def test_labelled_texts_may_be_asked_about_too(tmp_path: Path) -> None:
    """Targets of a row, companies of the watchlist, capitalised words: in this order; each text once, its own licence kept."""
    labelled, texts, out = tmp_path / "labelled.jsonl", tmp_path / "texts.jsonl", tmp_path / "soft.jsonl.gz"
    row = {"text": "silver futures slip", "license": "MIT", "mentions": [{"target": "silver", "start": 0, "end": 6}]}
    labelled.write_text(json.dumps(row) + "\n")
    said = ("Apple cuts its outlook", "Profit of Benue Cement jumps", "silver FUTURES slip", "nobody is named")
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in said))
    run = tiny_run(tmp_path / "run")
    summary = offline.distil(
        load_settings(Path("configs/default.toml")),
        [labelled, texts],
        run,
        out,
        watchlist=None,
        rows_max=100,
        licence="not stated",
        progress=lambda _rows: None,
    )
    rows = {row.text: row for row in read_rows(out)}
    assert summary["rows"] == len(rows) == 3
    assert {text: [m.target for m in row.mentions] for text, row in rows.items()} == {
        "silver futures slip": ["silver"],
        "Apple cuts its outlook": ["Apple"],
        "Profit of Benue Cement jumps": ["Profit", "Benue Cement"],
    }
    assert [rows[text].license for text in sorted(rows)] == ["not stated", "not stated", "MIT"]
    assert licences(list(rows.values())) == {"teacher": "MIT, not stated"}
