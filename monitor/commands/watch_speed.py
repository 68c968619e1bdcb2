"""`bench watch`: what one core can take through novelty, buckets and detectors, and what a company costs while nobody speaks of it."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

from monitor.alerting import Rules, load_rules
from monitor.loops.core import PartitionCore, WatchPolicy, partition
from monitor.records import Channel, ScoredMention, mention_id
from monitor.settings import Settings

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
BATCH = 500
SPOKEN_OF = 500  # entities that the load is about, the first of them most often
MEASURED = 2_000
_PROBABILITIES = {-0.6: (0.7, 0.2, 0.1), 0.0: (0.1, 0.8, 0.1), 0.6: (0.1, 0.2, 0.7)}


def watch(settings: Settings, *, entities: int, mentions: int) -> dict[str, Any]:
    """Mentions a second of one core's time, on made-up mentions. Every entity was spoken of three days before; the load is
    about the first few hundred, and the others have been idle since.

    `compiled`: see setup.py. `bytes_per_idle_entity`: held for one with a record in both channels, of whom nobody has spoken
    for a day.
    """
    rules = load_rules(settings.rules.path)
    core = _core(rules)
    _play(core, _roll_call(entities, channels=("news",)))
    _play(core, [_mention("E0", 0, START_MS - 60_000, "the market opens", 0.0, "news")])  # by now the others sleep
    load = list(_load(min(entities, SPOKEN_OF), mentions))
    started_s = time.process_time()
    _play(core, load)
    seconds = time.process_time() - started_s
    return {
        "entities": entities,
        "mentions": mentions,
        "compiled": not partition.__file__.endswith(".py"),
        "mentions_per_second": round(mentions / seconds),
        "bytes_per_idle_entity": bytes_per_idle_entity(rules),
    }


def bytes_per_idle_entity(rules: Rules, *, entities: int = MEASURED) -> int:
    """As allocated by Python; the difference between a core that knows so many idle entities and one that knows ten."""

    def held(count: int) -> int:
        tracemalloc.start()
        core = _core(rules)
        _play(core, _roll_call(count, channels=("news", "social")))
        _play(core, [_mention("E0", 0, START_MS, "the market opens", 0.0, "news")])
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert core.awake == 1, "the others sleep"
        return size

    return round((held(entities) - held(10)) / (entities - 10))


def _core(rules: Rules) -> PartitionCore:
    return PartitionCore(policy=WatchPolicy.of(rules, partitions=1), rules=rules)


def _play(core: PartitionCore, mentions: list[ScoredMention]) -> None:
    for number, mention in enumerate(mentions, 1):
        core.take(mention, origin="", now_ms=None)
        if number % BATCH == 0:
            core.advance()
    core.finish()


def _roll_call(entities: int, *, channels: tuple[Channel, ...]) -> list[ScoredMention]:
    """Each is spoken of once in each channel, within a day, three days before the load."""
    step_ms = DAY_MS // entities
    return [
        _mention(f"E{number}", number, START_MS - 3 * DAY_MS + number * step_ms, f"w{number} x{number}", 0.0, channel)
        for number in range(entities)
        for channel in channels
    ]


def _load(entities: int, mentions: int) -> Iterator[ScoredMention]:
    rng = random.Random(7)  # noqa: S311 - made-up load, not a secret
    words = [f"w{number}" for number in range(5_000)]
    for number in range(mentions):
        entity = min(entities - 1, int(rng.expovariate(5.0 / entities)))
        text = " ".join(rng.choices(words, k=10))
        polarity = rng.choice((-0.6, 0.0, 0.0, 0.6))
        channel: Channel = "news" if number % 3 else "social"
        yield _mention(f"E{entity}", number, START_MS + number * 2_000, text, polarity, channel)


def _mention(entity: str, number: int, at_ms: int, text: str, polarity: float, channel: Channel) -> ScoredMention:
    return ScoredMention(
        id=mention_id(f"{at_ms}/{number}/{channel}", entity),
        entity=entity,
        document=str(number),
        source=f"s{number % 40}",
        channel=channel,
        published_at_ms=at_ms,
        text=text,
        probabilities=_PROBABILITIES[polarity],
        polarity=polarity,
        model="bench",
        scored_at_ms=0,
    )
