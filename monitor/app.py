"""Composition root: the only place that names concrete adapters. Each `run_*` wires one role and runs it to the end.

Wiring goes from the world inwards (broker, database, model, rules), so that whatever is missing is named before anything
is consumed. Brokers and databases that are not there yet are waited for, with growing pauses; what is wrong ends with
exit code 2.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from monitor.clock import Clock, SystemClock, to_rfc3339
from monitor.errors import Fatal, Rejectable, Retryable
from monitor.records import UNDECODABLE, Channel, DeadLetter, Place, ScoredMention
from monitor.service import Orders, checked, live
from monitor.settings import Settings, load_settings, secret, url_secrets
from monitor.supervisor import RestartPolicy, Supervisor
from monitor.telemetry import Caretaker, Health, Metrics, Notifier, TelemetryServer, configure_logs

if TYPE_CHECKING:
    from monitor.alerting import Rules
    from monitor.delivery import Receiver
    from monitor.intake.kafka import KafkaConfig, KafkaSink
    from monitor.linking import Watchlist
    from monitor.loops.core import PartitionCore
    from monitor.loops.holds import HoldNotices
    from monitor.loops.reading import DocumentReader
    from monitor.scoring import Scorer
    from monitor.settings import ReceiverSettings
    from monitor.store import Store

log = structlog.get_logger()
ROLES = ("score", "watch", "deliver")
POLL_S = 60.0  # a poll may be late by a slow batch or a retry, never by minutes
MODEL_S = 120.0  # the longest that one batch may take before the model counts as stuck
T = TypeVar("T")


def topics_of(settings: Settings) -> dict[str, int]:
    """Topic → partitions, as the configuration asks for them."""
    kafka = settings.kafka
    many = dict.fromkeys((kafka.topic_news, kafka.topic_social, kafka.topic_mentions), kafka.partitions)
    return {**many, kafka.topic_dead_letters: 1}


def check(file: Path) -> list[str]:
    """Every fault of a configuration and of the files that it names."""
    try:
        settings = load_settings(file)
    except Fatal as err:
        return list(err.faults)
    return faults_of(settings)


def faults_of(settings: Settings) -> list[str]:
    """What the watchlist, the rules, the bundle and the receivers' secrets have against starting."""
    from monitor.alerting import load_rules
    from monitor.linking import load_watchlist
    from monitor.registry import load_bundle

    checks: tuple[Callable[[], object], ...] = (
        lambda: load_watchlist(settings.watchlist.path),
        lambda: load_rules(settings.rules.path),
        lambda: load_bundle(settings.bundle.path, trusted=settings.bundle.trusted_keys),
        lambda: receivers_of(settings),
        lambda: check_kafka(settings),
        lambda: database_url(settings),
    )
    faults: list[str] = []
    for one in checks:
        try:
            one()
        except Fatal as err:
            faults += err.faults
    return faults


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
    from monitor.intake.kafka import KafkaConfig

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
        ssl_password=secret(
            file=kafka.ssl_key_password_file, env=kafka.ssl_key_password_env, what="kafka.ssl_key_password"
        ),
        settle_ms=kafka.settle_ms,
    )


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Everything that must never be shown: passwords, signing secrets, URLs that hold tokens, the database's password."""
    kafka = settings.kafka
    named = [
        secret(file=kafka.sasl_password_file, env=kafka.sasl_password_env, what="kafka.sasl_password"),
        secret(file=kafka.ssl_key_password_file, env=kafka.ssl_key_password_env, what="kafka.ssl_key_password"),
        *(one for receiver in receivers_of(settings) for one in (*receiver.secrets, *url_secrets(receiver.url))),
        *url_secrets(database_url(settings)),
    ]
    return tuple(dict.fromkeys(one for one in named if one))


def group_of(settings: Settings, role: str) -> str:
    """The consumer group of a role that reads from Kafka."""
    return f"{settings.kafka.group_prefix}-{role}"


