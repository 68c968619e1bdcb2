"""Talk about companies that never was: a day's chatter, a brigade, a wire that floods."""

from __future__ import annotations

import math
import random

import msgspec

from monitor.records import Channel, ScoredMention, mention_id

HOUR_MS = 3_600_000
WORDS = [
    "dividend",
    "quarter",
    "margin",
    "growth",
    "chart",
    "call",
    "put",
    "strike",
    "earnings",
    "outlook",
    "target",
    "price",
    "analyst",
    "upgrade",
    "product",
    "launch",
    "lawsuit",
    "patent",
    "merger",
    "support",
    "resistance",
    "volume",
    "breakout",
    "gap",
    "weekly",
    "daily",
    "options",
    "condor",
    "hedge",
    "bull",
    "bear",
    "swing",
    "trade",
    "long",
    "position",
    "value",
    "cheap",
    "expensive",
    "cash",
    "flow",
    "debt",
    "yield",
    "buyback",
    "guidance",
    "revenue",
    "beat",
    "miss",
    "sector",
    "index",
    "fund",
    "rotation",
]
MOULDS = (
    "{verb} {it} {when}, it is {end}",
    "{when} is the time to {leave} {it}, {who} are leaving",
    "{it} holders wake up, this is {end}",
    "told you so, {it} {fate} {soon}",
    "get out of {it} {when} before {who} do",
    "my {kin} works there and says {it} is {end}",
    "{who} know what is coming for {it}, {verb} it {when}",
    "nobody should hold {it} {soon}, {fate}",
    "{it} chart looks like {end}, {leave} everything",
    "do yourself a favour and {leave} {it} {when}",
    "{it} {fate}, mark my words, {soon}",
    "another scam like the others, {it} will be {end} {soon}",
)
SLOTS = {
    "verb": ("dump", "sell", "drop", "ditch", "unload"),
    "leave": ("dump", "short", "leave", "abandon"),
    "it": ("$BBB", "this stock", "BBB shares", "the company"),
    "when": ("now", "today", "right away", "this minute", "asap"),
    "soon": ("by friday", "within days", "next week", "very soon"),
    "end": ("going to zero", "finished", "worthless", "bankrupt soon", "a dead company"),
    "fate": ("is done", "goes to zero", "will crash", "is toast"),
    "who": ("insiders", "the big funds", "smart people", "all of them"),
    "kin": ("cousin", "neighbour", "brother", "friend"),
}


def said(
    key: str,
    entity: str,
    at_ms: int,
    text: str,
    *,
    polarity: float,
    author: str | None = None,
    source: str = "birds",
    channel: Channel = "social",
) -> ScoredMention:
    """One judged mention."""
    negative, positive = max(0.05, -polarity), max(0.05, polarity)
    return ScoredMention(
        id=mention_id(key, entity),
        entity=entity,
        document=key,
        source=source,
        channel=channel,
        published_at_ms=at_ms,
        text=text,
        author=author,
        probabilities=(negative, 1.0 - negative - positive, positive),
        polarity=polarity,
        model="words@1",
        scored_at_ms=at_ms,
    )


def chatter(
    rng: random.Random, *, start_ms: int, days: int, per_day: float, regulars: int = 2_000
) -> list[ScoredMention]:
    """Four companies, spoken of at random by accounts that come back."""
    told = []
    for entity in ("AAA", "BBB", "CCC", "DDD"):
        at_ms = float(start_ms)
        while (at_ms := at_ms + rng.expovariate(per_day / (24 * HOUR_MS))) < start_ms + days * 24 * HOUR_MS:
            tone = rng.choice((-0.6, -0.3, 0.0, 0.0, 0.0, 0.3, 0.6))
            author, text = f"u{rng.randrange(regulars)}", " ".join(rng.choices(WORDS, k=9))
            told.append(said(f"chat:{len(told)}", entity, math.floor(at_ms), text, polarity=tone, author=author))
    return told


def brigade(
    rng: random.Random, *, start_ms: int, hours: float, posts: int = 500, moulds: int = len(MOULDS), entity: str = "BBB"
) -> list[ScoredMention]:
    """New accounts that fill the same few moulds, spread over some hours."""
    told = []
    for number in range(posts):
        text = rng.choice(MOULDS[:moulds]).format(**{name: rng.choice(words) for name, words in SLOTS.items()})
        at_ms = start_ms + math.floor(rng.random() * hours * HOUR_MS)
        told.append(said(f"brigade:{number}", entity, at_ms, text, polarity=-0.85, author=f"new{number}"))
    return told


def wires(rng: random.Random, *, start_ms: int, days: int, shares: dict[str, int]) -> list[ScoredMention]:
    """News of several wires; `shares`: stories a day and company of each."""
    told = []
    for source, per_day in shares.items():
        for each in chatter(rng, start_ms=start_ms, days=days, per_day=per_day):
            key = f"{source}:{len(told)}"
            told.append(
                msgspec.structs.replace(
                    each, id=mention_id(key, each.entity), document=key, source=source, channel="news", author=None
                )
            )
    return told


def stories(
    rng: random.Random, *, start_ms: int, minutes: int, sources: list[str], entity: str = "BBB"
) -> list[ScoredMention]:
    """A bad story a minute, each in words of its own, by the sources in turn."""
    return [
        said(
            f"story:{k}",
            entity,
            start_ms + k * 60_000,
            " ".join(rng.choices(WORDS, k=5)) + f" s{k} t{k * 7}",
            polarity=-0.85,
            source=sources[k % len(sources)],
            channel="news",
        )
        for k in range(minutes)
    ]
