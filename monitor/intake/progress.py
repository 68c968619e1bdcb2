"""How far a group is in its topics, told as time on the steady clock: what was sent before then is worked off.

`watch` lets event time flow on in silence only as far as `score` has come: silence behind a backlog is no calm. A group
commits an offset after its results are acknowledged, so a committed offset at or beyond yesterday's end means that
yesterday's messages, and what became of them, are all there. Nor is it calm while the broker is away: nobody could speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec
import structlog
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import TopicPartition

from monitor.clock import Clock
from monitor.intake.kafka import KafkaConfig
from monitor.records import Progress

log = structlog.get_logger()
NEVER_MS = 0


class GroupProgress:
    """Asks the broker at most every `every_s`. While it does not answer, nobody gets any further."""

    def __init__(
        self, config: KafkaConfig, *, group: str, topics: Sequence[str], clock: Clock, every_s: float = 1.0
    ) -> None:
        self._config, self._group, self._topics = config, group, list(topics)
        self._clock, self._every_s = clock, every_s
        self._admin: Any = None
        self._due_s = clock.monotonic_s()
        self._asked: dict[TopicPartition, tuple[int, int]] = {}
        self._told = Progress(since_ms=self._now_ms())

    def __call__(self) -> Progress:
        """What was told last; another object as soon as something new is."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._due_s:
            was_there, answered = self._admin is not None, None
            try:
                answered = self._ask()
            except (KafkaError, OSError) as err:
                log.warning("kafka.progress_unknown", group=self._group, error=f"{type(err).__name__}: {err}")
                self.close()
            since_ms = self._told.since_ms if was_there and answered else self._now_ms()
            self._told = msgspec.structs.replace(answered or self._told, since_ms=since_ms)
            self._due_s = self._clock.monotonic_s() + self._every_s
        return self._told

    def _now_ms(self) -> int:
        return round(1000 * self._clock.monotonic_s())

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with closing(admin):
                pass

    def _ask(self) -> Progress | None:
        if self._admin is None:
            self._admin = KafkaAdminClient(**self._config.client())
        told = self._admin.describe_topics(self._topics)
        partitions = [TopicPartition(t["name"], p["partition_index"]) for t in told for p in t["partitions"]]
        if not partitions:
            return None
        done = self._admin.list_group_offsets({self._group: partitions})[self._group]
        at_ms = self._now_ms()  # before the ends are asked for: what comes later is not promised
        ends = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        settled, spoken = {}, set()
        for partition in partitions:
            name, end = f"{partition.topic}/{partition.partition}", ends[partition].offset
            offset = max(0, done[partition].offset) if partition in done else 0
            settled[name] = self._judge(partition, offset, end, at_ms, self._told.settled.get(name))
            if end:
                spoken.add(name)
        return Progress(settled=settled, spoken=frozenset(spoken), asked_ms=at_ms)

    def _judge(self, partition: TopicPartition, done: int, end: int, at_ms: int, before_ms: int | None) -> int:
        """A busy partition never stands at its end: it is measured against the end of some time ago."""
        if done >= end:  # beyond it, too: the embedded broker tells ends that are too low by part of a batch
            self._asked.pop(partition, None)
            return at_ms
        asked_ms, wanted = self._asked.get(partition, (at_ms, end))
        if done < wanted:
            self._asked[partition] = (asked_ms, wanted)
            return before_ms or NEVER_MS
        self._asked[partition] = (at_ms, end)
        return asked_ms
