"""Why an alert fired, in facts: the stories that carry it, those against it, and what it would take to silence it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from monitor.clock import to_rfc3339
from monitor.records import AlertEvidence, Direction, ScoredMention

QUOTE_CHARS_MAX = 240


class Said(NamedTuple):
    """One story of the window: its first mention, its voice and how many copies came."""

    mention: ScoredMention
    weight: float
    copies: int


class Reasons(NamedTuple):
    """`needed`: the smallest set of stories, strongest first, without which the score falls under the threshold (all
    that speak in its direction, if none does). `flip_margin`: their share of the window's voices."""

    evidence: tuple[AlertEvidence, ...]
    counter_evidence: tuple[AlertEvidence, ...]
    needed: int
    flip_margin: float
    fires_without_top_authors: bool | None
    authors: int
    top_author_share: float


def reasons(
    said: Sequence[Said],
    *,
    direction: Direction,
    score: Callable[[Sequence[Said]], float],
    threshold: float,
    stories_max: int,
    top_authors: int,
) -> Reasons:
    """`score` is the detector over a set of stories. Greedy removal of the strongest is exact here: the score only depends on sums, and each step takes away the most of them."""
    sign = 1.0 if direction == "positive" else -1.0
    ranked = sorted(said, key=lambda each: (-sign * each.weight * each.mention.polarity, each.mention.id))
    aligned = [each for each in ranked if sign * each.mention.polarity > 0]
    against = [each for each in reversed(ranked) if sign * each.mention.polarity < 0]
    needed = _needed(ranked, len(aligned), score, threshold)
    total = sum(each.weight for each in said) or 1.0
    voices: dict[str, float] = {}
    for each in said:
        if each.mention.author is not None:
            voices[each.mention.author] = voices.get(each.mention.author, 0.0) + each.weight
    top = sorted(voices, key=lambda author: (-voices[author], author))[:top_authors]
    without = [each for each in said if each.mention.author not in top]
    return Reasons(
        evidence=tuple(_evidence(each) for each in aligned[: max(1, min(needed, stories_max))]),
        counter_evidence=tuple(_evidence(each) for each in against[: min(3, stories_max)]),
        needed=needed,
        flip_margin=round(min(1.0, sum(each.weight for each in ranked[:needed]) / total), 4),
        fires_without_top_authors=score(without) >= threshold if voices else None,
        authors=len(voices),
        top_author_share=round(sum(voices[author] for author in top) / total, 4),
    )


def quote(mention: ScoredMention) -> str:
    """The words that carry the judgement; the title where the model names none."""
    best = next((each.quote for each in mention.evidence if each.quote.strip()), None)
    text = best or mention.text.split("\n", 1)[0]
    return text if len(text) <= QUOTE_CHARS_MAX else text[: QUOTE_CHARS_MAX - 1].rstrip() + "…"


def _needed(ranked: Sequence[Said], aligned: int, score: Callable[[Sequence[Said]], float], threshold: float) -> int:
    """How many of the strongest must go, by bisection; at most all that speak in the direction."""
    low, high = 1, max(1, aligned)
    while low < high:
        middle = (low + high) // 2
        if score(ranked[middle:]) < threshold:
            high = middle
        else:
            low = middle + 1
    return low


def _evidence(said: Said) -> AlertEvidence:
    mention = said.mention
    return AlertEvidence(
        document=mention.document,
        quote=quote(mention),
        polarity=round(mention.polarity, 4),
        weight=round(said.weight, 4),
        source=mention.source,
        published_at=to_rfc3339(mention.published_at_ms),
        url=mention.url,
        copies=said.copies,
    )
