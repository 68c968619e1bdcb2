"""Kafka, by kafka-python: raw bytes in and out, offsets under our control, nothing lost on the way.

kafka-python calls rebalance listeners on its network thread, so they only note facts; `poll` acts on them. A newly
assigned partition is held back until its start is known and checked: a stored position, the group's committed offset,
or the policy for a new group. A start that the broker no longer has, or a topic that is not the one we read before, is
refused: the partition is held, the others go on, and what an operator accepted is looked for every few seconds.

How we stand in the group is watched, see `Membership`: a member that owns nothing for want of an answer, or beside
partitions that belong to nobody, says so and acts.
"""

from __future__ import annotations

import logging
import struct
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
    FencedInstanceIdError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
    TopicAlreadyExistsError,
)
from kafka.partitioner.default import murmur2
from kafka.protocol.admin import DescribeGroupsRequest
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from monitor.clock import Clock, SystemClock
from monitor.errors import Fatal, NotNow, Retryable
from monitor.intake.anchors import Anchor, Anchors, Hold, HoldReason, Refused
from monitor.intake.membership import GroupView, Membership, MembershipPolicy, Step
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
    membership: MembershipPolicy = field(default_factory=MembershipPolicy)
    goodbye_max_s: float = 5.0  # for a join that is on its way when we leave
    metadata_max_age_ms: int = 5_000
    look_again_s: float = 5.0  # at a partition that is held

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


