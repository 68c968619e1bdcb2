"""Generated rows: the labels follow from what moved and which way; they train, and never judge."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from monitor.learning.augment import TEMPLATES, augmented_rows
from monitor.learning.rows import GENERATED, LabelledRow, groups_of, read_rows, row_faults, splits_of

CHALLENGE = Path(__file__).parents[1] / "data" / "challenge.jsonl"


@pytest.fixture(scope="module")
def rows() -> list[LabelledRow]:
    return augmented_rows(2_000, seed=7)


def test_the_same_seed_gives_the_same_rows_and_no_text_twice(rows: list[LabelledRow]) -> None:
    assert augmented_rows(2_000, seed=7) == rows
    assert augmented_rows(50, seed=8) != rows[:50]
    assert len({row.text for row in rows}) == len(rows) == 2_000


def test_every_row_is_sound_and_its_spans_are_what_they_say(rows: list[LabelledRow]) -> None:
    for row in rows:
        assert not list(row_faults(row))
        assert not set("{}[]<>") & set(row.text), row.text
        for mention in row.mentions:
            assert row.text[mention.start : mention.end] == mention.target
        assert row.label == (row.mentions[0].label if len(row.mentions) == 1 else None)
        fates = {mention.label for mention in row.mentions}
        assert row.kinds != ("opposite",) or fates == {"negative", "positive"}


@pytest.mark.parametrize(
    ("pattern", "label"),
    [
        (r"narrows \S+ loss", "positive"),
        (r"loss widens", "negative"),
        (r"profit narrows", "negative"),
        (r"(?:cuts|lowers|reduces|slashes) \S+ (?:pretax |net |operating )?loss (?:forecast|outlook|guidance|estimate)", "positive"),
        (r"(?:raises|lifts|increases|hikes) \S+ (?:pretax |net |operating )?loss ", "negative"),
        (r"(?:cuts|lowers|reduces|slashes) \S+ (?:profit|sales|earnings|revenue) ", "negative"),
        (r"misses by less than feared", "positive"),
        (r"(?:Debt|Costs) (?:fell|declined|shrank|decreased|dropped|went down) at", "positive"),
        (r"(?:Profit|Sales) (?:fell|declined|shrank|decreased|dropped|went down) at", "negative"),
        (r"no longer expects a loss", "positive"),
        (r"Oh great", "negative"),
        (r"unchanged at", "neutral"),
    ],
)  # fmt: skip
def test_labels_follow_from_what_moved_and_which_way(rows: list[LabelledRow], pattern: str, label: str) -> None:
    found = [row for row in rows if re.search(pattern, row.text) and len(row.mentions) == 1]
    assert found, pattern
    assert {row.mentions[0].label for row in found} == {label}


def test_every_template_is_used_and_every_kind_has_both_fates(rows: list[LabelledRow]) -> None:
    by_kind: dict[str, set[str | None]] = {}
    for row in rows:
        by_kind.setdefault(row.kinds[0], set()).update(m.label for m in row.mentions)
    assert set(by_kind) == {"reported", *(template.kind for template in TEMPLATES)}
    for kind, labels in by_kind.items():
        assert kind == "plain" or {"negative", "positive"} <= labels, kind


def test_generated_rows_train_and_never_judge(rows: list[LabelledRow]) -> None:
    people = [LabelledRow(text=f"firm w{n} told of x{n * 7} and y{n * 3}", label="neutral") for n in range(200)]
    assert all(row.soft and row.source == GENERATED for row in rows)
    sides = splits_of([*people, *rows])
    assert sides[:200] == splits_of(people)
    assert set(sides[200:]) == {"train"}


def test_the_challenge_set_is_sound_large_and_apart_from_what_is_generated(rows: list[LabelledRow]) -> None:
    """Other sentences, other companies: what it shows was not learned by heart."""
    challenge = read_rows(CHALLENGE)
    assert len(challenge) >= 150
    assert len({row.text for row in challenge}) == len(challenge)
    names = {word for row in rows for mention in row.mentions for word in mention.target.split()[:1]}
    for row in challenge:
        assert not any(m.target.split()[0] in names for m in row.mentions), row.text
        for mention in row.mentions:
            assert row.text[mention.start : mention.end] == mention.target
    groups = groups_of([*challenge, *rows], jaccard=0.5)
    assert not set(groups[: len(challenge)]) & set(groups[len(challenge) :])
    labels = [m.label for row in challenge for m in row.mentions]
    assert min(labels.count(label) for label in ("negative", "neutral", "positive")) >= 25
    assert json.loads(CHALLENGE.read_text("utf-8").splitlines()[0])["source"] == "challenge"


@pytest.mark.parametrize("quantity", ["net debt", "operating profit"])
def test_of_two_amounts_the_later_decides(quantity: str) -> None:
    """Read back from the sentence itself: more profit and less debt are good, whatever the currency."""
    shape = re.compile(
        rf"{quantity} (?:was|were|of|\w+ to)? ?\D*([\d.]+)\D*? (?:vs|from|compared with|\() ?\D*([\d.]+)", re.I
    )
    judged = 0
    for row in augmented_rows(6_000, seed=3):
        found = shape.search(row.text) if row.kinds == ("reported",) else None
        if found is None:
            continue
        rose = float(found[1]) > float(found[2])
        assert row.label == ("positive" if rose == (quantity == "operating profit") else "negative"), row.text
        judged += 1
    assert judged > 5
