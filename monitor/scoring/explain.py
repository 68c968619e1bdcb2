"""Why this judgement: how much each word pulled it, by leaving the words out one at a time (occlusion).

Zeiler & Fergus 2014, section 4.2, on words instead of image patches. The served graph answers itself: what is explained is
what runs. Faithfulness is measured by the deletion test of DeYoung et al. 2020 (comprehensiveness).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monitor.records import Document, LinkedEntity, Record, ScoredMention, Span

Judge = Callable[[Sequence[tuple[Document, tuple[LinkedEntity, ...]]]], Sequence[Sequence[ScoredMention]]]
WORDS_MAX = 120


class Attribution(Record, frozen=True, kw_only=True):
    """`weight`: how much p of the chosen label falls when this word is left out; negative words spoke against it."""

    start: int
    end: int
    word: str
    weight: float


class Explanation(Record, frozen=True, kw_only=True):
    """The judgement, its evidence, and the pull of each word. `comprehensiveness`: fall of p without the top words."""

    mention: ScoredMention
    label: str
    attributions: tuple[Attribution, ...]
    comprehensiveness: float


def explain(document: Document, entity: LinkedEntity, judge: Judge, *, top_share: float = 0.2) -> Explanation:
    """Judge the text, then once more without each of its words (the company's own words stay)."""
    words = [w for w in _words(document.title) if not _overlaps(w, entity.spans)][:WORDS_MAX]
    base, *rest = (
        mentions[0] for mentions in judge([(document, (entity,)), *(without(document, entity, [w]) for w in words)])
    )
    label = max(range(3), key=base.probabilities.__getitem__)
    pulls = [base.probabilities[label] - other.probabilities[label] for other in rest]
    ranked = sorted(range(len(words)), key=lambda i: -pulls[i])[: max(1, round(top_share * len(words)))]
    fall = 0.0
    if words:
        shorter = judge([without(document, entity, sorted(words[i] for i in ranked))])[0][0]
        fall = base.probabilities[label] - shorter.probabilities[label]
    return Explanation(
        mention=base,
        label=base.label,
        attributions=tuple(
            Attribution(start=a, end=b, word=document.title[a:b], weight=round(pull, 4))
            for (a, b), pull in zip(words, pulls, strict=True)
        ),
        comprehensiveness=round(fall, 4),
    )


def _words(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for at, char in enumerate(f"{text} "):
        if char.isspace():
            if start is not None:
                spans.append((start, at))
            start = None
        elif start is None:
            start = at
    return spans


def _overlaps(word: tuple[int, int], spans: Sequence[Span]) -> bool:
    return any(word[0] < span.end and word[1] > span.start for span in spans)


def without(
    document: Document, entity: LinkedEntity, words: Sequence[tuple[int, int]]
) -> tuple[Document, tuple[LinkedEntity, ...]]:
    """The same document with words replaced by nothing, and the entity's spans moved along."""
    title, moved = document.title, list(entity.spans)
    for start, end in sorted(words, reverse=True):
        title = title[:start] + title[end:]
        moved = [Span(start=s.start - (end - start), end=s.end - (end - start)) if s.start >= end else s for s in moved]
    kept = Document(
        id=document.id,
        source=document.source,
        channel=document.channel,
        published_at_ms=document.published_at_ms,
        title=title,
    )
    return kept, (LinkedEntity(entity=entity.entity, spans=tuple(moved), cue=entity.cue),)