class KafkaSource:
    """A consumer in a group. `positions` gives the stored next offset of a partition, or None to use the group's own.

    With `merged`, partitions are read in the order of their messages' timestamps, see `EventTimeMerge`. `anchors` remembers
    which topic the offsets belong to; `on_held` is told of all partitions that are held whenever they change, `on_standing`
    at each poll why we own no partitions although we should, or None.
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
        anchors: Anchors | None = None,
        on_held: Callable[[Mapping[Partition, Hold]], None] = lambda _held: None,
        on_standing: Callable[[str | None], None] = lambda _fault: None,
    ) -> None:
        clock = clock or SystemClock()
        self._config, self._positions = config, positions
        self._anchors, self._on_held, self._on_standing = anchors, on_held, on_standing
        self._topic_ids: dict[TopicPartition, str] = {}
        self._unproved: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, Hold] = {}
        self._told: dict[Partition, Hold] = {}
        self._look_again_s: dict[TopicPartition, float] = {}
        self._merge: EventTimeMerge[RawMessage] | None = EventTimeMerge() if merged else None
        self._clock: Clock = clock
        self._owed_s: dict[Partition, float] = {}
        self._merged_s = clock.monotonic_s()
        self._lock = threading.Lock()
        self._assigned: list[TopicPartition] = []
        self._lost: list[Partition] = []
        self._started: set[TopicPartition] = set()
        self._paused = False
        self._topics, self._group = list(topics), group
        self._membership = Membership(config.membership, group=group, now_s=clock.monotonic_s())
        self._view: Any = None
        self._asked_for_the_rest = False
        self._consumer, self._listener, self._assignor = self._join()

    def poll(self, messages_max: int, timeout_ms: int) -> list[RawMessage]:
        """At most `messages_max` messages of partitions that are ours and not held; raises Retryable."""
        if self._stand() is Step.BEGIN_ANEW:
            self._begin_anew()
        try:
            self._start_assigned()
            _unpark(self._consumer)
            _finish_join(self._consumer)
            batches = self._consumer.poll(timeout_ms=timeout_ms, max_records=messages_max)
        except (OffsetOutOfRangeError, LogTruncationError) as err:
            self._refuse_out_of_range(err)
            self._tell_held()
            return []
        except FencedInstanceIdError as err:
            raise self._replaced() from err
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {type(err).__name__}: {err}") from err
        if self._config.static_member is not None and _is_fenced(self._consumer):
            raise self._replaced()
        self._ask_for_the_rest()
        self._check_identities()
        with self._lock:
            started = set(self._started)
        started -= self._prove_starts(started)
        self._tell_held()
        fresh = [_raw(record) for partition, records in batches.items() if partition in started for record in records]
        return fresh if self._merge is None else self._merged(self._merge, fresh, started, messages_max)

    def held(self) -> dict[Partition, Hold]:
        """Partitions of ours that are not read, and why."""
        with self._lock:
            return {(p.topic, p.partition): hold for p, hold in sorted(self._held.items())}

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
        """Tell the group our next offsets, for partitions that are still ours. Raises NotNow while the group deals anew."""
        with self._lock:
            ours = {p: positions[p.topic, p.partition] for p in self._started if (p.topic, p.partition) in positions}
        if not ours:
            return
        try:
            self._consumer.commit({p: OffsetAndMetadata(offset, "", -1) for p, offset in ours.items()})
        except FencedInstanceIdError as err:
            raise self._replaced() from err
        except RebalanceInProgressError as err:
            raise NotNow(
                f"kafka {self._config.bootstrap_servers}: commit: the group is dealing its partitions"
            ) from err
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: commit: {type(err).__name__}: {err}") from err

    def lag(self) -> dict[Partition, int]:
        """Messages between our position and the end, per started partition, and at least one while nothing was fetched yet.

        Raises Retryable.
        """
        with self._lock:
            started = sorted(self._started)
        try:
            ends = self._consumer.end_offsets(started) if started else {}
            return {(p.topic, p.partition): self._behind(p, end) for p, end in ends.items()}
        except KafkaError as err:
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {type(err).__name__}: {err}") from err

    def _behind(self, partition: TopicPartition, end: int) -> int:
        fetched_end = self._consumer.highwater(partition)
        behind = max(end, fetched_end or 0) - self._consumer.position(partition)
        return int(behind if fetched_end is not None else max(1, behind))

    def close(self) -> None:
        self._finish_join_before_goodbye()
        self._consumer.close()

    def _finish_join_before_goodbye(self) -> None:
        """Who leaves in the middle of a join makes trouble for whoever comes next: the embedded broker goes on waiting for
        an assignment from a leader that left, for ever. One that vanishes is forgotten with its session."""
        coordinator = self._consumer._coordinator
        give_up_s = self._clock.monotonic_s() + self._config.goodbye_max_s
        with suppress(KafkaError):
            while coordinator._join_task is not None:
                if self._clock.monotonic_s() >= give_up_s:
                    coordinator.reset_generation()  # vanish: without a name in the group there is no goodbye
                    return
                _finish_join(self._consumer)
                self._consumer.poll(timeout_ms=100, max_records=1)

    def _join(self) -> tuple[Any, _Listener, _Assignor]:
        config, assignor = self._config, _Assignor()
        consumer = _connect(
            lambda: kafka.KafkaConsumer(
                **config.client(),
                group_id=self._group,
                group_instance_id=config.static_member,
                enable_auto_commit=False,
                auto_offset_reset="none",
                partition_assignment_strategy=[assignor],
                session_timeout_ms=config.session_timeout_ms,
                heartbeat_interval_ms=max(500, config.session_timeout_ms // 10),
                max_poll_interval_ms=config.max_poll_interval_ms,
                metadata_max_age_ms=config.metadata_max_age_ms,
                fetch_max_wait_ms=100,
            ),
            config,
        )
        _take_finished_joins(consumer._coordinator)
        assignor.owned = consumer._subscription.assigned_partitions
        listener = _Listener(self, consumer)
        consumer.subscribe(topics=self._topics, listener=listener)
        return consumer, listener, assignor

    def _ask_for_the_rest(self) -> None:
        """A static member that comes back gets what it had, and nobody rebalances. If it died in the middle of a move, what
        was to move belongs to nobody since, and if it led the group, nobody looks out for partitions that are added: so each
        asks once for another round, which takes nothing away from anybody."""
        if self._config.static_member is None or self._asked_for_the_rest or not self._consumer._coordinator.stable():
            return
        self._asked_for_the_rest = True
        self._ask_for_a_round()

    def _ask_for_a_round(self) -> None:
        self._assignor.round += 1
        self._consumer._coordinator.request_rejoin()

    def _replaced(self) -> Fatal:
        return Fatal(
            f"kafka.static_member {self._config.static_member}: another process joined group {self._group} under this name, "
            "so this one must not go on; give each process a name of its own"
        )

    def _stand(self) -> Step:
        """How we stand in the group, and what is to be done; what can be done at once is."""
        now_s, coordinator = self._clock.monotonic_s(), self._consumer._coordinator
        generation, owned = coordinator._generation, self._owned()
        step = self._membership.seen(
            now_s,
            coordinator=coordinator.coordinator_id is not None,
            stable=coordinator.stable(),
            generation=(generation.generation_id, generation.member_id),
            owned=owned,
        )
        if step is not Step.BEGIN_ANEW and (view := self._answered()) is not None:
            told = self._membership.told(
                view, now_s, us=generation.member_id, owned=owned, partitions=self._partitions()
            )
            step = told if told is Step.ASK_AGAIN else step
        if step is Step.LOOK and self._view is None:
            self._view = _look(self._consumer, self._group)
        if step is Step.ASK_AGAIN:
            unowned = [f"{topic}/{number}" for topic, number in sorted(self._membership.unowned())]
            log.warning("kafka.asked_for_a_round", group=self._group, unowned=unowned)
            self._ask_for_a_round()
        self._on_standing(self._membership.fault())
        return step

    def _answered(self) -> GroupView | None:
        """What the coordinator told since the last poll."""
        if self._view is None or not self._view.is_done:
            return None
        answer, self._view = self._view, None
        return _view_of(answer.value, self._group) if answer.succeeded() else None

    def _owned(self) -> set[Partition]:
        return {(p.topic, p.partition) for p in self._consumer._subscription.assigned_partitions()}

    def _partitions(self) -> set[Partition]:
        """Of our topics, as the broker told last."""
        cluster = self._consumer._client.cluster
        return {(topic, number) for topic in self._topics for number in cluster.partitions_for_topic(topic) or ()}

    def _begin_anew(self) -> None:
        """With another consumer, when the group's coordinator is not found or a join does not end.

        kafka-python 3.0.12 can wait for ever for the answer to one lost question, while polls go on as if all were well.
        Raises Retryable when the broker is away; the old consumer is kept then.
        """
        stuck, mute = self._consumer, self._listener
        self._membership.begun_anew(self._clock.monotonic_s())
        self._consumer, self._listener, self._assignor = self._join()
        self._asked_for_the_rest, self._view = False, None
        log.warning("kafka.rejoined", group=self._group)
        with self._lock:
            mute.deaf = True
            ours = {(p.topic, p.partition) for p in self._started} | {(p.topic, p.partition) for p in self._assigned}
            self._lost += sorted(ours)
            self._started, self._assigned = set(), []
            for known in (self._held, self._topic_ids, self._look_again_s, self._unproved):
                known.clear()
        if self._merge is not None:
            self._merge.forget(ours)
        # A consumer that hangs may hang in closing too: nobody waits for it.
        threading.Thread(target=_close_quietly, args=(stuck,), name="kafka-close", daemon=True).start()

    def _start_assigned(self) -> None:
        """Find out where each new partition starts. One that is refused or not known yet does not hold up the others."""
        with self._lock:
            # One that went and came back is held until its loss was told: what is read of it now would be dropped as lost.
            untold = [p for p in self._assigned if (p.topic, p.partition) in self._lost]
            waiting = [p for p in self._assigned if p not in untold]
            self._assigned = untold
        now_s = self._clock.monotonic_s()
        while waiting:
            partition = waiting.pop()
            if now_s < self._look_again_s.get(partition, now_s):
                self._wait_again(partition)
                continue
            try:
                start = self._start(partition)
                self._consumer.seek(partition, start)
            except Refused as err:
                self._hold(partition, err.hold)
                continue
            except BaseException:
                with self._lock:
                    self._assigned += [partition, *waiting]  # not started: tried again at the next poll
                raise
            self._let_go(partition)
            with self._lock:
                self._started.add(partition)
            if not self._paused:
                self._consumer.resume(partition)

    def _start(self, partition: TopicPartition) -> int:
        """Raises Refused when there is no start that loses nothing, Retryable when the database is away."""
        topic_id = self._topic_id(partition.topic)
        known = self._topic_ids.get(partition)  # while the partition is ours, reading it again needs no database
        anchor = self._anchor(partition) if known is None else None
        if known is None:
            known = anchor.topic_id if anchor is not None else topic_id
        if known and topic_id and known != topic_id:
            raise Refused(_recreated(partition, known, topic_id))
        accepted = anchor.accepted_next if anchor is not None else None
        stored = accepted
        if stored is None:
            stored = self._positions(partition.topic, partition.partition) if self._positions else None
        if stored is None:
            stored = self._consumer.committed(partition)
        start = self._first(partition) if stored is None else int(stored)
        first = self._consumer.beginning_offsets([partition])[partition]
        if start < first:
            raise Refused(_expired(partition, start, first))
        held = self._held.get(partition)
        if held is not None and held.reason is HoldReason.BEYOND_THE_END and start > self._end(partition):
            raise Refused(held)
        if self._positions is None and (accepted is not None or stored is None):
            # Whoever comes next starts here as well, and whoever asks how far the group is gets an answer.
            self._consumer.commit({partition: OffsetAndMetadata(start, "", -1)})
        if partition not in self._topic_ids:
            self._drop_anchor(partition, anchor, topic_id)
        self._topic_ids[partition] = topic_id
        self._unproved[partition] = start
        return start

    def _anchor(self, partition: TopicPartition) -> Anchor | None:
        if self._anchors is None:
            return None
        try:
            return self._anchors.anchor(self._group, partition.topic, partition.partition)
        except Retryable as err:
            where = f"{partition.topic}/{partition.partition}"
            detail = f"{where}: it can't be told whether this is the topic that was read before: {err}"
            raise Refused(Hold(reason=HoldReason.IDENTITY_UNKNOWN, detail=detail)) from err

    def _drop_anchor(self, partition: TopicPartition, found: Anchor | None, topic_id: str) -> None:
        settled = found is not None and found.accepted_next is None and found.refused_reason is None
        if self._anchors is None or (settled and found is not None and found.topic_id == topic_id):
            return
        now_ms = self._clock.now_ms()
        self._anchors.drop_anchor(self._group, partition.topic, partition.partition, topic_id, now_ms=now_ms)

    def _topic_id(self, topic: str) -> str:
        """As the broker told last; empty where it gives topics none."""
        found = self._consumer._client.cluster.topic_id(topic)
        return str(found) if found is not None and found.int else ""

    def _end(self, partition: TopicPartition) -> int:
        """The embedded broker answers with the start of its last batch plus one; what it says with a fetch is right."""
        return max(int(self._consumer.end_offsets([partition])[partition]), self._consumer.highwater(partition) or 0)

    def _first(self, partition: TopicPartition) -> int:
        """Where a group starts that has never read this partition. One that was added later is new, and read whole."""
        if self._config.first_offset == "earliest":
            return int(self._consumer.beginning_offsets([partition])[partition])
        end = int(
            self._consumer.end_offsets([partition])[partition]
        )  # asked first: what comes meanwhile is not skipped
        since_ms = self._anchors.anchored_since_ms(self._group, partition.topic) if self._anchors is not None else None
        if since_ms is not None:
            found = self._consumer.offsets_for_times({partition: since_ms})[partition]
            if found is not None:
                return min(end, int(found.offset))
        return end

    def _check_identities(self) -> None:
        """A topic that was made anew while we read it: the client learns of it with its metadata, every few seconds."""
        with self._lock:
            started = sorted(self._started)
        for partition in started:
            known, told = self._topic_ids.get(partition), self._topic_id(partition.topic)
            if known and told and known != told:
                self._refuse(partition, _recreated(partition, known, told))

    def _prove_starts(self, started: set[TopicPartition]) -> set[TopicPartition]:
        """A start beyond the end shows at the first fetch; returns those that are refused."""
        refused = set()
        for partition, start in list(self._unproved.items()):
            if partition not in started:
                self._unproved.pop(partition, None)
                continue
            end = self._consumer.highwater(partition)
            if end is None:
                continue
            self._unproved.pop(partition, None)
            if end < start:
                self._refuse(partition, _beyond(partition, start, end))
                refused.add(partition)
        return refused

    def _refuse_out_of_range(self, err: OffsetOutOfRangeError | LogTruncationError) -> None:
        told = err.args[0] if err.args and isinstance(err.args[0], dict) else getattr(err, "divergent_offsets", {})
        for partition in told:
            with self._lock:
                if partition not in self._started:
                    continue
            try:
                at = self._consumer.position(partition)
                first = self._consumer.beginning_offsets([partition])[partition]
                end = self._end(partition)
            except KafkaError as away:
                raise Retryable(f"kafka {self._config.bootstrap_servers}: {type(away).__name__}: {away}") from away
            self._refuse(partition, _expired(partition, at, first) if at < first else _beyond(partition, at, end))

    def _refuse(self, partition: TopicPartition, hold: Hold) -> None:
        """Stop reading it: what was read and not written yet is dropped, as if the partition had been lost."""
        with self._lock:
            if partition not in self._started:
                return
            self._started.discard(partition)
            self._lost.append((partition.topic, partition.partition))
        self._consumer.pause(partition)
        self._hold(partition, hold)

    def _hold(self, partition: TopicPartition, hold: Hold) -> None:
        self._topic_ids.pop(partition, None)  # asked anew: an operator may have accepted
        self._look_again_s[partition] = self._clock.monotonic_s() + self._config.look_again_s
        self._wait_again(partition)
        with self._lock:
            told, self._held[partition] = self._held.get(partition), hold
        if told == hold:
            return
        log.error("kafka.held", group=self._group, reason=str(hold.reason), detail=hold.detail)
        if self._anchors is not None and hold.reason is not HoldReason.IDENTITY_UNKNOWN:
            try:
                now_ms = self._clock.now_ms()
                self._anchors.refuse_start(
                    self._group,
                    partition.topic,
                    partition.partition,
                    reason=str(hold.reason),
                    detail=hold.detail,
                    now_ms=now_ms,
                )
            except Retryable as err:
                log.warning("kafka.hold_not_kept", error=str(err))
                with self._lock:
                    self._held.pop(partition, None)  # told again when it is looked at again

    def _let_go(self, partition: TopicPartition) -> None:
        self._look_again_s.pop(partition, None)
        with self._lock:
            if self._held.pop(partition, None) is None:
                return
        log.warning("kafka.goes_on", group=self._group, partition=f"{partition.topic}/{partition.partition}")

    def _tell_held(self) -> None:
        if (held := self.held()) != self._told:
            self._told = held
            self._on_held(held)

    def _wait_again(self, partition: TopicPartition) -> None:
        with self._lock:
            self._assigned.append(partition)

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
    """An idempotent producer that answers for every message: `flush` returns when all are acknowledged.

    When it can't answer, what was sent since the last flush must be sent again: it begins anew with another producer then,
    because one that lost its connection in the wrong moment may never go on (kafka-python 3.0.12).
    """

    def __init__(self, config: KafkaConfig, *, flush_timeout_s: float = 30.0) -> None:
        self._config, self._flush_timeout_s = config, flush_timeout_s
        self._failed: list[BaseException] = []
        self._producer: Any = self._join()

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        event_ms: int | None = None,
        partition: int | None = None,
    ) -> None:
        """Hand one message over; raises Retryable when the buffer stays full or the broker is away.

        Without `partition` its key decides, among as many as there are just now.

        `event_ms` travels as a header. It must not be the record's timestamp: brokers expire by that, and the messages of
        an old stream would be deleted before anybody read them.
        """
        told = [*headers, (EVENT_HEADER, str(event_ms).encode())] if event_ms is not None else list(headers)
        if self._producer is None:
            self._producer = self._join()
        try:
            future = self._producer.send(topic, key=key, value=value, headers=told, partition=partition)
        except KafkaError as err:
            self._begin_anew()
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {topic}: {type(err).__name__}: {err}") from err
        future.add_errback(self._failed.append)  # of this producer: a later one has a list of its own

    def flush(self) -> None:
        """Raises Retryable unless everything sent since the last flush is acknowledged."""
        if self._producer is None:
            return
        try:
            self._producer.flush(timeout=self._flush_timeout_s)
        except KafkaError as err:
            self._begin_anew()
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {type(err).__name__}: {err}") from err
        if self._failed:
            failed = self._failed
            self._begin_anew()
            raise Retryable(f"kafka {self._config.bootstrap_servers}: {len(failed)} not accepted: {failed[0]}")

    def close(self) -> None:
        """What was not acknowledged by now was not committed either: it is read and sent again by whoever comes next."""
        if self._producer is None:
            return
        try:
            self._producer.close(timeout=self._flush_timeout_s)
        except KafkaError as err:
            log.warning("kafka.closed_unanswered", error=f"{type(err).__name__}: {err}")
            self._begin_anew()

    def _join(self) -> Any:
        config = self._config
        return _connect(
            lambda: kafka.KafkaProducer(
                **config.client(),
                enable_idempotence=True,
                acks="all",
                linger_ms=5,
                batch_size=65_536,
                max_block_ms=int(self._flush_timeout_s * 1_000),
            ),
            config,
        )

    def _begin_anew(self) -> None:
        """The next `send` makes a producer of its own; the old one may hang in closing, so nobody waits for it."""
        stuck, self._producer, self._failed = self._producer, None, []
        threading.Thread(target=_drop_producer, args=(stuck,), name="kafka-close", daemon=True).start()


def partition_of(entity: str, partitions: int) -> int:
    """Where an entity's mentions lie among so many partitions: as Kafka's own clients would place its name as a key."""
    return int((murmur2(entity.encode()) & 0x7FFFFFFF) % partitions)


def ensure_topics(config: KafkaConfig, topics: Mapping[str, int], *, create: bool, spread: Sequence[str] = ()) -> None:
    """Make sure the topics (name → partitions) exist, those of `spread` with so many partitions at least.

    Raises Retryable without a broker, Fatal without the topic or its partitions.
    """
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
        known = [name for name in spread if name not in missing]
        for told in admin.describe_topics(known) if known else ():  # asked for none, it tells of all
            count = len(told["partitions"])
            if count and count < topics[told["name"]]:
                raise Fatal(
                    f"kafka.partitions = {topics[told['name']]}, but topic {told['name']} has {count}: add partitions to "
                    "the topic or correct the number; in a topic that was read already it must stay as it was"
                )
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
        with source._lock:
            fresh = [p for p in assigned if p not in source._started and p not in source._assigned]
        if fresh:
            self._consumer.pause(*fresh)
            for partition in fresh:  # a placeholder position, so that no fetch asks for a reset; never read from
                self._consumer.seek(partition, 0)
        with source._lock:  # told last: `poll` on the other thread must not start it before it is held back
            if not self.deaf:
                source._assigned += fresh

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        source = self._source
        with source._lock:
            if self.deaf:
                return
            source._lost += [(p.topic, p.partition) for p in revoked]
            source._started -= set(revoked)
            source._assigned = [p for p in source._assigned if p not in revoked]
            for partition in revoked:
                for known in (source._topic_ids, source._held, source._look_again_s):
                    known.pop(partition, None)


class _Assignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python ships no types
    """kafka-python 3.0.12 goes on claiming what it was assigned last even when it lost its place in the group: the leader
    withholds a claimed partition from everybody until its owner gives it up, which one that has none never does. So only
    what is really ours is claimed.

    `round` makes us differ from before: a broker gives a follower that asks again in the very same words the old answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owned: Callable[[], set[TopicPartition]] = set
        self.round = 0

    def metadata(self, topics: Sequence[str]) -> Any:
        self.member_assignment = sorted(self.owned())
        told = super().metadata(topics)
        told.user_data = b"%d" % self.round
        return told


