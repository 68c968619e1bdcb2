"""Kafka, by kafka-python: raw bytes in and out, offsets under our control, nothing lost on the way.

kafka-python calls rebalance listeners on its network thread, so they only note facts; `poll` acts on them. A newly
assigned partition is held back until its start is known and checked: a stored position, the group's committed offset,
or the policy for a new group. A start that the broker no longer has is refused, never silently reset.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import kafka
import structlog
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    KafkaError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
)
from kafka.structs import OffsetAndMetadata, TopicPartition

from monitor.clock import Clock, SystemClock
from monitor.errors import Fatal, Retryable
from monitor.intake.merge import EventTimeMerge
from monitor.records import Place

log = structlog.get_logger()
logging.getLogger("kafka").setLevel(logging.CRITICAL)  # we report what we can act on; it repeats itself each second

Partition = tuple[str, int]
Positions = Callable[[str, int], int | None]
Client = TypeVar("Client")
EVENT_HEADER = "event-ms"
_POLL_COUNTS_S = 0.25
_PATIENCE_S = 5.0  # a partition that has messages but shows none for so long must not hold the others


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """How to reach the brokers, and how long messages wait for older ones of other partitions. `password` never appears in a repr."""

    bootstrap_servers: str
    client_id: str = "tapewatch"
    session_timeout_ms: int = 30_000
    max_poll_interval_ms: int = 300_000
    first_offset: Literal["earliest", "latest"] = "earliest"
    static_member: str | None = None
    security_protocol: str = "PLAINTEXT"
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_password: str | None = field(default=None, repr=False)
    request_timeout_ms: int = 30_000
    bootstrap_timeout_ms: int = 10_000
    settle_ms: int = 250
    coordinator_max_s: float = 30.0

    def client(self) -> dict[str, Any]:
        """Keyword arguments that every kafka-python client takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "request_timeout_ms": self.request_timeout_ms,
            "bootstrap_timeout_ms": self.bootstrap_timeout_ms,
        }
        secured = {
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            "ssl_password": self.ssl_password,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
        }
        return options | {name: value for name, value in secured.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMessage:
    """A message as the broker holds it. `timestamp_ms`: the event's time if its producer said so, else the record's."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


class TopicTruncated(Fatal):
    """The topic no longer holds the offset we are to read next: it expired, or the topic was made anew."""


class KafkaSource:
    """A consumer in a group. `positions` gives the stored next offset of a partition, or None to use the group's own.

    With `merged`, partitions are read in the order of their messages' timestamps, see `EventTimeMerge`.
    """

    def __init__(
        self,
        config: KafkaConfig,
        *,
        topics: Sequence[str],
        group: str,
        positions: Positions | None = None,
        merged: bool = False,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._config, self._positions = config, positions
        self._merge: EventTimeMerge[RawMessage] | None = EventTimeMerge() if merged else None
        self._clock: Clock = clock
        self._owed_s: dict[Partition, float] = {}
        self._merged_s = clock.monotonic_s()
        self._unproved: dict[TopicPartition, int] = {}
        self._lock = threading.Lock()
        self._assigned: list[TopicPartition] = []
        self._lost: list[Partition] = []
        self._started: set[TopicPartition] = set()
        self._paused = False
        self._topics, self._group = list(topics), group
        self._coordinated_s = clock.monotonic_s()
        self._consumer, self._listener = self._join()

    def poll(self, messages_max: int, timeout_ms: int) -> list[RawMessage]:
        """At most `messages_max` messages of partitions that are ours; raises TopicTruncated or Retryable."""
        self._rejoin_if_stuck()
        try:
            self._start_assigned()
            _unpark(self._consumer)
            batches = self._consumer.poll(timeout_ms=timeout_ms, max_records=messages_max)
        except OffsetOutOfRangeError as err:
            partition, start = next(iter(err.args[0].items()))
            raise _truncated(partition, start, "the broker does not hold it") from err
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {type(err).__name__}: {err}") from err
        with self._lock:
            started = set(self._started)
        self._prove_starts(started)
        fresh = [_raw(record) for partition, records in batches.items() if partition in started for record in records]
        return fresh if self._merge is None else self._merged(self._merge, fresh, started, messages_max)

    def lost(self) -> list[Partition]:
        """Partitions that went to somebody else since the last call."""
        with self._lock:
            lost, self._lost = self._lost, []
        for partition in lost:
            self._owed_s.pop(partition, None)
        if self._merge is not None:
            self._merge.forget(lost)
        return lost

    def restart(self, partitions: Sequence[Partition]) -> None:
        """Read these again from their stored position, as if they had just been assigned."""
        again = [TopicPartition(*partition) for partition in partitions]
        if self._merge is not None:
            self._merge.forget(partitions)
        with self._lock:
            ours = [p for p in again if p in self._started]
            self._started -= set(ours)
            self._assigned += ours
        if ours:
            self._consumer.pause(*ours)

    def assignment(self) -> list[Partition]:
        """Partitions that are ours and started."""
        with self._lock:
            return sorted((p.topic, p.partition) for p in self._started)

    def pause(self) -> None:
        """Take no more messages, but stay in the group: `poll` goes on being called."""
        self._paused = True
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        self._paused = False
        with self._lock:
            self._consumer.resume(*self._started)

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """Tell the group our next offsets, for partitions that are still ours."""
        with self._lock:
            ours = {p: positions[p.topic, p.partition] for p in self._started if (p.topic, p.partition) in positions}
        if not ours:
            return
        try:
            self._consumer.commit({p: OffsetAndMetadata(offset, "", -1) for p, offset in ours.items()})
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: commit: {type(err).__name__}: {err}") from err

    def lag(self) -> dict[Partition, int]:
        """Messages between our position and the end, per started partition; raises Retryable."""
        with self._lock:
            started = sorted(self._started)
        try:
            ends = self._consumer.end_offsets(started) if started else {}
            return {(p.topic, p.partition): end - self._consumer.position(p) for p, end in ends.items()}
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {type(err).__name__}: {err}") from err

    def close(self) -> None:
        self._consumer.close()

    def _join(self) -> tuple[Any, _Listener]:
        config = self._config
        consumer = _connect(
            lambda: kafka.KafkaConsumer(
                **config.client(),
                group_id=self._group,
                group_instance_id=config.static_member,
                enable_auto_commit=False,
                auto_offset_reset="none",
                partition_assignment_strategy=[CooperativeStickyAssignor],
                session_timeout_ms=config.session_timeout_ms,
                heartbeat_interval_ms=max(500, config.session_timeout_ms // 10),
                max_poll_interval_ms=config.max_poll_interval_ms,
                fetch_max_wait_ms=100,
            ),
            config,
        )
        listener = _Listener(self, consumer)
        consumer.subscribe(topics=self._topics, listener=listener)
        return consumer, listener

    def _rejoin_if_stuck(self) -> None:
        """Begin anew with another consumer when the group's coordinator is not found for too long.

        kafka-python 3.0.12 can wait for ever for the answer to one lost question, while polls go on as if all were well.
        Raises Retryable when the broker is away; the old consumer is kept then.
        """
        now_s = self._clock.monotonic_s()
        if self._consumer._coordinator.coordinator_id is not None:
            self._coordinated_s = now_s
        if now_s - self._coordinated_s < self._config.coordinator_max_s:
            return
        self._coordinated_s = now_s
        stuck, mute = self._consumer, self._listener
        self._consumer, self._listener = self._join()
        mute.deaf = True
        log.warning("kafka.rejoined", group=self._group, waited_s=self._config.coordinator_max_s)
        with self._lock:
            ours = {(p.topic, p.partition) for p in self._started} | {(p.topic, p.partition) for p in self._assigned}
            self._lost += sorted(ours)
            self._started, self._assigned = set(), []
        if self._merge is not None:
            self._merge.forget(ours)
        # A consumer that hangs may hang in closing too: nobody waits for it.
        threading.Thread(target=_close_quietly, args=(stuck,), name="kafka-close", daemon=True).start()

    def _start_assigned(self) -> None:
        with self._lock:
            # One that went and came back is held until its loss was told: what is read of it now would be dropped as lost.
            untold = [p for p in self._assigned if (p.topic, p.partition) in self._lost]
            assigned = [p for p in self._assigned if p not in untold]
            self._assigned = untold
        for partition in assigned:
            try:
                self._consumer.seek(partition, self._start(partition))
            except BaseException:
                with self._lock:
                    self._assigned.append(partition)  # not started: tried again at the next poll
                raise
            with self._lock:
                self._started.add(partition)
            if not self._paused:
                self._consumer.resume(partition)

    def _start(self, partition: TopicPartition) -> int:
        stored = self._positions(partition.topic, partition.partition) if self._positions else None
        if stored is None:
            stored = self._consumer.committed(partition)
        if stored is None:
            if self._config.first_offset == "latest":
                return int(self._consumer.end_offsets([partition])[partition])
            return int(self._consumer.beginning_offsets([partition])[partition])
        first = self._consumer.beginning_offsets([partition])[partition]
        if stored < first:
            raise _truncated(partition, stored, f"the topic starts at {first}")
        self._unproved[partition] = int(stored)
        return int(stored)

    def _prove_starts(self, started: set[TopicPartition]) -> None:
        """A start beyond the end is found at the first fetch: not every broker refuses to fetch there."""
        for partition, start in list(self._unproved.items()):
            if partition not in started:
                del self._unproved[partition]
                continue
            end = self._consumer.highwater(partition)
            if end is None:
                continue
            del self._unproved[partition]
            if end < start:
                raise _truncated(partition, start, f"the topic ends at {end}")

    def _merged(
        self,
        merge: EventTimeMerge[RawMessage],
        fresh: list[RawMessage],
        started: set[TopicPartition],
        messages_max: int,
    ) -> list[RawMessage]:
        """Wait for the next message of a partition while it has one, but not for ever; see `EventTimeMerge.release`."""
        now_s = self._clock.monotonic_s()
        merge.add(fresh, now_s=now_s)
        # Patience is counted in time spent polling: while the model holds us up, nobody can show anything.
        passed_s, self._merged_s = min(now_s - self._merged_s, _POLL_COUNTS_S), now_s
        holding, quiet, waiting_for = merge.holding(), set(), set()
        for partition in started:
            name = (partition.topic, partition.partition)
            drained = self._drained(partition)
            owes = not drained and name not in holding
            self._owed_s[name] = self._owed_s.get(name, 0.0) + passed_s if owes else 0.0
            if drained:
                quiet.add(name)
            elif self._owed_s[name] < _PATIENCE_S:
                waiting_for.add(name)
        released = merge.release(
            waiting_for,
            messages_max,
            quiet=quiet,
            arrived_by_s=now_s - self._config.settle_ms / 1000,
        )
        if not self._paused:
            full = {TopicPartition(*partition) for partition in merge.full()} & started
            if full:
                self._consumer.pause(*full)
            flowing = (started - full) & self._consumer.paused()
            if flowing:
                self._consumer.resume(*flowing)
        return released

    def _drained(self, partition: TopicPartition) -> bool:
        end = self._consumer.highwater(partition)
        return end is not None and self._consumer.position(partition) >= end


class KafkaSink:
    """An idempotent producer that answers for every message: `flush` returns when all are acknowledged."""

    def __init__(self, config: KafkaConfig, *, flush_timeout_s: float = 30.0) -> None:
        self._config, self._flush_timeout_s = config, flush_timeout_s
        self._failed: list[BaseException] = []
        self._producer = _connect(
            lambda: kafka.KafkaProducer(
                **config.client(),
                enable_idempotence=True,
                acks="all",
                linger_ms=5,
                batch_size=65_536,
                max_block_ms=int(flush_timeout_s * 1_000),
            ),
            config,
        )

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        event_ms: int | None = None,
    ) -> None:
        """Hand one message over; raises Retryable when the buffer stays full or the broker is away.

        `event_ms` travels as a header. It must not be the record's timestamp: brokers expire by that, and the messages of
        an old stream would be deleted before anybody read them.
        """
        told = [*headers, (EVENT_HEADER, str(event_ms).encode())] if event_ms is not None else list(headers)
        try:
            future = self._producer.send(topic, key=key, value=value, headers=told)
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {topic}: {type(err).__name__}: {err}") from err
        future.add_errback(self._failed.append)

    def flush(self) -> None:
        """Raises Retryable unless everything sent since the last flush is acknowledged."""
        try:
            self._producer.flush(timeout=self._flush_timeout_s)
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {type(err).__name__}: {err}") from err
        if self._failed:
            failed, self._failed = self._failed, []
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {len(failed)} not accepted: {failed[0]}")

    def close(self) -> None:
        self._producer.close(timeout=self._flush_timeout_s)


def ensure_topics(config: KafkaConfig, topics: Mapping[str, int], *, create: bool) -> None:
    """Make sure the topics (name → partitions) exist. Raises Retryable without a broker, Fatal without the topic."""
    admin = _connect(lambda: KafkaAdminClient(**config.client()), config)
    try:
        missing = sorted(set(topics) - set(admin.list_topics()))
        if missing and not create:
            raise Fatal(
                f"kafka {config.bootstrap_servers}: no topic {', '.join(missing)}; create it, correct the name under "
                "[kafka], or set kafka.create_topics = true"
            )
        for name in missing:
            try:
                admin.create_topics([NewTopic(name, topics[name], 1)])
            except TopicAlreadyExistsError:
                continue  # another role was faster
    except KafkaError as err:
        raise Retryable(f"kafka {config.bootstrap_servers}: {type(err).__name__}: {err}") from err
    finally:
        admin.close()


class _Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Runs on kafka-python's thread: notes what happened and holds new partitions back."""

    def __init__(self, source: KafkaSource, consumer: Any) -> None:
        self._source, self._consumer = source, consumer
        self.deaf = False

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        source = self._source
        if self.deaf:
            return
        with source._lock:
            fresh = [p for p in assigned if p not in source._started and p not in source._assigned]
        if fresh:
            self._consumer.pause(*fresh)
            for partition in fresh:  # a placeholder position, so that no fetch asks for a reset; never read from
                self._consumer.seek(partition, 0)
        with source._lock:  # told last: `poll` on the other thread must not start it before it is held back
            source._assigned += fresh

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        source = self._source
        if self.deaf:
            return
        with source._lock:
            source._lost += [(p.topic, p.partition) for p in revoked]
            source._started -= set(revoked)
            source._assigned = [p for p in source._assigned if p not in revoked]


def _connect(make: Callable[[], Client], config: KafkaConfig) -> Client:
    try:
        return make()
    except (OSError, KafkaError) as err:
        raise Retryable(f"kafka {config.bootstrap_servers}: no broker answers ({type(err).__name__})") from err


def _unpark(consumer: Any) -> None:
    """Work around kafka-python 3.0.12: what was fetched of a partition before it was paused is parked, and taken up again
    only while no other batch is in line; an exhausted batch stays in line for ever, so the partition would never go on."""
    fetcher = getattr(consumer, "_fetcher", None)
    current = getattr(fetcher, "_next_partition_records", None)
    if fetcher is not None and current is not None and not current:
        fetcher._next_partition_records = None


def _close_quietly(consumer: Any) -> None:
    with suppress(Exception):
        consumer.close()


def _raw(record: Any) -> RawMessage:
    headers = tuple(record.headers or ())
    stated = next((value for name, value in headers if name == EVENT_HEADER), b"")
    return RawMessage(
        place=Place(topic=record.topic, partition=record.partition, offset=record.offset),
        key=record.key,
        value=record.value,
        headers=tuple(pair for pair in headers if pair[0] != EVENT_HEADER),
        timestamp_ms=int(stated) if stated.isdigit() and len(stated) < 16 else record.timestamp,
    )


def _truncated(partition: TopicPartition, start: int, found: str) -> TopicTruncated:
    return TopicTruncated(
        f"{partition.topic}/{partition.partition}: the next offset is {start}, but {found}; messages expired or the topic "
        "was made anew: look into it before going on"
    )
