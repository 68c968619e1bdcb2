"""Several partitions read as one, oldest first: what is behind catches up before what is ahead goes on. Pure.

    news/0   ──9:00──9:02──9:07          released: 9:00 9:01 9:02 … as long as every partition that still has
    news/1   ──9:01──9:04── (in flight)  messages to give shows its next one

Without it, catching up on a backlog would read one partition hours ahead of the others, and their mentions would come
late. It orders by the time of publication where the producer tells it in a header, else by the record's timestamp.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from typing import Generic, Protocol, TypeVar

from monitor.records import Place

Partition = tuple[str, int]


class Timed(Protocol):
    """Anything with a place and a timestamp."""

    @property
    def place(self) -> Place: ...
    @property
    def timestamp_ms(self) -> int: ...


M = TypeVar("M", bound=Timed)


class EventTimeMerge(Generic[M]):
    """Holds at most `messages_max` a partition, plus what one poll brings."""

    def __init__(self, messages_max: int = 2_000) -> None:
        self._messages_max = messages_max
        self._full: set[Partition] = set()
        self._held: dict[Partition, deque[tuple[M, float]]] = {}

    def add(self, messages: Iterable[M], *, now_s: float = 0.0) -> None:
        """Messages of one partition come in offset order."""
        for message in messages:
            self._held.setdefault((message.place.topic, message.place.partition), deque()).append((message, now_s))

    def release(
        self,
        waiting_for: Collection[Partition],
        messages_max: int,
        *,
        quiet: Collection[Partition] = (),
        arrived_by_s: float = math.inf,
    ) -> list[M]:
        """The oldest messages, until a partition in `waiting_for` has nothing to compare with.

        `quiet` partitions have been read to their end, but a producer that sends to all of them at once is acknowledged
        by one after the other: while one of them shows nothing, only what has arrived by `arrived_by_s` goes on.
        """
        released: list[M] = []
        while self._held and len(released) < messages_max:
            if any(partition not in self._held for partition in waiting_for):
                break
            oldest = min(self._held, key=lambda partition: (self._held[partition][0][0].timestamp_ms, partition))
            message, arrived_s = self._held[oldest][0]
            if arrived_s > arrived_by_s and any(partition not in self._held for partition in quiet):
                break
            self._held[oldest].popleft()
            released.append(message)
            if not self._held[oldest]:
                del self._held[oldest]
        return released

    def holding(self) -> set[Partition]:
        """Partitions that have something to release."""
        return set(self._held)

    def full(self) -> set[Partition]:
        """Partitions to fetch no more of for now: full ones, until they are half empty."""
        counts = {partition: len(held) for partition, held in self._held.items()}
        self._full = {p for p in self._full if counts.get(p, 0) * 2 > self._messages_max}
        self._full |= {partition for partition, count in counts.items() if count >= self._messages_max}
        return set(self._full)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Lost partitions: their messages are somebody else's now."""
        for partition in partitions:
            self._held.pop(partition, None)

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))