def _look(consumer: Any, group: str) -> Any:
    """Ask the coordinator how the group stands: a future. Nobody waits for it."""
    coordinator = consumer._coordinator

    async def ask() -> Any:
        request = DescribeGroupsRequest(groups=[group], include_authorized_operations=False)
        return await coordinator._manager.send(request, node_id=coordinator.coordinator_id)

    return coordinator._manager.call_soon(ask)


def _view_of(answer: Any, group: str) -> GroupView | None:
    """None: it knows nothing of the group, or won't tell us."""
    for told in answer.groups:
        if told.group_id == group and not told.error_code:
            assigned = {member.member_id: _partitions_in(member.member_assignment) for member in told.members}
            # The embedded broker never tells who has what; in a settled group somebody always has something.
            return GroupView(
                settled=told.group_state == "Stable",
                members=set(assigned),
                assigned=assigned if any(assigned.values()) else None,
            )
    return None


def _partitions_in(assignment: bytes) -> list[Partition]:
    try:
        return [(p.topic, p.partition) for p in ConsumerProtocolAssignment.decode(assignment).partitions()]
    except (struct.error, ValueError):
        return []  # none was given


def _connect(make: Callable[[], Client], config: KafkaConfig) -> Client:
    try:
        return make()
    except (OSError, KafkaError) as err:
        refused = (
            "" if config.security_protocol == "PLAINTEXT" else ", or it refused certificate, name, user or password"
        )
        raise Retryable(f"kafka {config.bootstrap_servers}: no broker answers ({type(err).__name__}){refused}") from err


