"""Documents in, judged mentions out: tokenize, cut batches, encode each text once, read every head, quote the evidence.

A text longer than the model reads is judged by its beginning; a company that is named only later gets a window of its own
around its first mention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from monitor.errors import Fatal
from monitor.records import Document, Evidence, LinkedEntity, ScoredMention, mention_id
from monitor.scoring.batching import BatchPolicy, cut_batches, padded
from monitor.scoring.calibration import polarity, sigmoid, softmax
from monitor.scoring.engine import Engine
from monitor.scoring.evidence import answer_spans, clause_around

_QUOTE_CHARS_MAX = 240


class CleanText(Protocol):
    """A cleaned text with a way back to the original."""

    @property
    def text(self) -> str: ...
    def to_original(self, start: int, end: int) -> tuple[int, int]: ...
    def to_clean(self, start: int, end: int) -> tuple[int, int]: ...


class Head(Protocol):
    """What the scorer needs of a bundle's head."""

    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def temperature(self) -> float: ...
    @property
    def abstain_below(self) -> float: ...
    @property
    def thresholds(self) -> Sequence[float]: ...
    @property
    def threshold(self) -> float: ...


class Bundle(Protocol):
    """What the scorer needs of a bundle."""

    @property
    def model(self) -> str: ...
    @property
    def tokenizer(self) -> Path: ...
    @property
    def tokens_max(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def heads(self) -> Any: ...
    @property
    def polarity(self) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerPolicy:
    """`text_chars_max`: how much of a text a mention carries with it to the windows; the model reads its own limit."""

    batch: BatchPolicy = field(default_factory=BatchPolicy)
    text_chars_max: int = 1_000


@dataclass(slots=True, kw_only=True)
class Unit:
    """One text, or one window of it, as the model reads it. `mentions`: (entity's number, its token positions)."""

    document: int
    ids: list[int]
    offsets: list[tuple[int, int]]
    mentions: list[tuple[int, list[int]]] = field(default_factory=list)


class Scorer:
    """Implements `monitor.loops.score.Judge`."""

    def __init__(
        self, bundle: Bundle, engine: Engine, *, clean: Callable[[str], CleanText], policy: ScorerPolicy | None = None
    ) -> None:
        self.bundle, self.engine = bundle, engine
        self._clean, self._policy = clean, policy or ScorerPolicy()
        self._tokenizer = _load_tokenizer(bundle.tokenizer)
        empty = self._tokenizer.encode("").ids
        if len(empty) != 2:
            raise Fatal(f"{bundle.tokenizer}: must add one token before and one after a text")
        self._first, self._last = empty

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> list[list[ScoredMention]]:
        """One list of mentions a document, in the order of its entities."""
        texts = [self._clean(document.text) for document, _ in documents]
        units = self.units(texts, [entities for _, entities in documents])
        results: list[list[ScoredMention | None]] = [[None] * len(entities) for _, entities in documents]
        for batch in cut_batches([len(unit.ids) for unit in units], self._policy.batch):
            chosen = [units[index] for index in batch]
            answers = self.answer(chosen)
            row = 0
            for position, unit in enumerate(chosen):
                document, entities = documents[unit.document]
                for number, _ in unit.mentions:
                    results[unit.document][number] = self._mention(
                        document, entities[number], texts[unit.document], unit, answers, position, row, now_ms
                    )
                    row += 1
        assert all(mention is not None for mentions in results for mention in mentions), "a mention was not judged"
        return [[mention for mention in mentions if mention is not None] for mentions in results]

    def units(self, texts: Sequence[CleanText], entities: Sequence[Sequence[LinkedEntity]]) -> list[Unit]:
        """Tokenize and place every mention: in the text's first window, or in one of its own."""
        encodings = self._tokenizer.encode_batch([text.text for text in texts])
        units = []
        room = self.bundle.tokens_max - 2
        for number, (text, encoding, named) in enumerate(zip(texts, encodings, entities, strict=True)):
            ids, offsets = encoding.ids[1:-1], encoding.offsets[1:-1]
            whole = self._unit(number, ids[:room], offsets[:room])
            units.append(whole)
            for index, entity in enumerate(named):
                spans = [text.to_clean(span.start, span.end) for span in entity.spans]
                tokens = _tokens_in(whole.offsets, spans)
                if tokens or not spans or len(ids) <= room:
                    whole.mentions.append((index, tokens))
                    continue
                at = next((i for i, (a, b) in enumerate(offsets) if b > spans[0][0]), 0)
                start = max(0, min(at - room // 2, len(ids) - room))
                window = self._unit(number, ids[start : start + room], offsets[start : start + room])
                window.mentions.append((index, _tokens_in(window.offsets, spans)))
                units.append(window)
        return units

    def answer(self, units: Sequence[Unit]) -> dict[str, NDArray[Any]]:
        """Logits for one batch; mentions in the order of the units."""
        return self.engine.run(self.inputs(units))

    def inputs(self, units: Sequence[Unit]) -> dict[str, NDArray[Any]]:
        """The arrays of one batch, padded as the policy says."""
        width = padded(max(len(unit.ids) for unit in units), self._policy.batch)
        ids = np.full((len(units), width), self.bundle.pad_id, dtype=np.int64)
        mask = np.zeros((len(units), width), dtype=np.int64)
        count = sum(len(unit.mentions) for unit in units)
        owner = np.zeros(max(1, count), dtype=np.int64)
        own = np.zeros((max(1, count), width), dtype=np.float32)
        row = 0
        for position, unit in enumerate(units):
            ids[position, : len(unit.ids)] = unit.ids
            mask[position, : len(unit.ids)] = 1
            for _, tokens in unit.mentions:
                owner[row] = position
                own[row, tokens] = 1.0
                row += 1
        return {"input_ids": ids, "attention_mask": mask, "mention_document": owner, "mention_mask": own}

    def _unit(self, document: int, ids: list[int], offsets: list[tuple[int, int]]) -> Unit:
        return Unit(
            document=document, ids=[self._first, *ids, self._last], offsets=[(0, 0), *offsets, (0, 0)], mentions=[]
        )

    def _mention(
        self,
        document: Document,
        entity: LinkedEntity,
        text: CleanText,
        unit: Unit,
        answers: dict[str, NDArray[Any]],
        position: int,
        row: int,
        now_ms: int,
    ) -> ScoredMention:
        heads = self.bundle.heads
        p = softmax(answers["mention_logits"][row], heads["mention"].temperature)
        score = float(polarity(p, self.bundle.polarity.knots_x, self.bundle.polarity.knots_y))
        return ScoredMention(
            id=mention_id(document.key, entity.entity),
            entity=entity.entity,
            document=document.key,
            source=document.source,
            channel=document.channel,
            published_at_ms=document.published_at_ms,
            text=document.text[: self._policy.text_chars_max],
            author=document.author,
            author_followers=document.author_followers,
            url=document.url,
            spans=entity.spans,
            cue=entity.cue,
            probabilities=(round(float(p[0]), 4), round(float(p[1]), 4), round(float(p[2]), 4)),
            polarity=round(score, 4),
            evidence=self._evidence(document, entity, text, unit, answers, row),
            topic=self._topic(answers, position),
            events=self._events(answers, position),
            abstained=bool(p.max() < heads["mention"].abstain_below),
            model=self.bundle.model,
            scored_at_ms=now_ms,
        )

    def _evidence(
        self,
        document: Document,
        entity: LinkedEntity,
        text: CleanText,
        unit: Unit,
        answers: dict[str, NDArray[Any]],
        row: int,
    ) -> tuple[Evidence, ...]:
        spans: list[tuple[int, int]] = []
        head = self.bundle.heads.get("evidence")
        if head is not None:
            tags = softmax(answers["evidence_logits"][row, : len(unit.ids)])
            spans = answer_spans(tags, unit.offsets, threshold=head.threshold)
        original = document.text
        found = [text.to_original(a, b) for a, b in spans]
        if not found:
            first = entity.spans[0] if entity.spans else None
            found = [clause_around(original, first.start if first else 0, first.end if first else 0)]
        return tuple(Evidence(start=a, end=b, quote=original[a:b][:_QUOTE_CHARS_MAX]) for a, b in found if b > a)

    def _topic(self, answers: dict[str, NDArray[Any]], position: int) -> str | None:
        head = self.bundle.heads.get("topic")
        return None if head is None else str(head.labels[int(answers["topic_logits"][position].argmax())])

    def _events(self, answers: dict[str, NDArray[Any]], position: int) -> tuple[str, ...]:
        head = self.bundle.heads.get("events")
        if head is None:
            return ()
        p = sigmoid(answers["event_logits"][position])
        return tuple(
            label for label, value, limit in zip(head.labels, p, head.thresholds, strict=True) if value >= limit
        )


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as err:
        raise Fatal(f"{path}: not a tokenizer: {str(err)[:200]}") from err
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _tokens_in(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    return [i for i, (a, b) in enumerate(offsets) if a < b and any(a < end and b > start for start, end in spans)]
