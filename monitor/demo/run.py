"""`tapewatch demo`: every real part on one machine for as long as the user likes to look.

Embedded broker, SQLite, each role as its own process under the supervisor, the sample stream played at speed, and a
local webhook sink that verifies signatures. Nothing here is special to the demo but the stream: the roles are started
by `tapewatch run --role`, as in service.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from monitor.app import topics_of
from monitor.broker import EmbeddedBroker, free_port
from monitor.clock import Clock, SystemClock
from monitor.delivery import WebhookSink
from monitor.demo.stream import demo_messages
from monitor.errors import Fatal, Retryable
from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
from monitor.records import Record
from monitor.settings import Settings, load_settings
from monitor.store import Store
from monitor.supervisor import Process, RestartPolicy, Supervisor, spawn

log = structlog.get_logger()
ROLES = ("score", "watch", "deliver")


class DemoSummary(Record, frozen=True, kw_only=True):
    """What `--json` prints."""

    documents: int
    mentions: int
    alerts: int
    deliveries: int
    dead_letters: int
    documents_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPolicy:
    """`hours_per_second` of event time are played; the roles must be ready within `ready_s`."""

    hours_per_second: float = 1.0
    ready_s: float = 90.0
    drain_s: float = 15.0


def run_demo(
    config: Path,
    *,
    on_delivery: Callable[[str, Mapping[str, Any]], None],
    say: Callable[[str], None],
    stop: threading.Event,
    for_s: float | None = None,
    clock: Clock | None = None,
    policy: DemoPolicy | None = None,
) -> DemoSummary:
    """Play until `stop` is set or `for_s` seconds after the roles were ready.

    `on_delivery` gets the type and the data of each webhook whose signature holds. Raises Fatal when a part can't start.
    """
    policy, clock = policy or DemoPolicy(), clock or SystemClock()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tapewatch-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        say("starting the embedded broker")
        broker = stack.enter_context(EmbeddedBroker())
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
        seen: set[str] = set()
        sink = stack.enter_context(WebhookSink(secrets=(secret,), on_message=_once(seen, on_delivery)))
        ports = {role: free_port() for role in ROLES}
        environ = role_environment(broker.bootstrap_servers, f"sqlite:///{folder / 'tapewatch.db'}", ports) | {
            "TAPEWATCH_SINK_URL": sink.url,
            "TAPEWATCH_SINK_SECRET": secret,
        }
        settings = load_settings(config, environ)
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(kafka, topics_of(settings), create=True)
        say("starting score, watch and deliver")
        roles = Roles(config, environ, ports, clock=clock, policy=policy)
        stack.callback(roles.stop)
        roles.wait_until_ready(stop)
        started_s = clock.monotonic_s()
        say(f"playing the sample stream, {policy.hours_per_second:g} hours a second")
        player = threading.Thread(target=_play, args=(kafka, settings, clock, policy, stop), name="player", daemon=True)
        player.start()
        documents, busy_s = 0, 0.0
        while not stop.is_set() and (for_s is None or clock.monotonic_s() - started_s < for_s):
            roles.check()
            stop.wait(0.2)
            counted = documents_scored(ports["score"])
            if counted > documents:
                documents, busy_s = counted, clock.monotonic_s() - started_s
        stop.set()
        player.join(10)
        roles.stop()
        with closing(Store.open(settings.database.url)) as store:
            counts = store.counts()
        return DemoSummary(
            documents=documents,
            mentions=counts.mentions,
            alerts=counts.alerts,
            deliveries=len(seen),
            dead_letters=counts.dead_letters,
            documents_per_second=round(documents / busy_s, 1) if busy_s else 0.0,
        )


def documents_scored(port: int) -> int:
    """How many messages the score role has read, from its own metrics."""
    try:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=1) as answer:  # our own role on loopback  # nosec B310
            found = re.search(rb"^tapewatch_score_documents_total(?:\{\})? ([0-9.e+]+)$", answer.read(), re.MULTILINE)
            return int(float(found[1])) if found else 0
    except OSError:
        return 0


class Roles:
    """The roles as processes under a supervisor on a thread of its own; they start at once.

    `ports` names the processes: `watch`, or `watch-2` for another of the same role. `own` is what each is told beside.
    """

    def __init__(
        self,
        config: Path,
        environ: Mapping[str, str],
        ports: Mapping[str, int],
        *,
        clock: Clock,
        policy: DemoPolicy,
        restarts: RestartPolicy | None = None,
        own: Callable[[str], Mapping[str, str]] = lambda _name: {},
    ) -> None:
        command = [sys.executable, "-m", "monitor.cli", "run", "--config", str(config), "--role"]
        self._supervisor = Supervisor(
            {name: [*_told(name, port, own(name)), *command, _role(name)] for name, port in ports.items()},
            clock=clock,
            drain_s=policy.drain_s,
            policy=restarts,
            spawn=partial(_spawn_with, environ),
        )
        self._ports, self._clock, self._policy = ports, clock, policy
        self._halt = threading.Event()
        self._code: int | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def wait_until_ready(self, stop: threading.Event | None = None) -> None:
        """Raises Retryable with the names of those that are not ready in time."""
        stop = stop or threading.Event()
        give_up_s = self._clock.monotonic_s() + self._policy.ready_s
        waiting = set(self._ports)
        while waiting and not stop.is_set():
            self.check()
            waiting -= {role for role in waiting if is_ready(self._ports[role])}
            if waiting and self._clock.monotonic_s() > give_up_s:
                raise Retryable(f"not ready after {self._policy.ready_s:.0f} s: {', '.join(sorted(waiting))}")
            stop.wait(0.2)

    def check(self) -> None:
        """Raises Fatal when a role refused to start; it has said why on stderr."""
        if self._code is not None and not self._halt.is_set():
            raise Fatal("a role refused to start; its own message stands above")

    def pids(self) -> dict[str, int]:
        """The processes that run now, by role."""
        return self._supervisor.pids()

    def stop(self) -> None:
        self._halt.set()
        self._thread.join()

    def _run(self) -> None:
        self._code = self._supervisor.run(self._halt)


def _told(name: str, port: int, own: Mapping[str, str]) -> list[str]:
    """`env` gives a process its own variables and becomes it."""
    variables = {f"TAPEWATCH_{_role(name).upper()}__TELEMETRY_PORT": str(port), **own}
    return ["/usr/bin/env", *(f"{key}={value}" for key, value in variables.items())]


def _role(name: str) -> str:
    return name.partition("-")[0]


def _spawn_with(environ: Mapping[str, str], command: Sequence[str], extra: Mapping[str, str]) -> Process:
    return spawn(command, extra, environ=environ)


def is_ready(port: int) -> bool:
    """Does a role of ours on this machine say at `/readyz` that it is?"""
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        with urllib.request.urlopen(url, timeout=5) as answer:  # our own role on loopback  # nosec B310
            return bool(answer.status == 200)
    except OSError:
        return False


def _play(kafka: KafkaConfig, settings: Settings, clock: Clock, policy: DemoPolicy, stop: threading.Event) -> None:
    """The sample stream at speed, then silence: event time flows on by itself."""
    topics = {"news": settings.kafka.topic_news, "social": settings.kafka.topic_social}
    with closing(KafkaSink(kafka)) as producer:
        first_ms, started_s = None, clock.monotonic_s()
        for message in demo_messages():
            first_ms = message.at_ms if first_ms is None else first_ms
            due_s = started_s + (message.at_ms - first_ms) / 3_600_000 / policy.hours_per_second
            if (wait_s := due_s - clock.monotonic_s()) > 0.05 and stop.wait(wait_s):
                break
            producer.send(topics[message.topic], key=message.key, value=message.value, event_ms=message.at_ms)
        producer.flush()


def role_environment(bootstrap_servers: str, database_url: str, ports: Mapping[str, int]) -> dict[str, str]:
    """What a role's process is told beside its configuration file: this broker, this database, these ports."""
    own = {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "TAPEWATCH_DATABASE__URL": database_url,
        "TAPEWATCH_TELEMETRY__LOG_LEVEL": "warning",
    }
    return {
        **os.environ,
        **own,
        **{f"TAPEWATCH_{_role(name).upper()}__TELEMETRY_PORT": str(port) for name, port in ports.items()},
    }


def _once(
    seen: set[str], on_delivery: Callable[[str, Mapping[str, Any]], None]
) -> Callable[[str, Mapping[str, Any]], None]:
    """A repeated delivery has the same id; an analyst sees it once."""

    def receive(message_id: str, body: Mapping[str, Any]) -> None:
        if message_id not in seen:
            seen.add(message_id)
            on_delivery(str(body["type"]), body["data"])

    return receive
