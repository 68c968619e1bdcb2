"""How good a model is on labelled rows: the figures of `tapewatch evaluate`. Needs neither torch nor the training extra.

The model is a port: anything that answers rows with `Prediction`s. Figures are there only for what the rows have labels for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitor.errors import Fatal
from monitor.learning.metrics import classification, multilabel, polarity_figures, tag_f1
from monitor.learning.rows import LabelledMention, LabelledRow
from monitor.records import LABELS

Triple = tuple[float, float, float]
_WORD = re.compile(r"\w+|[^\w\s]")
_NEGATION = re.compile(r"\b(?:not?|never|without|neither|nor|\w+n['’]t|less|fails?|failed)\b", re.IGNORECASE)
_SARCASM = re.compile(
    r"(?:^|\s)/s\b|🙄|\byeah,? right\b|\bwhat could (?:possibly )?go wrong\b|\bthanks a lot\b|\bslow clap\b|\bwell done\b"
    r"|\b(?:oh|just) great\b|\bgreat job\b|\bnice job\b|\bgenius(?:es)?\b|\bbrilliant\b|\bsure,|\bwhat a surprise\b|\bshocker\b",
    re.IGNORECASE,
)
_LONG_WORDS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class MentionPrediction:
    """`evidence`: half-open ranges of the row's text; None from a model that quotes none."""

    probabilities: Triple
    polarity: float
    evidence: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of a row; None where it has no such head. `mentions` in the order of the row's."""

    document: Triple | None
    mentions: tuple[MentionPrediction, ...]
    topic: tuple[float, ...] | None = None
    events: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Predictions of one model, and the labels of its heads where they are not sentiment."""

    predictions: tuple[Prediction, ...]
    topics: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


Predict = Callable[[Sequence[LabelledRow]], Answers]


def evaluate(rows: Sequence[LabelledRow], predict: Predict) -> dict[str, Any]:
    """The JSON of `tapewatch evaluate`. Raises Fatal when the rows have nothing that can be judged."""
    answers = predict(rows)
    report = figures_of(rows, answers)
    if not report:
        raise Fatal("nothing to evaluate: no row has a label, score, topic, events or evidence that the model answers")
    return report


def figures_of(rows: Sequence[LabelledRow], answers: Answers) -> dict[str, Any]:
    """The figures alone, of predictions that are there already."""
    said = answers.predictions
    assert len(said) == len(rows), "one prediction a row"
    report: dict[str, Any] = {}
    documents = [
        (r.label, p.document) for r, p in zip(rows, said, strict=True) if r.label is not None and p.document is not None
    ]
    if documents:
        report["sentiment"] = _sentiment(documents)
    mentions = list(_mentions(rows, said))
    labelled = [(m.label, p.probabilities) for m, p in mentions if m.label is not None]
    if labelled:
        report["mentions"] = _sentiment(labelled)
    scored = [(m.score, p.polarity) for m, p in mentions if m.score is not None]
    if scored:
        truth, polarity = zip(*scored, strict=True)
        report["polarity"] = polarity_figures(truth, polarity)
    report |= _topic(rows, answers) | _events(rows, answers) | _evidence(rows, said)
    return report


def slices_of(rows: Sequence[LabelledRow]) -> dict[str, list[int]]:
    """Kinds of rows that models find hard → the numbers of the rows."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        words = len(row.text.split())
        targets = {(m.start, m.end) for m in row.mentions}
        for name, there in (
            ("negation", bool(_NEGATION.search(row.text))),
            ("numbers", any(c.isdigit() for c in row.text)),
            (f"long (over {_LONG_WORDS} words)", words > _LONG_WORDS),
            ("several companies", len(targets) > 1),
            ("opposite fates", len({m.label for m in row.mentions} & {"negative", "positive"}) == 2),
            ("sarcasm (by its marks)", bool(_SARCASM.search(row.text))),
            *((f"kind {kind}", True) for kind in row.kinds),
        ):
            if there:
                found.setdefault(name, []).append(index)
        found.setdefault(f"source {row.source or 'unnamed'}", []).append(index)
    return found


def subset(answers: Answers, indices: Sequence[int]) -> Answers:
    """The same model on some of the rows."""
    chosen = tuple(answers.predictions[i] for i in indices)
    return Answers(predictions=chosen, topics=answers.topics, events=answers.events)


def word_tags(text: str, spans: Iterable[tuple[int, int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """1 for each word or mark of the text that overlaps a span, else 0: tokens that no model's tokenizer decides."""
    ranges = list(spans)
    return np.array(
        [int(any(w.start() < end and w.end() > start for start, end in ranges)) for w in _WORD.finditer(text)],
        dtype=np.int64,
    )


def _mentions(
    rows: Sequence[LabelledRow], said: Sequence[Prediction]
) -> Iterable[tuple[LabelledMention, MentionPrediction]]:
    for row, prediction in zip(rows, said, strict=True):
        if prediction.mentions:
            yield from zip(row.mentions, prediction.mentions, strict=True)


def _sentiment(pairs: Sequence[tuple[str, Triple]]) -> dict[str, Any]:
    truth = [LABELS.index(label) for label, _ in pairs]
    return classification(truth, [p for _, p in pairs])


def _topic(rows: Sequence[LabelledRow], answers: Answers) -> dict[str, Any]:
    """A topic that the model doesn't know counts as wrong, not as absent."""
    pairs = [
        (r.topic, p.topic) for r, p in zip(rows, answers.predictions, strict=True) if r.topic is not None and p.topic
    ]
    if not pairs:
        return {}
    labels = tuple(dict.fromkeys([*answers.topics, *sorted({topic for topic, _ in pairs})]))
    probabilities = np.zeros((len(pairs), len(labels)))
    for row, (_, p) in enumerate(pairs):
        probabilities[row, : len(p)] = p
    return {"topic": classification([labels.index(topic) for topic, _ in pairs], probabilities, labels)}


def _events(rows: Sequence[LabelledRow], answers: Answers) -> dict[str, Any]:
    pairs = [
        (r.events, p.events)
        for r, p in zip(rows, answers.predictions, strict=True)
        if r.events is not None and p.events is not None
    ]
    if not pairs:
        return {}
    labels = tuple(dict.fromkeys([*answers.events, *sorted({e for truth, _ in pairs for e in truth})]))
    truth, chosen = ([[label in events for label in labels] for events in side] for side in zip(*pairs, strict=True))
    return {"events": multilabel(truth, chosen, labels)}


def _evidence(rows: Sequence[LabelledRow], said: Sequence[Prediction]) -> dict[str, Any]:
    """One question a target: where a row holds several judgements of one target, their evidence is one answer."""
    pairs = []
    for row, prediction in zip(rows, said, strict=True):
        wanted: dict[Any, tuple[list[tuple[int, int]], tuple[tuple[int, int], ...]]] = {}
        for mention, answer in zip(row.mentions, prediction.mentions, strict=False):
            if mention.evidence and answer.evidence is not None:
                key = (mention.start, mention.end) if mention.start is not None else mention.target
                wanted.setdefault(key, ([], answer.evidence))[0].extend(mention.evidence)
        pairs += [(word_tags(row.text, truth), word_tags(row.text, found)) for truth, found in wanted.values()]
    return {"evidence": {"n": len(pairs), "token_f1": tag_f1(pairs)}} if pairs else {}
