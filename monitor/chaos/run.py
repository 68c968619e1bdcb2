"""The run itself: real roles as processes, a real broker and database, a stream that does not wait, and SIGKILL.

`disturb` is called before each kill: tests use it to kill the broker or to cut the database off as well.
"""

from __future__ import annotations

import base64
import os
import random
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import structlog

from monitor.alerting import load_rules
from monitor.app import make_reader, topics_of
from monitor.backtest import run_backtest
from monitor.broker import EmbeddedBroker, free_port
from monitor.chaos.oracle import Findings, Told, judge
from monitor.clock import Clock, SystemClock, to_rfc3339
from monitor.delivery import WebhookSink
from monitor.demo.run import ROLES, DemoPolicy, Roles, role_environment
from monitor.demo.stream import demo_messages
from monitor.errors import Fatal, Rejectable, Retryable
from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
from monitor.linking import load_watchlist
from monitor.records import Place, mention_id
from monitor.settings import Settings, load_settings
from monitor.store import Store
from monitor.supervisor import RestartPolicy

log = structlog.get_logger()
START_MS = 1_780_272_000_000  # 2026-06-01: the stream's own calendar
_ROUND_MS = 48 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """`pause_s`: the least and the longest time between two kills; `still_s`: no progress for so long ends the wait."""

    kills: int
    seed: int
    documents_per_second: float = 60.0
    pause_s: tuple[float, float] = (0.5, 8.0)
    still_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    place: Place
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


def run_chaos(
    config: Path,
    plan: ChaosPlan,
    *,
    bootstrap_servers: str | None = None,
    database_url: str | None = None,
    disturb: Callable[[int], None] = lambda _kill: None,
    say: Callable[[str], object] = lambda _text: None,
    clock: Clock | None = None,
) -> Findings:
    """Kill, wait until everything has arrived, compare. Without an address: the embedded broker, SQLite.

    Topics have names of their own, so that a broker in use is not disturbed. Raises Fatal when the database holds mentions.
    """
    clock = clock or SystemClock()
    rng = random.Random(plan.seed)  # noqa: S311 - a seed that repeats the run, not a secret
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tapewatch-chaos-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if bootstrap_servers is None:
            bootstrap_servers = stack.enter_context(EmbeddedBroker()).bootstrap_servers
        database_url = database_url or f"sqlite:///{folder / 'tapewatch.db'}"
        received: list[str] = []
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
        sink = stack.enter_context(WebhookSink(secrets=(secret,), on_message=lambda key, _body: received.append(key)))
        ports = {role: free_port() for role in ROLES}
        environ = role_environment(bootstrap_servers, database_url, ports) | _names(plan.seed)
        environ |= {"TAPEWATCH_SINK_URL": sink.url, "TAPEWATCH_SINK_SECRET": secret}
        settings = load_settings(config, environ)
        store = stack.enter_context(closing(Store.open(database_url)))
        if store.counts().mentions:
            raise Fatal(f"{database_url.split('@')[-1]}: holds mentions already; chaos needs an empty database")
        kafka = KafkaConfig(bootstrap_servers=bootstrap_servers)
        ensure_topics(kafka, topics_of(settings), create=True)
        roles = Roles(config, environ, ports, clock=clock, policy=DemoPolicy(), restarts=RestartPolicy(pause_max_s=1.0))
        stack.callback(roles.stop)
        roles.wait_until_ready()
        started_s = clock.monotonic_s()
        halt = threading.Event()
        stack.callback(halt.set)
        load = _Load(kafka, settings, plan, clock, halt)
        load.start()
        say(f"sending, and killing {plan.kills} times")
        kills = _kill(roles, plan, rng, disturb, clock)
        load.finish()
        wanted_mentions, wanted_letters = _expected(settings, load.sent)
        say(f"{kills} kills, {len(load.sent)} documents; waiting for {len(wanted_mentions)} mentions")
        _wait(store, len(wanted_mentions), len(wanted_letters), plan, clock, roles)
        roles.stop()
        wanted, found, late = _compare(settings, store, wanted_mentions, wanted_letters, load.sent)
        return judge(
            wanted,
            found,
            outbox=[delivery.id for delivery in store.deliveries(limit=1_000_000)],
            received=received,
            kills=kills,
            documents=len(load.sent),
            late=late,
            seconds=clock.monotonic_s() - started_s,
        )


