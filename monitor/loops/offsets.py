"""Which offset of each partition may be committed: the lowest one still in flight, so that nothing is skipped."""

from __future__ import annotations

from collections import defaultdict

from monitor.records import Place

Partition = tuple[str, int]


class OffsetTracker:
    """Places go in as they are received and out as they are finished, in any order. Pure bookkeeping."""

    def __init__(self) -> None:
        self._in_flight: defaultdict[Partition, set[int]] = defaultdict(set)
        self._next: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}

    def received(self, place: Place) -> None:
        partition = (place.topic, place.partition)
        self._in_flight[partition].add(place.offset)
        self._next[partition] = max(self._next.get(partition, 0), place.offset + 1)

    def finished(self, place: Place) -> None:
        """Forgotten partitions are ignored: their work was discarded when they were lost."""
        self._in_flight.get((place.topic, place.partition), set()).discard(place.offset)

    def forget(self, partition: Partition) -> None:
        """The partition was taken from us: whoever has it now starts at the committed offset."""
        for table in (self._in_flight, self._next, self._committed):
            table.pop(partition, None)

    def committable(self) -> dict[Partition, int]:
        """Next offset per partition, only where it has moved since the last call to `committed`."""
        positions = {p: min(self._in_flight[p], default=following) for p, following in self._next.items()}
        return {p: position for p, position in positions.items() if position > self._committed.get(p, -1)}

    def committed(self, positions: dict[Partition, int]) -> None:
        self._committed.update(positions)

    @property
    def in_flight(self) -> int:
        return sum(len(offsets) for offsets in self._in_flight.values())
