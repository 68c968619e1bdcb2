"""A served bundle as the model that `evaluate` asks: the same tokenizing, batching and calibration as in service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from monitor.learning.calibrate import softmax
from monitor.learning.evaluate import Answers, MentionPrediction, Prediction, Triple
from monitor.learning.recipe import head_for
from monitor.learning.rows import LabelledRow
from monitor.records import LinkedEntity, Span

Task = Literal["document", "mention"]
TASKS: tuple[Task, ...] = ("document", "mention")
_DOCUMENTS = 64


class Clean(Protocol):
    """A cleaned text with a way back."""

    @property
    def text(self) -> str: ...
    def to_original(self, start: int, end: int) -> tuple[int, int]: ...
    def to_clean(self, start: int, end: int) -> tuple[int, int]: ...


class ScorerPort(Protocol):
    """What is needed of a scorer: its bundle, how it cuts texts into units, and the logits of a batch of units."""

    @property
    def bundle(self) -> Any: ...
    def units(self, texts: Sequence[Any], entities: Sequence[Sequence[LinkedEntity]]) -> list[Any]: ...
    def answer(self, units: Sequence[Any]) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """The head that judges a source's rows. `by`: `source`, its own convention's; `serve`, the one that answers in service."""

    head: str
    by: Literal["source", "serve"]
    output: str
    temperature: float
    polarity: Any


class ServedModel:
    """A `Predict`: call it with rows."""

    def __init__(
        self,
        scorer: ScorerPort,
        *,
        clean: Callable[[str], Clean],
        answer_spans: Callable[..., list[tuple[int, int]]],
        convention: Literal["source", "serve"] = "source",
    ) -> None:
        """`convention`: `source`, a row is judged by the head of its own source's convention, where the bundle knows the
        source; `serve`, all rows by the head that answers in service."""
        self._scorer, self._clean, self._spans, self._convention = scorer, clean, answer_spans, convention

    @property
    def name(self) -> str:
        """Of the bundle, with its fingerprint."""
        return str(self._scorer.bundle.model)

    def heads_of(self, source: str) -> dict[Task, Voice]:
        """Which head judges the rows of a source."""
        return {task: self._voice(task, source) for task in TASKS if task in self._scorer.bundle.heads}

    def __call__(self, rows: Sequence[LabelledRow]) -> Answers:
        heads = self._scorer.bundle.heads
        voices = {source: self.heads_of(source) for source in {row.source for row in rows}}
        texts = [self._clean(row.text) for row in rows]
        units = self._scorer.units(texts, [_entities(row) for row in rows])
        documents: list[dict[str, Any]] = [{} for _ in rows]
        mentions: list[list[MentionPrediction | None]] = [[None] * len(row.mentions) for row in rows]
        begun: set[int] = set()
        firsts = [unit.document not in begun and not begun.add(unit.document) for unit in units]  # type: ignore[func-returns-value]
        order = sorted(range(len(units)), key=lambda i: len(units[i].ids))
        for start in range(0, len(order), _DOCUMENTS):
            numbers = order[start : start + _DOCUMENTS]
            answers = self._scorer.answer([units[i] for i in numbers])
            at = 0
            for position, number in enumerate(numbers):
                unit = units[number]
                said_by = voices[rows[unit.document].source]
                if firsts[number]:
                    documents[unit.document] = _document(answers, position, heads, said_by.get("document"))
                for index, _ in unit.mentions:
                    mentions[unit.document][index] = self._mention(
                        answers, at, unit, texts[unit.document], said_by.get("mention")
                    )
                    at += 1
        return Answers(
            predictions=tuple(
                Prediction(mentions=tuple(m for m in said if m is not None), **document)
                for said, document in zip(mentions, documents, strict=True)
            ),
            topics=tuple(heads["topic"].labels) if "topic" in heads else (),
            events=tuple(heads["events"].labels) if "events" in heads else (),
        )

    def _voice(self, task: Task, source: str) -> Voice:
        bundle = self._scorer.bundle
        known = bundle.conventions.get(task, {})
        served = next((name for name, c in known.items() if c.output == f"{task}_logits"), "served")
        if self._convention == "source":
            name = head_for({pattern: name for name, c in known.items() for pattern in c.sources}, source)
            if name is not None:
                c = known[name]
                return Voice(head=name, by="source", output=c.output, temperature=c.temperature, polarity=c.polarity)
        return Voice(
            head=served,
            by="serve",
            output=f"{task}_logits",
            temperature=bundle.heads[task].temperature,
            polarity=bundle.polarity,
        )

    def _mention(
        self, answers: Mapping[str, Any], at: int, unit: Any, text: Clean, voice: Voice | None
    ) -> MentionPrediction | None:
        bundle = self._scorer.bundle
        if voice is None:
            return None
        p = softmax(answers[voice.output][at], voice.temperature)
        score = np.interp(p[2] - p[0], voice.polarity.knots_x, voice.polarity.knots_y)
        evidence = None
        if "evidence" in bundle.heads:
            tags = softmax(answers["evidence_logits"][at, : len(unit.ids)])
            spans = self._spans(tags, unit.offsets, threshold=bundle.heads["evidence"].threshold)
            evidence = tuple(text.to_original(start, end) for start, end in spans)
        return MentionPrediction(probabilities=_triple(p), polarity=float(score), evidence=evidence)


def conventions_of(model: ServedModel, rows: Sequence[LabelledRow]) -> dict[str, dict[str, dict[str, str]]]:
    """Source → task → which head judged its labels, and whether that is its own convention's or the one of service."""
    asked: dict[str, set[Task]] = {}
    for row in rows:
        tasks = asked.setdefault(row.source or "unnamed", set())
        if row.label is not None:
            tasks.add("document")
        if any(m.label is not None or m.score is not None for m in row.mentions):
            tasks.add("mention")
    return {
        source: {
            task: {"head": voice.head, "by": voice.by}
            for task, voice in model.heads_of(source).items()
            if task in tasks
        }
        for source, tasks in sorted(asked.items())
        if tasks
    }


def _entities(row: LabelledRow) -> tuple[LinkedEntity, ...]:
    """Every labelled mention as a question of its own, whatever its target is called."""
    return tuple(
        LinkedEntity(
            entity=str(index),
            spans=() if m.start is None or m.end is None else (Span(start=m.start, end=m.end),),
            cue="name",
        )
        for index, m in enumerate(row.mentions)
    )


def _document(
    answers: Mapping[str, Any], position: int, heads: Mapping[str, Any], voice: Voice | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"document": None, "topic": None, "events": None}
    if voice is not None:
        found["document"] = _triple(softmax(answers[voice.output][position], voice.temperature))
    if "topic" in heads:
        p = softmax(answers["topic_logits"][position], heads["topic"].temperature)
        found["topic"] = tuple(float(v) for v in p)
    if "events" in heads:
        p = 1.0 / (1.0 + np.exp(-answers["event_logits"][position]))
        labels = zip(heads["events"].labels, p, heads["events"].thresholds, strict=True)
        found["events"] = tuple(label for label, value, limit in labels if value >= limit)
    return found


def _triple(p: Any) -> Triple:
    return (float(p[0]), float(p[1]), float(p[2]))