class _Load:
    """The sample stream, round after round with new ids and later times, until told to finish the round."""

    def __init__(
        self, kafka: KafkaConfig, settings: Settings, plan: ChaosPlan, clock: Clock, halt: threading.Event
    ) -> None:
        self._kafka, self._plan, self._clock, self._halt = kafka, plan, clock, halt
        self._topics = {"news": settings.kafka.topic_news, "social": settings.kafka.topic_social}
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._failure: BaseException | None = None
        self.sent: list[_Sent] = []

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Raises what the sender died of: then the run proves nothing."""
        self._enough.set()
        self._thread.join()
        if self._failure is not None:
            raise Fatal(f"chaos: the sender failed: {self._failure}") from self._failure

    def _run(self) -> None:
        try:
            with closing(KafkaSink(self._kafka)) as producer:
                started_s = self._clock.monotonic_s()
                for topic, key, value, at_ms in self._messages():
                    due_s = started_s + len(self.sent) / self._plan.documents_per_second
                    if (wait_s := due_s - self._clock.monotonic_s()) > 0.05 and self._halt.wait(wait_s):
                        return
                    _retrying(partial(producer.send, topic, key=key, value=value, event_ms=at_ms))
                    self.sent.append(_Sent(place=Place(topic=topic, partition=-1, offset=len(self.sent)), value=value))
                    if self._enough.is_set() and len(self.sent) >= 500:
                        break
                _retrying(producer.flush)
        except Exception as err:  # noqa: BLE001 - told by `finish`, where it ends the run
            self._failure = err

    def _messages(self) -> Iterator[tuple[str, bytes, bytes, int]]:
        number = 0
        while True:
            shift_ms = number * _ROUND_MS
            for message in demo_messages(self._plan.seed + number, start_ms=START_MS + shift_ms):
                yield self._topics[message.topic], message.key, _renamed(message.value, number), message.at_ms
            number += 1


def _retrying(act: Callable[[], object]) -> None:
    """The sender outlives a broker that is away: the client retries for two minutes by itself, then we do."""
    for _ in range(30):
        try:
            act()
            return
        except Retryable as err:
            log.warning("chaos.sender_waits", error=str(err))
    raise Retryable("the broker did not come back")


def _renamed(value: bytes, number: int) -> bytes:
    """Each round's documents are documents of their own; what is no JSON object stays as it is."""
    try:
        body = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return value
    if not isinstance(body, dict) or not isinstance(body.get("id"), str):
        return value
    return msgspec.json.encode(body | {"id": f"{number}-{body['id']}"})


def _kill(roles: Roles, plan: ChaosPlan, rng: random.Random, disturb: Callable[[int], None], clock: Clock) -> int:
    kills = 0
    while kills < plan.kills:
        clock.sleep(rng.uniform(*plan.pause_s))
        roles.check()
        running = roles.pids()
        if not running:
            continue
        disturb(kills)
        role = rng.choice(sorted(running))
        try:
            os.kill(running[role], signal.SIGKILL)
        except ProcessLookupError:
            continue
        kills += 1
        log.debug("chaos.kill", role=role, kill=kills)
    return kills


def _expected(settings: Settings, sent: Sequence[_Sent]) -> tuple[frozenset[str], list[_Sent]]:
    """Which mentions and which dead letters the sent messages hold."""
    reader = make_reader(settings, load_watchlist(settings.watchlist.path))
    mentions: set[str] = set()
    letters = []
    for message in sent:
        try:
            document, entities = reader.read(message)
        except Rejectable:
            letters.append(message)
            continue
        mentions.update(mention_id(document.key, entity.entity) for entity in entities)
    return frozenset(mentions), letters


