"""Faults beside the kills: what brokers, networks, databases and clocks of processes do to us. Each is told by its name."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from monitor.chaos.load import opening
from monitor.errors import Retryable
from monitor.intake.kafka import KafkaConfig, KafkaSink
from tests.chaos.operator import Operator
from tests.kafka_broker import ApacheKafka
from tests.postgres import PostgresServer
from tests.proxy import Cut, FaultProxy

KINDS = (
    "broker_killed",
    "broker_restarted",
    "broker_stalled",
    "broker_connections_reset",
    "broker_connections_half_open",
    "database_killed",
    "database_restarted",
    "database_connections_reset",
    "database_connections_half_open",
    "commits_cut",
    "partitions_added",
    "messages_expired",
    "process_stalled",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What can be broken. The roles reach broker and database through the proxies."""

    broker: ApacheKafka
    broker_proxy: FaultProxy
    database: PostgresServer
    database_proxy: FaultProxy
    topics: Callable[[], Sequence[str]]
    environ: Mapping[str, str]  # of an operator, who reaches both directly


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """`every`: a fault before each so many kills; the longest times that a broker is away or stalls, and a process sleeps."""

    every: int = 3
    kinds: tuple[str, ...] = KINDS
    away_s: float = 60.0
    stall_s: tuple[float, float] = (5.0, 60.0)
    sleep_s: float = 12.0
    unread_s: float = 4.0
    held_max_s: float = 600.0
    partitions_max: int = 8


class Faults:
    """Call it before each kill; at most one fault at a time, so that the service can be expected to live."""

    def __init__(self, world: World, plan: FaultPlan, rng: random.Random) -> None:
        self._world, self._plan, self._rng = world, plan, rng
        self._order: list[str] = []
        self._mending: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.expired: list[bytes] = []
        self.accepted = 0

    def __call__(self, kill: int, pids: Mapping[str, int]) -> str | None:
        if kill % self._plan.every or (self._mending is not None and self._mending.is_alive()):
            return None
        self._raise()
        if not self._order:
            self._order = list(self._plan.kinds)
            self._rng.shuffle(self._order)
        kind = self._order.pop()
        mend = getattr(self, f"_{kind}")(pids)
        if mend is not None:
            self._mending = threading.Thread(target=self._mend, args=(mend,), name="mend", daemon=True)
            self._mending.start()
        return kind

    def finish(self) -> None:
        """Wait until everything works again. Raises what mending died of."""
        if self._mending is not None:
            self._mending.join()
        self._raise()

    def _mend(self, mend: Callable[[], object]) -> None:
        try:
            mend()
        except BaseException as err:  # noqa: BLE001 - raised by `finish`
            self._failure = err

    def _raise(self) -> None:
        if self._failure is not None:
            raise AssertionError("the world could not be mended") from self._failure

    # Each breaks something and returns what mends it, to be run beside the kills.

    def _broker_killed(self, _pids: Mapping[str, int]) -> Callable[[], object]:
        self._world.broker.kill()
        away_s = self._rng.uniform(0, self._plan.away_s)
        return lambda: (time.sleep(away_s), self._world.broker.start())

    def _broker_restarted(self, _pids: Mapping[str, int]) -> Callable[[], object]:
        return lambda: (self._world.broker.stop(), self._world.broker.start())

    def _broker_stalled(self, _pids: Mapping[str, int]) -> Callable[[], object]:
        stall_s = self._rng.uniform(*self._plan.stall_s)
        self._world.broker.signal(signal.SIGSTOP)
        return lambda: (time.sleep(stall_s), self._world.broker.signal(signal.SIGCONT))

    def _broker_connections_reset(self, _pids: Mapping[str, int]) -> None:
        self._world.broker_proxy.reset()

    def _broker_connections_half_open(self, _pids: Mapping[str, int]) -> None:
        self._world.broker_proxy.half_open()

    def _database_killed(self, _pids: Mapping[str, int]) -> Callable[[], object]:
        self._world.database.kill()
        away_s = self._rng.uniform(0, 10)
        return lambda: (time.sleep(away_s), self._world.database.start())

    def _database_restarted(self, _pids: Mapping[str, int]) -> Callable[[], object]:
        return lambda: (self._world.database.stop(), self._world.database.start())

    def _database_connections_reset(self, _pids: Mapping[str, int]) -> None:
        self._world.database_proxy.reset()

    def _database_connections_half_open(self, _pids: Mapping[str, int]) -> None:
        self._world.database_proxy.half_open()

    def _commits_cut(self, _pids: Mapping[str, int]) -> None:
        self._world.database_proxy.cut_commits([Cut.AFTER, Cut.BEFORE, Cut.AFTER, Cut.BEFORE, Cut.AFTER])

    def _partitions_added(self, _pids: Mapping[str, int]) -> Callable[[], object]:
        return lambda: add_partitions(self._world.broker, self._world.topics(), self._plan.partitions_max)

    def _messages_expired(self, pids: Mapping[str, int]) -> Callable[[], object]:
        """Retention goes over what a stopped consumer has not read: held, said, and freed by an operator's word alone."""
        scores = [pid for name, pid in sorted(pids.items()) if name.startswith("score")]
        ports = [port for pid in scores if (port := _port_of(pid)) is not None]
        _signal_all(scores, signal.SIGSTOP)

        def mend() -> None:
            operator = Operator(self._world.broker, self._world.environ)
            try:
                time.sleep(self._plan.unread_s)
                gone = operator.expire(self._world.topics())
            finally:
                _signal_all(scores, signal.SIGCONT)
            if gone is not None:
                self.expired += gone.values
                self.accepted += operator.frees(gone, ports, within_s=self._plan.held_max_s)

        return mend

    def _process_stalled(self, pids: Mapping[str, int]) -> Callable[[], object]:
        """A zombie: it sleeps past its session, somebody takes over, and it goes on as if nothing had been."""
        pid = pids[self._rng.choice(sorted(pids))]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)

        def wake() -> None:
            time.sleep(self._plan.sleep_s)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        return wake


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _port_of(pid: int) -> int | None:
    """Where a score process tells how it is; None: it ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if line.startswith(b"TAPEWATCH_SCORE__TELEMETRY_PORT="):
                return int(line.partition(b"=")[2])
    return None


def add_partitions(broker: ApacheKafka, topics: Sequence[str], partitions_max: int) -> None:
    """One more for each raw topic. Never for mentions: an entity's history must stay in one partition."""
    config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
    for attempt in range(5):
        try:
            with closing(KafkaAdminClient(**config.client())) as admin, closing(KafkaSink(config)) as sink:
                for told in admin.describe_topics(list(topics)):
                    count, topic = len(told["partitions"]), told["name"]
                    if count < partitions_max:
                        admin.create_partitions({topic: count + 1})
                        # Our sender learns of it in minutes, so this is what it says first.
                        sink.send(topic, key=None, value=opening(f"{topic}/{count}"), partition=count)
                        sink.flush()
            return
        except (KafkaError, OSError, Retryable):
            if attempt == 4:
                raise
            time.sleep(2.0)