def check_kafka(settings: Settings) -> None:
    """Raises Fatal for certificates, keys and passwords that can't be used: trying again would not mend them."""
    config = kafka_config(settings, role="check")
    if "SSL" not in config.security_protocol:
        return
    context = ssl.create_default_context()
    try:
        if config.ssl_cafile:
            context.load_verify_locations(config.ssl_cafile)
    except (OSError, ssl.SSLError) as err:
        raise Fatal(f"kafka.ssl_cafile: {config.ssl_cafile} can't be read as PEM ({type(err).__name__})") from err
    try:
        if config.ssl_certfile:
            # A password that is not asked for would be; without one, a locked key must not ask at a terminal.
            context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password=config.ssl_password or "")
    except (OSError, ssl.SSLError, ValueError) as err:
        raise Fatal(
            f"kafka.ssl_certfile, ssl_keyfile: {config.ssl_certfile} and its key can't be used ({type(err).__name__}); "
            "PEM files, and kafka.ssl_key_password_file for a locked key"
        ) from err


def check_spread(store: Store, settings: Settings, clock: Clock) -> None:
    """Raises Fatal for another number of partitions than entities were spread over before.

    What is known of an entity belongs to one partition of the mentions: in another its history would begin anew, and two
    processes would write its buckets.
    """
    kafka = settings.kafka
    before, since_ms = store.spread(kafka.topic_mentions, kafka.partitions, now_ms=clock.now_ms())
    if before != kafka.partitions:
        raise Fatal(
            f"kafka.partitions = {kafka.partitions}: entities are spread over {before} partitions of topic "
            f"{kafka.topic_mentions} since {to_rfc3339(since_ms)}, and each one's history must stay in its own. Set it back "
            f"to {before} (partitions that the topic has beside stay empty), or begin anew with another "
            "kafka.topic_mentions and an empty database"
        )


def receivers_of(settings: Settings) -> tuple[Receiver, ...]:
    """Each with its secrets, the current one first."""
    return tuple(_receiver(receiver) for receiver in settings.receivers)


def usable(config: Path) -> Settings:
    """The configuration with everything it names. Raises Fatal with every fault."""
    settings = load_settings(config)
    if faults := faults_of(settings):
        raise Fatal(f"{config}: {len(faults)} fault(s)", faults=tuple(faults))
    return settings


def run_all(settings: Settings, config: Path, orders: Orders) -> int:
    """Every configured role as a process of its own; returns the exit code. A reload is checked here, then passed on."""
    usable(config)
    command = [sys.executable, "-m", "monitor.cli", "run", "--config", str(config), "--role"]
    roles = settings.service.roles
    supervisor = Supervisor(
        {role: [*command, role] for role in roles},
        clock=SystemClock(),
        drain_s=settings.service.drain_s + 2.0,
        policy=RestartPolicy(watchdog_s=settings.service.watchdog_s, reload_s=settings.service.reload_s),
        notifier=Notifier.of(os.environ, pid=os.getpid()),
    )

    def again() -> Settings:
        fresh = usable(config)
        if fresh.service != settings.service:
            raise Fatal(f"{config}: [service] is read at the start only; restart to change it")
        return fresh

    def between() -> None:
        if orders.reload.is_set():
            orders.reload.clear()
            if checked(again) is not None:
                supervisor.forward(signal.SIGHUP)

    return supervisor.run(orders.stop, between=between)


def run_role(settings: Settings, role: str, config: Path, orders: Orders) -> int:
    """One role until told to stop; returns the exit code. Fatal passes through, with its own code."""
    runners = {"score": _run_score, "watch": _run_watch, "deliver": _run_deliver}
    if role not in runners:
        raise Fatal(f"--role {role}: no such role; one of {', '.join(runners)}")
    structlog.contextvars.bind_contextvars(role=role)
    notifier, clock = Notifier.of(os.environ, pid=os.getpid()), SystemClock()

    def work(current: Settings, halt: threading.Event) -> None:
        configure_logs(current.telemetry.log_format, current.telemetry.log_level, secrets=secrets_of(current))
        log.info("role.started", pid=os.getpid())
        runners[role](current, halt, clock, notifier)

    live(settings, work=work, read=lambda: usable(config), orders=orders, notifier=notifier, clock=clock)
    log.info("role.stopped")
    return 0