def _wait(store: Store, mentions: int, letters: int, plan: ChaosPlan, clock: Clock, roles: Roles) -> None:
    """Until everything has arrived and is delivered, or nothing moves any more: then the comparison says what is missing."""
    last, since_s = (-1, -1, -1), clock.monotonic_s()
    while clock.monotonic_s() - since_s < plan.still_s:
        roles.check()
        try:
            counts, pending = store.counts(), store.oldest_pending_ms()
        except Retryable as err:
            log.warning("chaos.database_waits", error=str(err))
            clock.sleep(1.0)
            continue
        if counts.mentions >= mentions and counts.dead_letters >= letters and pending is None:
            clock.sleep(3.0)  # what is on its way twice gets time to arrive
            return
        now = (counts.mentions, counts.dead_letters, counts.alerts)
        if now != last:
            last, since_s = now, clock.monotonic_s()
        clock.sleep(0.5)


def _compare(
    settings: Settings, store: Store, mentions: frozenset[str], letters: Sequence[_Sent], sent: Sequence[_Sent]
) -> tuple[Told, Told, int]:
    """Both sides, up to where event time has come in each partition."""
    rules = load_rules(settings.rules.path)
    stored, folded_ms = [], []
    for partition in range(settings.kafka.partitions):
        place = store.partition_state(settings.kafka.topic_mentions, partition)
        if place is not None and place.watermark_ms is not None:
            folded_ms.append(place.watermark_ms // 60_000 * 60_000)
        stored += store.mentions_since(partition, 0)
    until_ms = min(folded_ms, default=0)
    undisturbed = run_backtest(stored, rules=rules, partitions=settings.kafka.partitions)
    wanted_buckets = {
        (row.entity, str(row.channel), row.start_ms): _sums(row)
        for row in undisturbed.buckets
        if row.start_ms < until_ms
    }
    entities = {mention.entity for mention in stored}
    found_buckets = {
        (row.entity, str(row.channel), row.start_ms): _sums(row)
        for entity in entities
        for row in store.buckets(entity)
        if row.start_ms < until_ms
    }
    known = store.known_mentions(mentions)
    extra = store.counts().mentions - len(known)
    keys = frozenset(known) | {f"extra {number}" for number in range(extra)}
    until = to_rfc3339(until_ms)
    wanted = Told(
        mentions=mentions,
        dead_letters=frozenset(("", 0, number) for number in range(len(letters))),
        buckets=wanted_buckets,
        alerts=frozenset(a.id for a in undisturbed.alerts if a.opened_at < until),
    )
    found = Told(
        mentions=keys,
        dead_letters=frozenset(("", 0, number) for number in range(store.counts().dead_letters)),
        buckets=found_buckets,
        alerts=frozenset(a.id for a in store.alerts(limit=1_000_000) if a.opened_at < until),
    )
    return wanted, found, len(known) + extra - len(stored)


def _sums(row: object) -> tuple[float, ...]:
    names = ("raw_n", "effective_n", "negative", "neutral", "positive", "polarity_sum", "polarity_sq_sum")
    return tuple(round(float(getattr(row, name)), 5) for name in names)


def _names(seed: int) -> dict[str, str]:
    """Topics and groups that nobody else uses."""
    mark = f"chaos-{seed}-{secrets.token_hex(3)}"
    topics = {name: f"{mark}-{name.replace('_', '-')}" for name in ("news", "social", "mentions", "dead_letters")}
    names = {f"TAPEWATCH_KAFKA__TOPIC_{name.upper()}": topic for name, topic in topics.items()}
    return names | {"TAPEWATCH_KAFKA__GROUP_PREFIX": mark}
