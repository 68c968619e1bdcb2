"""Composition root: the only place that names concrete adapters. Each `run_*` wires one role and runs it to the end.

Wiring goes from the world inwards (broker, database, model, rules), so that whatever is missing is named before anything
is consumed. Brokers and databases that are not there yet are waited for, with growing pauses; what is wrong ends with
exit code 2.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from monitor.alerting import load_rules
from monitor.clock import Clock, SystemClock
from monitor.delivery import Receiver, WebhookReceiver
from monitor.errors import Fatal, Retryable
from monitor.intake import DecodeLimits, clean
from monitor.intake.kafka import KafkaConfig, KafkaSink, KafkaSource, ensure_topics
from monitor.linking import Linker, Watchlist, load_watchlist
from monitor.loops.core import PartitionCore, WatchPolicy
from monitor.loops.deliver import DeliverLoop, DeliverPolicy
from monitor.loops.reading import DocumentReader
from monitor.loops.score import ScoreLoop, ScorePolicy, encode_dead_letter, encode_mention
from monitor.loops.watch import ORIGIN_HEADER, WatchLoop, WatchLoopPolicy
from monitor.records import Channel, DeadLetter, ScoredMention
from monitor.settings import Settings, secret
from monitor.store import Store
from monitor.telemetry import Health, TelemetryServer, metrics

if TYPE_CHECKING:
    from monitor.alerting import Rules
    from monitor.scoring import Scorer

log = structlog.get_logger()
ROLES = ("score", "watch", "deliver")
T = TypeVar("T")


def topics_of(settings: Settings) -> dict[str, int]:
    """Topic → partitions, as the configuration asks for them."""
    kafka = settings.kafka
    many = dict.fromkeys((kafka.topic_news, kafka.topic_social, kafka.topic_mentions), kafka.partitions)
    return {**many, kafka.topic_dead_letters: 1}


def database_url(settings: Settings) -> str:
    """From the file or, where it holds a password, from the environment."""
    database = settings.database
    if database.url_env is None:
        return database.url
    url = os.environ.get(database.url_env)
    if not url:
        raise Fatal(f"database.url_env: environment variable {database.url_env} is not set")
    return url


def kafka_config(settings: Settings, *, role: str) -> KafkaConfig:
    """Static membership gives every role of a machine its own name."""
    kafka = settings.kafka
    password = secret(file=kafka.sasl_password_file, env=kafka.sasl_password_env, what="kafka.sasl_password")
    return KafkaConfig(
        bootstrap_servers=kafka.bootstrap_servers,
        client_id=f"tapewatch-{role}-{socket.gethostname()}",
        session_timeout_ms=kafka.session_timeout_ms,
        max_poll_interval_ms=kafka.max_poll_interval_ms,
        first_offset=kafka.first_offset,
        static_member=f"{kafka.static_member}-{role}" if kafka.static_member else None,
        security_protocol=kafka.security_protocol,
        ssl_cafile=_text(kafka.ssl_cafile),
        ssl_certfile=_text(kafka.ssl_certfile),
        ssl_keyfile=_text(kafka.ssl_keyfile),
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_username=kafka.sasl_username,
        sasl_password=password,
    )


def receivers_of(settings: Settings) -> tuple[Receiver, ...]:
    """Each with its secrets, the current one first."""
    return tuple(_receiver(receiver) for receiver in settings.receivers)


def run_all(settings: Settings, config: Path, stop: threading.Event) -> int:
    """Every configured role as a process of its own; returns the exit code."""
    check_all(settings)
    command = [sys.executable, "-m", "monitor.cli", "run", "--config", str(config), "--role"]
    supervisor = Supervisor(
        {role: [*command, role] for role in settings.service.roles},
        clock=SystemClock(),
        drain_s=settings.service.drain_s + 2.0,
    )
    return supervisor.run(stop)


def run_role(settings: Settings, role: str, stop: threading.Event) -> int:
    """One role until `stop`; returns the exit code. Fatal passes through, with its own code."""
    runners = {"score": run_score, "watch": run_watch, "deliver": run_deliver}
    if role not in runners:
        raise Fatal(f"--role {role}: no such role; one of {', '.join(runners)}")
    log.info("role.started", role=role, pid=os.getpid())
    runners[role](settings, stop, SystemClock())
    log.info("role.stopped", role=role)
    return 0


def run_score(settings: Settings, stop: threading.Event, clock: Clock) -> None:
    """Raw topics → linker → model → topic mentions."""
    with ExitStack() as stack:
        health = _telemetry(stack, settings, "score", settings.score.telemetry_port, clock, ("poll", "model"))
        watchlist = load_watchlist(settings.watchlist.path)
        scorer = make_scorer(settings)
        health.beat("model", clock.monotonic_s())
        kafka = settings.kafka
        config = kafka_config(settings, role="score")
        _when_there(lambda: ensure_topics(config, topics_of(settings), create=kafka.create_topics), clock, stop)
        if stop.is_set():
            return
        source = KafkaSource(
            config, topics=(kafka.topic_news, kafka.topic_social), group=f"{kafka.group_prefix}-score", merged=True
        )
        stack.callback(source.close)
        sink = stack.enter_context(closing(_KafkaResults(KafkaSink(config), settings)))
        loop = ScoreLoop(
            source=source,
            sink=sink,
            reader=make_reader(settings, watchlist),
            judge=scorer,
            clock=clock,
            policy=ScorePolicy(
                batch_documents_max=settings.score.batch_documents_max,
                deadline_ms=settings.score.deadline_ms,
                queue_documents_max=settings.score.queue_documents_max,
                poll_messages_max=settings.score.poll_messages_max,
            ),
            seen=lambda beat: health.beat(beat, clock.monotonic_s()),
        )
        loop.run(stop, drain_s=settings.service.drain_s)


def run_watch(settings: Settings, stop: threading.Event, clock: Clock) -> None:
    """Topic mentions → windows → alerts, in the database."""
    with ExitStack() as stack:
        health = _telemetry(stack, settings, "watch", settings.watch.telemetry_port, clock, ("poll",))
        rules = load_rules(settings.rules.path)
        watchlist = load_watchlist(settings.watchlist.path)
        store = _when_there(lambda: Store.open(database_url(settings)), clock, stop)
        if store is None:
            return
        stack.callback(store.close)
        kafka = settings.kafka
        config = kafka_config(settings, role="watch")
        _when_there(lambda: ensure_topics(config, topics_of(settings), create=kafka.create_topics), clock, stop)
        if stop.is_set():
            return
        source = KafkaSource(
            config,
            topics=(kafka.topic_mentions, kafka.topic_dead_letters),
            group=f"{kafka.group_prefix}-watch",
            positions=_stored_positions(store),
        )
        stack.callback(source.close)
        loop = WatchLoop(
            source=source,
            store=store,
            cores=CoreMaker(rules=rules, names=names_of(watchlist)),
            receivers=receivers_of(settings),
            topic_mentions=kafka.topic_mentions,
            clock=clock,
            policy=WatchLoopPolicy(
                batch_mentions_max=settings.watch.batch_mentions_max,
                poll_ms=settings.watch.poll_ms,
                idle_tick_s=settings.watch.idle_tick_s,
            ),
            seen=lambda beat: health.beat(beat, clock.monotonic_s()),
        )
        loop.run(stop)


def run_deliver(settings: Settings, stop: threading.Event, clock: Clock) -> None:
    """The outbox → receivers."""
    with ExitStack() as stack:
        health = _telemetry(stack, settings, "deliver", settings.deliver.telemetry_port, clock, ("poll",))
        store = _when_there(lambda: Store.open(database_url(settings)), clock, stop)
        if store is None:
            return
        stack.callback(store.close)
        loop = DeliverLoop(
            store=store,
            receivers=[WebhookReceiver(receiver) for receiver in receivers_of(settings)],
            clock=clock,
            policy=DeliverPolicy(poll_ms=settings.deliver.poll_ms),
            seen=lambda beat: health.beat(beat, clock.monotonic_s()),
        )
        loop.run(stop, drain_s=settings.service.drain_s)
