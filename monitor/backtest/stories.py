"""Which mentions of a history tell the same story, as the windows decide it."""

from __future__ import annotations

from collections.abc import Iterable

from monitor.records import ScoredMention
from monitor.windows import NoveltyMemory, NoveltyPolicy


def group_stories(mentions: Iterable[ScoredMention]) -> dict[str, str]:
    """Mention → the first mention of its story, by ids. A story lies within one entity and channel."""
    policy = NoveltyPolicy()
    memories: dict[tuple[str, str], NoveltyMemory] = {}
    first: dict[str, str] = {}
    for mention in sorted(mentions, key=lambda m: (m.published_at_ms, m.id)):
        memory = memories.setdefault((mention.entity, mention.channel), NoveltyMemory(policy))
        heard = memory.hear(mention.published_at_ms, mention.text, None, mention.id).heard
        first[mention.id] = str(heard.root.token)
    return first
