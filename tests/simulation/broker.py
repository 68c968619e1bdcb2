"""Kafka as the loops see it: logs, groups, and clients with the contract of `KafkaSource` and `KafkaSink`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from monitor.errors import Retryable
from monitor.intake.kafka import partition_of
from monitor.records import Place, Progress
from tests.simulation.world import World

Partition = tuple[str, int]
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message in a log."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class SimBroker:
    """Logs that only grow; per group its committed offsets and its members."""

    def __init__(self, world: World, topics: Mapping[str, int]) -> None:
        self.world = world
        self.topics = dict(topics)
        self.logs: dict[Partition, list[Record]] = {(t, p): [] for t, n in topics.items() for p in range(n)}
        self.committed: dict[tuple[str, Partition], int] = {}
        self.members: dict[str, list[SimSource]] = {}

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None
    ) -> Place:
        if partition is None:
            partition = partition_of(key.decode(), self.topics[topic]) if key is not None else 0
        log = self.logs[topic, partition]
        place = Place(topic=topic, partition=partition, offset=len(log))
        log.append(Record(place=place, key=key, value=value, headers=headers))
        return place

    def join(self, source: SimSource) -> None:
        self.members.setdefault(source.group, []).append(source)
        self.rebalance(source.group)

    def leave(self, source: SimSource) -> None:
        """Closed, dead or silent past its session; nobody tells the member."""
        members = self.members.get(source.group, [])
        if source in members:
            members.remove(source)
            self.rebalance(source.group)

    def rebalance(self, group: str) -> None:
        """Partitions are dealt out anew; members hear of it at once, in the middle of whatever they do."""
        members = self.members[group]
        if not members:
            return
        dealt: dict[int, set[Partition]] = {id(member): set() for member in members}
        partitions = sorted(p for p in self.logs if p[0] in members[0].topics)
        for partition in partitions:
            dealt[id(self.world.rng.choice(members))].add(partition)
        for member in members:
            member.revoke(dealt[id(member)])
        for member in members:
            member.assign(dealt[id(member)])


class SimSource:
    """A member of a group. Implements the loops' `Source` with the promises of `KafkaSource`."""

    def __init__(
        self,
        broker: SimBroker,
        *,
        name: str,
        topics: Sequence[str],
        group: str,
        positions: Callable[[str, int], int | None] | None = None,
    ) -> None:
        self.name, self.topics, self.group = name, tuple(topics), group
        self._broker, self._world, self._positions = broker, broker.world, positions
        self._started: dict[Partition, int] = {}
        self._assigned: list[Partition] = []
        self._lost: list[Partition] = []
        self._paused = False
        broker.join(self)

    # What the broker tells, at any moment.

    def revoke(self, kept: set[Partition]) -> None:
        gone = [p for p in self._started if p not in kept] + [p for p in self._assigned if p not in kept]
        self._lost += gone
        self._started = {p: at for p, at in self._started.items() if p in kept}
        self._assigned = [p for p in self._assigned if p in kept]

    def assign(self, dealt: set[Partition]) -> None:
        self._assigned += sorted(p for p in dealt if p not in self._started and p not in self._assigned)

    # What the loops call.

    def poll(self, messages_max: int, timeout_ms: int) -> list[Record]:
        world = self._world
        world.step(self.name, "poll")
        if self not in self._broker.members[self.group]:
            self.revoke(set())  # back from beyond its session: everything is lost, and it joins again
            self._broker.join(self)
        if world.may("broker_away"):
            raise Retryable("the broker is away")
        self._start_assigned()
        if self._paused:
            return []
        polled: list[Record] = []
        started = sorted(self._started)
        world.rng.shuffle(started)
        for partition in started:
            if world.may("slow_partition"):
                continue
            at, room = self._started[partition], messages_max - len(polled)
            room = min(room, world.rng.choice((1, 3, 10, 100))) if world.faulty else room
            batch = self._broker.logs[partition][at : at + room]
            self._started[partition] = at + len(batch)
            polled += batch
        return polled

    def lost(self) -> list[Partition]:
        lost, self._lost = self._lost, []
        return lost

    def assignment(self) -> list[Partition]:
        return sorted(self._started)

    def restart(self, partitions: Sequence[Partition]) -> None:
        ours = [p for p in partitions if p in self._started]
        for partition in ours:
            del self._started[partition]
        self._assigned += ours

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def commit(self, positions: Mapping[Partition, int]) -> None:
        world, broker = self._world, self._broker
        world.step(self.name, "commit offsets")
        ours = {p: at for p, at in positions.items() if p in self._started}
        if self not in broker.members[self.group]:
            raise Retryable("commit: not a member of the group")
        if world.may("offset_commit_fails"):
            raise Retryable("commit: failed")
        for partition, at in ours.items():
            broker.committed[self.group, partition] = at
        if world.may("offset_commit_ambiguous"):
            raise Retryable("commit: no answer")
        world.step(self.name, "offsets committed")

    def lag(self) -> dict[Partition, int]:
        return {p: len(self._broker.logs[p]) - at for p, at in self._started.items()}

    def _start_assigned(self) -> None:
        for partition in [p for p in self._assigned if p not in self._lost]:  # a loss is told before the return is
            start = self._positions(*partition) if self._positions else None
            if start is None:
                start = self._broker.committed.get((self.group, partition), 0)
            if self._world.may("redelivery"):
                start = max(0, start - self._world.rng.randint(1, 6))
            if partition in self._assigned:  # others may have acted while the database was asked
                self._assigned.remove(partition)
                self._started[partition] = start