def _unpark(consumer: Any) -> None:
    """Work around kafka-python 3.0.12: what was fetched of a partition before it was paused is parked, and taken up again
    only while no other batch is in line; an exhausted batch stays in line for ever, so the partition would never go on."""
    fetcher = getattr(consumer, "_fetcher", None)
    current = getattr(fetcher, "_next_partition_records", None)
    if fetcher is not None and current is not None and not current:
        fetcher._next_partition_records = None


def _finish_join(consumer: Any) -> None:
    """Work around kafka-python 3.0.12: a leader that rejoins because partitions were added forgets why as soon as it has
    assigned them; a poll that ends in between leaves the join unfinished for ever, with heartbeats off."""
    coordinator = consumer._coordinator
    if coordinator._join_task is not None and not coordinator.rejoin_needed:
        coordinator.request_rejoin()


def _take_finished_joins(coordinator: Any) -> None:
    """Work around kafka-python 3.0.12: a join that ends between two polls is thrown away and begun anew, which disturbs the
    whole group. Whoever works between short polls could join for minutes; what ended is taken instead, as within a poll."""
    join = coordinator.join_group_async

    async def take_or_join(timeout_ms: float | None = None) -> Any:
        finished = coordinator._join_task
        if finished is None or not finished.succeeded():
            return await join(timeout_ms=timeout_ms)
        coordinator._join_task = None
        with coordinator._lock:
            coordinator.rejoining = coordinator.rejoin_needed = False
            coordinator.state = MemberState.STABLE
            coordinator._enable_heartbeat()
        given = coordinator._generation
        await coordinator._on_join_complete_async(given.generation_id, given.member_id, given.protocol, finished.value)
        return True

    coordinator.join_group_async = take_or_join