def _run_score(settings: Settings, stop: threading.Event, clock: Clock, notifier: Notifier) -> None:
    """Raw topics → linker → model → topic mentions. The database keeps only which messages were begun."""
    from monitor.intake.kafka import KafkaSink, KafkaSource
    from monitor.linking import load_watchlist
    from monitor.loops.attempts import AttemptGuard
    from monitor.loops.score import ScoreLoop, ScorePolicy

    with ExitStack() as stack:
        parts = Parts.start(
            stack, settings, "score", settings.score.telemetry_port, clock, notifier, limits_s={"model": MODEL_S}
        )
        watchlist = load_watchlist(settings.watchlist.path)
        scorer = make_scorer(settings, at_once=settings.score.batches_in_flight)
        kafka, config = settings.kafka, kafka_config(settings, role="score")
        store = _store_and_topics(stack, settings, config, clock, stop)
        if store is None:
            return
        source = KafkaSource(
            config,
            topics=(kafka.topic_news, kafka.topic_social),
            group=group_of(settings, "score"),
            merged=True,
            anchors=store,
            on_held=parts.holds(settings, store, group_of(settings, "score")),
            on_standing=parts.standing,
        )
        stack.callback(source.close)
        sink = stack.enter_context(closing(KafkaResults(KafkaSink(config), settings)))
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
                batches_in_flight=settings.score.batches_in_flight,
            ),
            seen=parts.beat,
            trouble=parts.trouble,
            metrics=parts.metrics,
            attempts=AttemptGuard(store, owner=_process_name(), clock=clock),
        )
        loop.run(stop, drain_s=settings.service.drain_s)


def _run_watch(settings: Settings, stop: threading.Event, clock: Clock, notifier: Notifier) -> None:
    """Topic mentions → windows → alerts, in the database."""
    from monitor.alerting import load_rules
    from monitor.intake.kafka import KafkaSource
    from monitor.intake.progress import GroupProgress
    from monitor.linking import load_watchlist
    from monitor.loops.paging import Paging
    from monitor.loops.watch import WatchLoop, WatchLoopPolicy
    from monitor.loops.watchkeeping import Watchkeeping

    with ExitStack() as stack:
        parts = Parts.start(stack, settings, "watch", settings.watch.telemetry_port, clock, notifier)
        rules = load_rules(settings.rules.path)
        watchlist = load_watchlist(settings.watchlist.path)
        kafka, config = settings.kafka, kafka_config(settings, role="watch")
        store = _store_and_topics(stack, settings, config, clock, stop)
        if store is None:
            return
        source = KafkaSource(
            config,
            topics=(kafka.topic_mentions, kafka.topic_dead_letters),
            group=group_of(settings, "watch"),
            positions=lambda topic, partition: _position(store, topic, partition),
            anchors=store,
            on_held=parts.holds(settings, store, group_of(settings, "watch")),
            on_standing=parts.standing,
        )
        stack.callback(source.close)
        progress = GroupProgress(
            replace(config, request_timeout_ms=5_000, bootstrap_timeout_ms=5_000),
            group=group_of(settings, "score"),
            topics=(kafka.topic_news, kafka.topic_social),
            clock=clock,
            every_s=settings.watch.idle_tick_s,
        )
        stack.callback(progress.close)
        loop = WatchLoop(
            source=source,
            store=store,
            cores=CoreMaker(
                rules=rules, names=watchlist.names(), sectors=watchlist.sectors(), partitions=kafka.partitions
            ),
            paging=Paging(
                store=store,
                rules=rules,
                sectors=watchlist.sectors(),
                receivers=receivers_of(settings),
                topic_mentions=kafka.topic_mentions,
                clock=clock,
                metrics=parts.metrics,
            ),
            watchkeeping=Watchkeeping(
                store=store,
                rules=rules,
                receivers=receivers_of(settings),
                clock=clock,
                metrics=parts.metrics,
                show=parts.health.show_degraded,
            ),
            topic_mentions=kafka.topic_mentions,
            clock=clock,
            policy=WatchLoopPolicy(
                engine=settings.bundle.provider,
                batch_mentions_max=settings.watch.batch_mentions_max,
                poll_ms=settings.watch.poll_ms,
                idle_tick_s=settings.watch.idle_tick_s,
                retention_ms=settings.database.retention_days * 86_400_000,
            ),
            seen=parts.beat,
            trouble=parts.trouble,
            metrics=parts.metrics,
            upstream=progress,
            unheard=parts.unheard,
        )
        loop.run(stop)


