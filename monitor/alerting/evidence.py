"""What an alert rests on: the fewest stories without which it would not fire, what speaks against it, and plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.alerting.detectors import Finding
from monitor.clock import to_rfc3339
from monitor.records import AlertEvidence, Direction, ScoredMention
from monitor.windows import UNIT, Story

SHOWN_MAX = 12


def ranked(stories: Sequence[Story], direction: Direction) -> list[Story]:
    """Those that speak in this direction, the heaviest first, then the earliest."""
    sign = -1 if direction == "negative" else 1
    speaking = [story for story in stories if sign * story.polarity_u > 0]
    return sorted(speaking, key=lambda s: (-sign * s.polarity_u, s.at_ms))


def decisive(stories: Sequence[Story], finding: Finding, voices_to_fire: float) -> list[Story]:
    """The smallest set whose removal leaves fewer voices than it takes to fire; at most `SHOWN_MAX` are named."""
    needed = finding.voices - voices_to_fire
    chosen, removed = [], 0.0
    for story in ranked(stories, finding.direction):
        chosen.append(story)
        removed += story.total_u / UNIT
        if removed > needed or len(chosen) == SHOWN_MAX:
            break
    return chosen


def told(story: Story) -> AlertEvidence:
    """A story as an alert quotes it: the words that carry the judgement, or the beginning of the text."""
    mention = story.mention
    assert isinstance(mention, ScoredMention)
    quote = mention.evidence[0].quote if mention.evidence else mention.text.split("\n")[0][:240]
    return AlertEvidence(
        document=mention.document,
        quote=quote,
        polarity=mention.polarity,
        weight=round(story.total_u / UNIT, 3),
        source=mention.source,
        published_at=to_rfc3339(mention.published_at_ms),
        url=mention.url,
        copies=story.copies,
    )


def fires_without(stories: Sequence[Story], finding: Finding, voices_to_fire: float, top: int = 3) -> bool:
    """Would it fire without the `top` authors who weigh most?"""
    weights: dict[str, float] = {}
    for story in stories:
        author = getattr(story.mention, "author", None)
        if author is not None:
            weights[author] = weights.get(author, 0.0) + story.total_u / UNIT
    loudest = sum(sorted(weights.values(), reverse=True)[:top])
    return finding.voices - loudest >= voices_to_fire


def brief(
    name: str, finding: Finding, *, stories: Sequence[Story], polarity: float, raw_n: int, new: bool, sources: int
) -> str:
    """A few sentences made of the alert's own figures and nothing else."""
    hours = finding.window_ms // 3_600_000
    span = "the last hour" if hours == 1 else f"the last {hours} hours"
    copies = raw_n - len(stories)
    parts = []
    if finding.kind == "burst":
        what = "voices" if finding.series == "total" else f"{finding.series} voices"
        parts.append(
            f"{name}: {finding.voices:.1f} {what} in {span}, where {finding.usual:.1f} are usual; tone {polarity:+.2f}."
        )
    else:
        parts.append(f"{name}: tone {polarity:+.2f} over {span}, where {finding.usual:+.2f} is usual.")
    parts.append(
        f"{len(stories)} stories from {sources} source{'s' if sources != 1 else ''}, {copies} copies left out."
    )
    if new:
        parts.append("The record of this company is short, so a wider margin was asked.")
    return " ".join(parts)
