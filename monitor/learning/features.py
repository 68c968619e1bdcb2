"""Rows become token ids, masks and targets. Texts are cleaned exactly as in service, and spans move with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer

from monitor.intake.cleaning import CleanText, clean
from monitor.learning.recipe import Recipe, head_for
from monitor.learning.rows import LabelledMention, LabelledRow
from monitor.records import LABELS

_NAME_CHARS = 40
Soft = tuple[float, float, float]


@dataclass(slots=True, kw_only=True)
class MentionExample:
    """`tokens` are the positions of the mention's own tokens; `tags` 0 O, 1 B, 2 I, -100 not asked."""

    tokens: list[int]
    head: str | None
    target: Soft | None
    tags: list[int] | None


@dataclass(slots=True, kw_only=True)
class Example:
    """One text: its tokens, and whatever is known about it."""

    ids: list[int]
    source: str = ""
    name: str = ""  # the row's id, or how its text begins: to be named when something is wrong
    document_head: str | None = None
    document: Soft | None = None
    mentions: list[MentionExample] = field(default_factory=list)
    topic: int | None = None
    events: list[int] | None = None


def make_examples(
    rows: Sequence[LabelledRow], tokenizer: Tokenizer, recipe: Recipe, *, topics: Sequence[str], events: Sequence[str]
) -> list[Example]:
    """One example a row, in the rows' order."""
    texts = [clean(row.text) for row in rows]
    encodings = tokenizer.encode_batch([text.text for text in texts])
    data = recipe.data
    examples = []
    for row, text, encoding in zip(rows, texts, encodings, strict=True):
        example = Example(ids=encoding.ids, source=row.source, name=row.id or row.text[:_NAME_CHARS])
        head = head_for(data.document_heads, row.source)
        if head is not None:
            example.document = row.probabilities or (_hard(row.label) if row.label else None)
            example.document_head = head if example.document else None
        mention_head = head_for(data.mention_heads, row.source)
        for mention in row.mentions:
            made = _mention(mention, mention_head, text, encoding.offsets)
            if made.target is not None or made.tags is not None:
                example.mentions.append(made)
        if row.topic is not None and row.topic in topics:
            example.topic = topics.index(row.topic)
        if row.events is not None and events:
            example.events = [int(event in row.events) for event in events]
        examples.append(example)
    return examples


def join(first: Example, second: Example, between: Sequence[int]) -> Example:
    """Two texts told in one breath: [CLS] first `between` second [SEP], with the mentions of both.

    What was known of each text as a whole is not known of the two together.
    """
    head, shift = first.ids[:-1], len(first.ids) - 1 + len(between) - 1
    ids = [*head, *between, *second.ids[1:]]
    mentions = []
    for mention in first.mentions:
        tags = None if mention.tags is None else _widened(mention.tags[:-1], ids, start=0)
        mentions.append(replace(mention, tags=tags))
    for mention in second.mentions:
        tags = None if mention.tags is None else _widened(mention.tags[1:], ids, start=shift + 1)
        mentions.append(replace(mention, tokens=[position + shift for position in mention.tokens], tags=tags))
    return Example(ids=ids, source=first.source, name=f"{first.name} + {second.name}", mentions=mentions)


def span_tokens(offsets: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """Positions of the tokens that overlap [start, end); special tokens have empty offsets and never do."""
    return [i for i, (a, b) in enumerate(offsets) if a < end and b > start and a < b]


def soft_of_score(score: float) -> Soft:
    """A score in -1 … 1 as probabilities whose polarity, p(+) − p(−), is the score."""
    return (max(0.0, -score), 1.0 - abs(score), max(0.0, score))


def _mention(
    mention: LabelledMention, head: str | None, text: CleanText, offsets: Sequence[tuple[int, int]]
) -> MentionExample:
    tokens: list[int] = []
    if mention.start is not None and mention.end is not None:
        tokens = span_tokens(offsets, *text.to_clean(mention.start, mention.end))
    target = None
    if head is not None:
        if mention.probabilities is not None:
            target = mention.probabilities
        elif mention.label is not None:
            target = _hard(mention.label)
        elif mention.score is not None:
            target = soft_of_score(mention.score)
    tags = None
    if mention.evidence is not None:
        tags = [-100 if a == b else 0 for a, b in offsets]
        for start, end in mention.evidence:
            inside = span_tokens(offsets, *text.to_clean(start, end))
            for position in inside:
                tags[position] = 1 if position == inside[0] else 2
    return MentionExample(tokens=tokens, head=head if target is not None else None, target=target, tags=tags)


def _widened(tags: Sequence[int], ids: Sequence[int], *, start: int) -> list[int]:
    """Tags of a part as tags of the whole: the words of the other text carry nothing; [CLS] and [SEP] are not asked."""
    whole = [-100, *[0] * (len(ids) - 2), -100]
    whole[start : start + len(tags)] = tags
    return whole


def _hard(label: str) -> Soft:
    values = [0.0, 0.0, 0.0]
    values[LABELS.index(label)] = 1.0
    return (values[0], values[1], values[2])