def _run_deliver(settings: Settings, stop: threading.Event, clock: Clock, notifier: Notifier) -> None:
    """The outbox → receivers."""
    from monitor.delivery import WebhookReceiver
    from monitor.loops.deliver import DeliverLoop, DeliverLoopPolicy
    from monitor.store import Store

    with ExitStack() as stack:
        receivers = [WebhookReceiver(receiver) for receiver in receivers_of(settings)]
        parts = Parts.start(
            stack,
            settings,
            "deliver",
            settings.deliver.telemetry_port,
            clock,
            notifier,
            limits_s={f"receiver {receiver.name}": POLL_S + receiver.timeout_s for receiver in receivers},
        )
        store = _when_there(lambda: Store.open(database_url(settings)), stop)
        if store is None:
            return
        stack.callback(store.close)
        loop = DeliverLoop(
            store=store,
            receivers=receivers,
            clock=clock,
            policy=DeliverLoopPolicy(poll_ms=settings.deliver.poll_ms),
            owner=_process_name(),
            rng=random.Random(),  # noqa: S311 - jitter, not a secret
            seen=parts.beat,
            trouble=parts.trouble,
            count=lambda outcome: parts.metrics.count("deliver_attempts_total", label=str(outcome)),
            oldest_s=lambda seconds: parts.metrics.gauge("deliver_oldest_pending_seconds", seconds),
        )
        loop.run(stop, drain_s=settings.service.drain_s * 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What every role has: its metrics, its health, and the port that shows both."""

    metrics: Metrics
    health: Health
    clock: Clock

    @classmethod
    def start(
        cls,
        stack: ExitStack,
        settings: Settings,
        role: str,
        port: int,
        clock: Clock,
        notifier: Notifier,
        *,
        limits_s: Mapping[str, float] | None = None,
    ) -> Parts:
        """`limits_s`: how old the last sign of life of each part may be, beside that of polling."""
        parts = cls(metrics=Metrics(), health=Health({"poll": POLL_S, **(limits_s or {})}), clock=clock)
        server = TelemetryServer(
            host=settings.telemetry.host,
            port=port,
            key=f"[{role}] telemetry_port",
            metrics=parts.metrics,
            health=parts.health,
            clock=clock,
        )
        stack.callback(server.close)
        stack.callback(Caretaker(notifier, parts.health, clock).start().close)
        return parts

    def beat(self, part: str) -> None:
        self.health.beat(part, self.clock.monotonic_s())
        self.metrics.gauge("heartbeat_seconds", self.clock.now_ms() / 1000, label=part)

    def trouble(self, what: str | None) -> None:
        """Not ready while the work fails for reasons outside; see `Health.trouble`."""
        self.health.trouble("work", what, self.clock.monotonic_s())

    def standing(self, fault: str | None) -> None:
        """Not ready without partitions, unless they are rightly others'."""
        self.health.trouble("group", fault, self.clock.monotonic_s())

    def unheard(self, fault: str | None) -> None:
        """Not ready while watch goes on without knowing how far score is."""
        self.health.trouble("score", fault, self.clock.monotonic_s())

    def holds(self, settings: Settings, store: Store, group: str) -> HoldNotices:
        """What is done about partitions that wait for an operator."""
        from monitor.intake.anchors import HoldReason
        from monitor.loops.holds import HoldNotices

        return HoldNotices(
            store=store,
            group=group,
            receivers=receivers_of(settings),
            reasons=tuple(HoldReason),
            health=self.health,
            metrics=self.metrics,
            clock=self.clock,
        )


class KafkaResults:
    """What score publishes: mentions keyed by entity, dead letters with their bytes.

    An entity stays in its partition when partitions are added to the topic: those stay empty.
    """

    def __init__(self, sink: KafkaSink, settings: Settings) -> None:
        self._sink, self._kafka = sink, settings.kafka
        self._engine = settings.bundle.provider.encode()  # the engine refuses to start on any other

    def send_mention(self, mention: ScoredMention, *, origin: str) -> None:
        from monitor.intake.kafka import partition_of
        from monitor.loops.score import encode_mention
        from monitor.loops.watch import ENGINE_HEADER, ORIGIN_HEADER

        key, value = encode_mention(mention)
        self._sink.send(
            self._kafka.topic_mentions,
            key=key,
            value=value,
            headers=[(ORIGIN_HEADER, origin.encode()), (ENGINE_HEADER, self._engine)],
            partition=partition_of(mention.entity, self._kafka.partitions),
        )

    def send_dead_letter(self, letter: DeadLetter) -> None:
        from monitor.loops.score import encode_dead_letter

        key, value = encode_dead_letter(letter)
        self._sink.send(self._kafka.topic_dead_letters, key=key, value=value)

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self._sink.close()


class CoreMaker:
    """Makes the cores of the partitions that become ours."""

    def __init__(
        self, *, rules: Rules, names: Mapping[str, str], partitions: int, sectors: Mapping[str, str] = {}
    ) -> None:
        """`partitions` of topic mentions share the budget."""
        from monitor.loops.core import WatchPolicy

        self._rules, self._names, self._sectors = rules, names, sectors
        self._policy = WatchPolicy.of(rules, partitions=partitions)
        self.reach_back_ms = self._policy.reach_back_ms

    def empty(self) -> PartitionCore:
        from monitor.loops.core import PartitionCore

        return PartitionCore(policy=self._policy, rules=self._rules, names=self._names, sectors=self._sectors)

    def restore(
        self,
        *,
        state: bytes,
        watermark_ms: int | None,
        entity_states: Mapping[str, bytes],
        recent: Iterable[ScoredMention],
    ) -> PartitionCore:
        from monitor.loops.core import PartitionCore

        return PartitionCore.restore(
            policy=self._policy,
            rules=self._rules,
            names=self._names,
            sectors=self._sectors,
            state=state,
            watermark_ms=watermark_ms,
            entity_states=entity_states,
            recent=recent,
        )


def make_scorer(
    settings: Settings, bundle_folder: Path | None = None, *, every_convention: bool = False, at_once: int = 1
) -> Scorer:
    """The model, warm. Raises Fatal when bundle, precision or provider are not there.

    `every_convention`: with the heads that only an evaluation asks. `at_once`: how many batches it computes beside each
    other, sharing the cores: two on one core each are faster than one after the other on two.
    """
    from monitor.intake import clean
    from monitor.registry import engine_file, load_bundle
    from monitor.scoring import BatchPolicy, OnnxEngine, Scorer, ScorerPolicy

    bundle = load_bundle(bundle_folder or settings.bundle.path, trusted=settings.bundle.trusted_keys)
    threads = settings.bundle.threads
    if not threads and at_once > 1:  # one batch alone is left to the engine, which knows real cores from threads of one
        threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    engine = OnnxEngine(
        engine_file(bundle, settings.bundle.precision, settings.bundle.cache_dir, every_convention=every_convention),
        provider=settings.bundle.provider,
        threads=threads,
    )
    engine.warm_up()
    policy = ScorerPolicy(batch=BatchPolicy(tokens_max=settings.score.batch_tokens_max))
    return Scorer(bundle, engine, clean=clean, policy=policy)


def make_reader(settings: Settings, watchlist: Watchlist) -> DocumentReader:
    """Decoding and linking, with the limits of the configuration."""
    from monitor.intake import DecodeLimits
    from monitor.linking import Linker
    from monitor.loops.reading import DocumentReader

    channels: dict[str, Channel] = {settings.kafka.topic_news: "news", settings.kafka.topic_social: "social"}
    limits = DecodeLimits(
        message_bytes_max=settings.intake.message_bytes_max,
        depth_max=settings.intake.depth_max,
        text_chars_max=settings.intake.text_chars_max,
    )
    return DocumentReader(linker=Linker(watchlist), channels=channels, limits=limits)


def replay_files(
    settings: Settings,
    files: Sequence[Path],
    *,
    topic: str,
    speed: float | None,
    progress: Callable[[int], None],
    stop: threading.Event,
) -> int:
    """Streams on disk into a raw topic."""
    from monitor.intake.kafka import KafkaSink, ensure_topics
    from monitor.replay import ReplayPolicy, replay

    kafka = settings.kafka
    if topic not in {kafka.topic_news, kafka.topic_social}:
        raise Fatal(
            f"--topic {topic}: not a raw topic of the configuration; one of {kafka.topic_news}, {kafka.topic_social}"
        )
    missing = tuple(f"{file}: no such file" for file in files if not file.is_file())
    if missing:
        raise Fatal(missing[0], faults=missing)
    config = kafka_config(settings, role="replay")
    ensure_topics(config, topics_of(settings), create=kafka.create_topics)
    with closing(KafkaSink(config)) as sink:
        return replay(
            files,
            topic=topic,
            sink=sink,
            clock=SystemClock(),
            policy=ReplayPolicy(speed=speed),
            progress=progress,
            stop=stop,
        )


def replay_letters(settings: Settings, store: Store, *, ids: Sequence[int] | None) -> int:
    """Dead letters back to where they came from, byte for byte; marked when the broker has them."""
    from monitor.intake.kafka import KafkaSink

    letters = store.dead_letters(limit=100_000, ids=ids, pending=ids is None)
    missing = set(ids or ()) - {stored.id for stored in letters}
    if missing:
        raise Fatal(f"dead-letters replay: no dead letter {', '.join(map(str, sorted(missing)))}")
    if not letters:
        return 0
    with closing(KafkaSink(kafka_config(settings, role="replay"))) as sink:
        for stored in letters:
            letter = stored.letter
            sink.send(letter.place.topic, key=letter.key, value=letter.value, headers=letter.headers)
        sink.flush()
    return store.mark_replayed([stored.id for stored in letters], now_ms=SystemClock().now_ms())


def score_file(
    settings: Settings,
    file: Path,
    out: Path,
    *,
    bundle: Path | None,
    watchlist: Path | None,
    progress: Callable[[int], None],
    warn: Callable[[str], None],
) -> dict[str, float]:
    """Every line decoded, linked and judged; mentions to `out`, which is there whole or not at all."""
    from monitor.linking import load_watchlist
    from monitor.loops.score import encode_mention
    from monitor.replay import lines

    reader = make_reader(settings, load_watchlist(watchlist or settings.watchlist.path))
    scorer = make_scorer(settings, bundle)
    clock = SystemClock()
    started_s, counts = clock.monotonic_s(), {"documents": 0, "mentions": 0, "rejected": 0}
    half = out.with_name(f"{out.name}.half")
    waiting: list[Any] = []
    with half.open("wb") as sink:

        def judge() -> None:
            for mentions in scorer.judge(waiting, now_ms=clock.now_ms()):
                for mention in mentions:
                    sink.write(encode_mention(mention)[1] + b"\n")
                    counts["mentions"] += 1
            waiting.clear()

        for number, (_, line) in enumerate(lines(file, progress), 1):
            counts["documents"] += 1
            try:
                read = reader.read(FileLine(settings, file, number, line))
            except Rejectable as err:
                counts["rejected"] += 1
                warn(f"{file}: line {number}: {err}")
                continue
            if read[1]:
                waiting.append(read)
            if len(waiting) >= settings.score.batch_documents_max:
                judge()
        if waiting:
            judge()
    half.replace(out)
    seconds = max(1e-9, clock.monotonic_s() - started_s)
    return {**counts, "documents_per_second": round(counts["documents"] / seconds, 1)}


class FileLine:
    """A line of a file as the reader takes messages; its own `channel` decides the topic."""

    def __init__(self, settings: Settings, file: Path, number: int, line: bytes) -> None:
        class _Channel(msgspec.Struct):
            channel: str = "news"

        try:
            channel = msgspec.json.decode(line, type=_Channel).channel
        except UNDECODABLE:
            channel = "news"
        topic = settings.kafka.topic_social if channel == "social" else settings.kafka.topic_news
        self.place = Place(topic=topic, partition=0, offset=number)
        self.key: bytes | None = None
        self.value: bytes | None = line
        self.headers: tuple[tuple[str, bytes], ...] = ()


def _receiver(settings: ReceiverSettings) -> Receiver:
    from monitor.delivery import Receiver, sign

    what = f"receivers ({settings.name})"
    current = secret(file=settings.secret_file, env=settings.secret_env, what=what)
    previous = secret(file=settings.previous_secret_file, env=settings.previous_secret_env, what=what)
    secrets = tuple(s for s in (current, previous) if s)
    for one in secrets:
        try:
            sign(one, message_id="check", timestamp_s=0, body=b"")
        except Fatal as err:
            raise Fatal(f"{what}: {err}") from err
    return Receiver(
        name=settings.name,
        url=settings.address(),
        secrets=secrets,
        allow_http=settings.allow_http,
        allow_private=settings.allow_private,
        allow_networks=settings.allow_networks,
        ca_file=settings.ca_file,
        min_severity=settings.min_severity,
        topics=settings.topics,
        timeout_s=settings.timeout_s,
    )


def _process_name() -> str:
    """Of this process alone, for leases and marks."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _position(store: Store, topic: str, partition: int) -> int | None:
    place = store.partition_state(topic, partition)
    return place.next if place is not None else None


def _store_and_topics(
    stack: ExitStack, settings: Settings, config: KafkaConfig, clock: Clock, stop: threading.Event
) -> Store | None:
    """The database, once it and the topics are there; None when told to stop meanwhile."""
    from monitor.intake.kafka import ensure_topics
    from monitor.store import Store

    kafka = settings.kafka
    store = _when_there(lambda: Store.open(database_url(settings)), stop)
    if store is None:
        return None
    stack.callback(store.close)
    wanted, spread = topics_of(settings), (kafka.topic_mentions,)
    _when_there(lambda: ensure_topics(config, wanted, create=kafka.create_topics, spread=spread), stop)
    _when_there(lambda: check_spread(store, settings, clock), stop)
    return None if stop.is_set() else store


def _when_there(attempt: Callable[[], T], stop: threading.Event) -> T | None:
    """Try until it works; None when told to stop meanwhile."""
    waited_s = 0.5
    while not stop.is_set():
        try:
            return attempt()
        except Retryable as err:
            log.warning("start.retry", error=str(err), wait_s=waited_s)
            stop.wait(waited_s)
            waited_s = min(30.0, waited_s * 2)
    return None


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
