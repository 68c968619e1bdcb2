"""Planted label errors are found, near-duplicates that disagree are named, and nothing is left out of the judging rows."""

from __future__ import annotations

import random

import pytest

from monitor.learning.label_errors import audit, conflicts, suspects, without
from monitor.learning.rows import LabelledMention, LabelledRow

FILLER = "firm board city north market trade group plant line ship road bank fund coast hall mill port yard".split()  # noqa: SIM905
GOOD, BAD = ("soars", "wins", "record"), ("plunges", "fraud", "loses")


@pytest.fixture(scope="module")
def rows() -> list[LabelledRow]:
    """Two hundred plain rows, of which ten say the contrary of their words: every twentieth."""
    rng = random.Random(4)
    made = []
    for number in range(200):
        good = rng.random() < 0.5
        word = rng.choice(GOOD if good else BAD)
        label = "positive" if good != (number % 20 == 0) else "negative"
        text = f"Acme {word} {' '.join(rng.sample(FILLER, 6))} n{number}"
        mention = LabelledMention(target="Acme", start=0, end=4, label=label)
        made.append(LabelledRow(text=text, id=str(number), source="s", mentions=(mention,)))
    return made


def test_labels_that_all_else_speaks_against_are_suspected(rows: list[LabelledRow]) -> None:
    """Most of those that were planted, and few others."""
    found = suspects(rows)
    planted = {one.row for one in found if one.row % 20 == 0}
    assert len(planted) >= 7
    assert len(found) <= 1.3 * len(planted)
    assert all(one.mention == 0 and one.label != one.other for one in found)


def test_only_the_suspected_label_is_taken_away(rows: list[LabelledRow]) -> None:
    suspect = suspects(rows)[0]
    cleaned = without(rows, [suspect])
    assert cleaned[suspect.row].mentions[0].label is None
    assert cleaned[suspect.row].mentions[0].target == "Acme"
    others = [index for index in range(200) if index != suspect.row]
    assert [cleaned[index] for index in others] == [rows[index] for index in others]


def test_one_text_with_two_labels_is_a_conflict_but_two_companies_are_not() -> None:
    def row(text: str, label: str, target: str = "Acme") -> LabelledRow:
        return LabelledRow(text=text, source="s", mentions=(LabelledMention(target=target, label=label),))

    text = "Acme and Bolt report figures for the third quarter on Thursday"
    assert conflicts(
        [row(text, "positive"), row(text.upper(), "negative"), row("Other words entirely here", "neutral")]
    ) == [[0, 1]]
    assert conflicts([row(text, "positive"), row(text, "negative", "Bolt")]) == []
    assert conflicts([row(text, "positive"), row(text, "positive")]) == []


def test_an_audit_says_what_leaving_them_out_does(rows: list[LabelledRow]) -> None:
    found = audit(rows, shown_max=3)
    assert found["suspect_count"] >= 7
    assert found["suspects_by_source"] == {"s": found["suspect_count"]}
    assert len(found["suspects"]) == 3
    assert found["suspects"][0]["about"] == "Acme"
    assert found["macro_f1_without"]["mentions"] >= found["macro_f1_with"]["mentions"]
