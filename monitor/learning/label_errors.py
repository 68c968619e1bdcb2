"""Labels that are probably wrong: one text told twice and judged differently, and labels that everything else speaks against.

The second kind by confident learning (Northcutt, Jiang & Chuang 2021, as in cleanlab) on out-of-fold probabilities of a bag of
words: near-duplicates stand in one fold, so no text vouches for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitor.errors import Fatal
from monitor.learning.evaluate import evaluate
from monitor.learning.peers import BagOfWords
from monitor.learning.rows import LabelledMention, LabelledRow, groups_of, splits_of
from monitor.records import LABELS

_FOLDS = 5
_PER_LABEL_MIN = 2 * _FOLDS
_TEXT_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A label of a row, of its text (`mention` None) or of a company, and what speaks against it.

    `p`: what the others make of the label given; `other`: the label that they would give.
    """

    row: int
    mention: int | None
    label: str
    other: str
    p: float


def conflicts(rows: Sequence[LabelledRow]) -> list[list[int]]:
    """Row numbers of near-duplicates of one source whose text, or whose company of one name, has different labels."""
    by_question: dict[tuple[int, str, str], dict[str, list[int]]] = {}
    for index, (row, group) in enumerate(zip(rows, groups_of(rows, jaccard=0.9), strict=True)):
        if row.label is not None:
            by_question.setdefault((group, row.source, ""), {}).setdefault(row.label, []).append(index)
        for mention in row.mentions:
            if mention.label is not None:
                key = (group, row.source, f"about {mention.target.casefold()}")
                by_question.setdefault(key, {}).setdefault(mention.label, []).append(index)
    found = (
        sorted({i for indices in labels.values() for i in indices})
        for labels in by_question.values()
        if len(labels) > 1
    )
    return sorted(each for each in map(list, {tuple(one) for one in found}) if len(each) > 1)


def suspects(rows: Sequence[LabelledRow], *, folds: int = _FOLDS) -> list[Suspect]:
    """The labels that confident learning takes for errors, those first that least is said for."""
    found: list[Suspect] = []
    for source in sorted({row.source for row in rows}):
        numbers = [i for i, row in enumerate(rows) if row.source == source]
        found += _of_one_source([rows[i] for i in numbers], numbers, folds)
    return sorted(found, key=lambda one: (one.p, one.row))


def without(rows: Sequence[LabelledRow], found: Sequence[Suspect]) -> list[LabelledRow]:
    """The rows without the suspected labels; what else is known of them stays."""
    import msgspec

    texts = {one.row for one in found if one.mention is None}
    companies = {(one.row, one.mention) for one in found if one.mention is not None}

    def kept(index: int, mentions: Sequence[LabelledMention]) -> tuple[LabelledMention, ...]:
        return tuple(
            msgspec.structs.replace(m, label=None) if (index, at) in companies else m for at, m in enumerate(mentions)
        )

    return [
        msgspec.structs.replace(row, label=None if index in texts else row.label, mentions=kept(index, row.mentions))
        for index, row in enumerate(rows)
    ]


def audit(rows: Sequence[LabelledRow], *, shown_max: int = 50) -> dict[str, Any]:
    """Conflicts, suspects, and what leaving the suspects out of the training split does to a bag of words on the test split.

    The test split keeps all its labels. Raises Fatal when no source has enough labels to say anything.
    """
    sides = splits_of(rows)
    train = [row for row, side in zip(rows, sides, strict=True) if side == "train"]
    test = [row for row, side in zip(rows, sides, strict=True) if side == "test"]
    if not train or not test:
        raise Fatal("too few rows with sentiment labels to look for errors among them")
    found, learned, differing = suspects(rows), suspects(train), conflicts(rows)
    return {
        "rows": len(rows),
        "conflicts": [_shown_conflict([rows[i] for i in indices]) for indices in differing[:shown_max]],
        "conflict_count": len(differing),
        "suspect_count": len(found),
        "suspects_by_source": _counted(rows, found),
        "suspects": [_shown(rows, one) for one in found[:shown_max]],
        "left_out_of_training": len(learned),
        "macro_f1_with": _macro_f1(BagOfWords(train), test),
        "macro_f1_without": _macro_f1(BagOfWords(without(train, learned)), test),
    }


def _of_one_source(rows: Sequence[LabelledRow], numbers: Sequence[int], folds: int) -> list[Suspect]:
    fold_of = [group % folds for group in groups_of(rows)]
    asked: dict[str, list[tuple[int, int | None, str, Any]]] = {"text": [], "company": []}
    for fold in range(folds):
        known = [row for row, at in zip(rows, fold_of, strict=True) if at != fold]
        held = [i for i, at in enumerate(fold_of) if at == fold]
        if not known or not held:
            continue
        said = BagOfWords(known)([rows[i] for i in held]).predictions
        for index, prediction in zip(held, said, strict=True):
            row = rows[index]
            if row.label is not None and prediction.document is not None:
                asked["text"].append((index, None, row.label, prediction.document))
            for at, (mention, answer) in enumerate(zip(row.mentions, prediction.mentions, strict=False)):
                if mention.label is not None:
                    asked["company"].append((index, at, mention.label, answer.probabilities))
    return [suspect for questions in asked.values() for suspect in _confident(questions, numbers)]


def _confident(questions: Sequence[tuple[int, int | None, str, Any]], numbers: Sequence[int]) -> list[Suspect]:
    """Confident learning over the labels that there are enough of."""
    counts = {label: sum(q[2] == label for q in questions) for label in LABELS}
    used = [label for label in LABELS if counts[label] >= _PER_LABEL_MIN]
    if len(used) < 2:
        return []
    from cleanlab.filter import find_label_issues

    chosen = [q for q in questions if q[2] in used]
    p = np.array([[q[3][LABELS.index(label)] for label in used] for q in chosen], dtype=np.float64)
    p /= np.maximum(p.sum(1, keepdims=True), 1e-12)
    given = np.array([used.index(q[2]) for q in chosen])
    wrong = find_label_issues(given, p, n_jobs=1)
    return [
        Suspect(
            row=numbers[index], mention=mention, label=label, other=used[int(p[i].argmax())], p=float(p[i, given[i]])
        )
        for i, (index, mention, label, _) in enumerate(chosen)
        if wrong[i]
    ]


def _macro_f1(bag: BagOfWords, test: Sequence[LabelledRow]) -> dict[str, float]:
    return {
        task: round(values["macro_f1"], 4)
        for task, values in evaluate(test, bag).items()
        if task in {"sentiment", "mentions"}
    }


def _counted(rows: Sequence[LabelledRow], found: Sequence[Suspect]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for one in found:
        counts[rows[one.row].source] = counts.get(rows[one.row].source, 0) + 1
    return counts


def _shown(rows: Sequence[LabelledRow], one: Suspect) -> dict[str, Any]:
    row = rows[one.row]
    about = "the text" if one.mention is None else row.mentions[one.mention].target
    facts = {"id": row.id, "source": row.source, "about": about, "label": one.label, "rather": one.other}
    return {**facts, "p": round(one.p, 4), "text": row.text[:_TEXT_CHARS_MAX]}


def _shown_conflict(rows: Sequence[LabelledRow]) -> dict[str, Any]:
    return {
        "source": rows[0].source,
        "rows": [
            {
                "id": row.id,
                "text": row.text[:_TEXT_CHARS_MAX],
                "label": row.label,
                "companies": {m.target: m.label for m in row.mentions if m.label is not None},
            }
            for row in rows
        ],
    }