class SimSink:
    """A producer: what was sent lies in a buffer until it flows, by itself or at `flush`; a crash takes the buffer along."""

    def __init__(self, broker: SimBroker, *, name: str) -> None:
        self._broker, self._world, self.name = broker, broker.world, name
        self._buffer: list[tuple[str, bytes | None, bytes | None, Headers, int | None]] = []

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        self._world.step(self.name, "send")
        if self._world.may("broker_away"):
            raise Retryable("the producer's buffer stays full")
        self._buffer.append((topic, key, value, tuple(headers), partition))
        if self._world.rng.random() < 0.3:
            self._flow(len(self._buffer))

    def flush(self) -> None:
        """All of it is in the log, or Retryable; then any part of it may be, now or later."""
        world = self._world
        world.step(self.name, "flush")
        if self._buffer and world.may("publish_late"):
            raise Retryable("flush: no answer in time")  # what is buffered flows later, after it was given up
        if self._buffer and world.may("publish_fails"):
            self._flow(world.rng.randint(0, len(self._buffer) - 1))
            self._buffer.clear()
            raise Retryable("flush: not accepted")
        self._flow(len(self._buffer))
        if world.may("publish_fails_written"):
            raise Retryable("flush: written, but nobody said so")
        world.step(self.name, "flushed")

    def _flow(self, count: int) -> None:
        flowing, self._buffer = self._buffer[:count], self._buffer[count:]
        for topic, key, value, headers, partition in flowing:
            self._broker.append(topic, key, value, headers, partition)


class SimProgress:
    """How far `score` has come, as `GroupProgress` tells it: a partition counts as far as it was last seen worked off."""

    def __init__(self, broker: SimBroker, topics: Sequence[str]) -> None:
        self._broker, self._topics = broker, tuple(topics)
        self._settled: dict[str, int] = {}

    def __call__(self) -> Progress:
        now_ms = round(1000 * self._broker.world.clock.monotonic_s())
        for partition, log in self._broker.logs.items():
            if partition[0] in self._topics:
                name = f"{partition[0]}/{partition[1]}"
                done = self._broker.committed.get(("score", partition), 0) >= len(log)
                self._settled[name] = now_ms if done else self._settled.get(name, 0)
        spoken = frozenset(f"{t}/{p}" for (t, p), log in self._broker.logs.items() if t in self._topics and log)
        return Progress(settled=dict(self._settled), spoken=spoken, asked_ms=now_ms)
