"""A teacher's rows train and never judge; what resembles a validation or test text is left out."""

from pathlib import Path

import pytest

from monitor.errors import Fatal
from monitor.learning.distil import choose, soften
from monitor.learning.rows import LabelledMention, LabelledRow, splits_of
from monitor.records import Document, LinkedEntity, Span
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
    rows = list(soften(run, [linked(1, "falls"), linked(2, "rises")], licence="MIT"))
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
        list(soften(tmp_path, [linked(1, "falls")], licence="MIT"))