def _is_fenced(consumer: Any) -> bool:
    """kafka-python 3.0.12 tells nobody when a static member was replaced: it stops its heartbeats and reads on."""
    coordinator = consumer._coordinator
    return bool(coordinator.stable() and not coordinator._heartbeat_enabled and not coordinator.rejoining)


def _drop_producer(producer: Any) -> None:
    """Its `close` would flush first, and raise before anything was closed."""
    with suppress(Exception):
        producer.flush = lambda timeout=None: None
        producer.close(timeout=0)


def _close_quietly(consumer: Any) -> None:
    with suppress(Exception):
        if consumer._coordinator._join_task is not None:
            consumer._coordinator.reset_generation()  # no goodbye, see `KafkaSource._finish_join_before_goodbye`
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


def _recreated(partition: TopicPartition, known: str, told: str) -> Hold:
    detail = (
        f"{partition.topic}/{partition.partition}: the topic was made anew (id {told}, read before: {known}); what the old "
        f"one still held is gone. Look into it, then `tapewatch offsets accept {partition.topic}` to read the new one"
    )
    return Hold(reason=HoldReason.TOPIC_RECREATED, detail=detail)


def _expired(partition: TopicPartition, start: int, first: int) -> Hold:
    detail = (
        f"{partition.topic}/{partition.partition}: the next offset is {start}, but the topic starts at {first}: "
        f"{first - start} messages expired unread. Look into the topic's retention, then "
        f"`tapewatch offsets accept {partition.topic}` to go on with what is left"
    )
    return Hold(reason=HoldReason.MESSAGES_EXPIRED, detail=detail)


def _beyond(partition: TopicPartition, start: int, end: int) -> Hold:
    detail = (
        f"{partition.topic}/{partition.partition}: the next offset is {start}, but the topic ends at {end}: it was made anew "
        f"or its broker lost its newest messages. Look into it, then `tapewatch offsets accept {partition.topic}`"
    )
    return Hold(reason=HoldReason.BEYOND_THE_END, detail=detail)
