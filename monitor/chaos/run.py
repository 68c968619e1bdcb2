"""The run itself: real roles as processes, a real broker and database, a stream that does not wait, and SIGKILL.

`disturb` is called before each kill with the running processes: tests use it to kill the broker or to cut the database
off as well, and it says what it did; `mended` returns when all of that works again. `expired` tells which messages the
broker threw away, maybe before they were read: they may be missing, and nothing else may.
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
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from monitor.alerting import load_rules
from monitor.app import make_reader, topics_of
from monitor.backtest import run_backtest
from monitor.broker import EmbeddedBroker, free_port
from monitor.chaos.load import endless, opening, own_names
from monitor.chaos.oracle import Findings, Told, judge
from monitor.clock import Clock, SystemClock, to_rfc3339
from monitor.delivery import WebhookSink
from monitor.demo.run import ROLES, DemoPolicy, Roles, role_environment
from monitor.errors import Fatal, Rejectable, Retryable
from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
from monitor.linking import load_watchlist
from monitor.records import Place, mention_id
from monitor.settings import Settings, load_settings
from monitor.store import Store
from monitor.supervisor import RestartPolicy

log = structlog.get_logger()
Disturb = Callable[[int, Mapping[str, int]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """`pause_s`: the least and the longest time between two kills; `still_s`: no progress for so long ends the wait.

    Of score and watch run `processes` each; with `static` each has a name of its own in its group, which it keeps when it
    is started again.
    """

    kills: int
    seed: int
    processes: int = 1
    static: bool = False
    documents_per_second: float = 60.0
    pause_s: tuple[float, float] = (0.5, 8.0)
    still_s: float = 180.0


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
    disturb: Disturb = lambda _kill, _pids: None,
    mended: Callable[[], object] = lambda: None,
    expired: Callable[[], Sequence[bytes]] = tuple,
    environment: Mapping[str, str] | None = None,
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
        ports = {name: free_port() for name in _processes(plan)}
        environ = role_environment(bootstrap_servers, database_url, ports) | own_names(f"chaos-{plan.seed}")
        environ |= environment or {}
        environ |= {"TAPEWATCH_SINK_URL": sink.url, "TAPEWATCH_SINK_SECRET": secret}
        settings = load_settings(config, environ)
        store = stack.enter_context(closing(Store.open(database_url)))
        if store.counts().mentions:
            raise Fatal(f"{database_url.split('@')[-1]}: holds mentions already; chaos needs an empty database")
        kafka = KafkaConfig(bootstrap_servers=bootstrap_servers)
        ensure_topics(kafka, topics_of(settings), create=True)
        roles = Roles(
            config,
            environ,
            ports,
            clock=clock,
            policy=DemoPolicy(ready_s=180.0),
            restarts=RestartPolicy(pause_max_s=1.0),
            own=lambda name: {"TAPEWATCH_KAFKA__STATIC_MEMBER": name} if plan.static else {},
        )
        stack.callback(roles.stop)
        roles.wait_until_ready()
        _open(kafka, settings)
        clock.sleep(10 * settings.watch.idle_tick_s)  # watch asks the group once a tick, and at first in vain
        started_s = clock.monotonic_s()
        halt = threading.Event()
        stack.callback(halt.set)
        load = _Load(kafka, settings, plan, clock, halt)
        load.start()
        say(f"sending, and killing {plan.kills} times")
        kills, faults = _kill(roles, plan, rng, disturb, clock)
        mended()
        load.finish()
        expectation = _expected(settings, load.sent, frozenset(expired()))
        must = expectation.mentions - expectation.spared
        say(f"{kills} kills, {len(load.sent)} documents; waiting for {len(must)} mentions")
        _wait(store, must, expectation, plan, clock, roles)
        roles.stop()
        wanted, found, late = _compare(settings, store, expectation)
        return judge(
            wanted,
            found,
            outbox=[delivery.id for delivery in store.deliveries(limit=1_000_000)],
            received=received,
            kills=kills,
            documents=len(load.sent),
            late=late,
            seconds=clock.monotonic_s() - started_s,
            faults=faults,
        )


def _processes(plan: ChaosPlan) -> list[str]:
    more = [f"{role}-{number}" for number in range(2, plan.processes + 1) for role in ("score", "watch")]
    return [*ROLES, *more]


def _open(kafka: KafkaConfig, settings: Settings) -> None:
    with closing(KafkaSink(kafka)) as producer:
        for topic in (settings.kafka.topic_news, settings.kafka.topic_social):
            for partition in range(topics_of(settings)[topic]):
                producer.send(topic, key=None, value=opening(f"{topic}/{partition}"), partition=partition)
        producer.flush()


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
        self._unproved: list[Callable[[], None]] = []
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
                for message in endless(self._plan.seed):
                    topic = self._topics[message.topic]
                    due_s = started_s + len(self.sent) / self._plan.documents_per_second
                    if (wait_s := due_s - self._clock.monotonic_s()) > 0.05 and self._halt.wait(wait_s):
                        return
                    self._unproved.append(
                        partial(producer.send, topic, key=message.key, value=message.value, event_ms=message.at_ms)
                    )
                    place = Place(topic=topic, partition=-1, offset=len(self.sent))
                    self.sent.append(_Sent(place=place, value=message.value, key=message.key))
                    if len(self._unproved) >= 50:
                        self._prove(producer)
                    if self._enough.is_set() and len(self.sent) >= 500:
                        break
                self._prove(producer)
        except Exception as err:  # noqa: BLE001 - told by `finish`, where it ends the run
            self._failure = err

    def _prove(self, producer: KafkaSink) -> None:
        """Send until all is acknowledged: we outlive a broker that is away. What is sent twice is told apart by its id."""
        for _ in range(60):
            try:
                for send in self._unproved:
                    send()
                producer.flush()
            except Retryable as err:
                log.warning("chaos.sender_waits", error=str(err))
                self._clock.sleep(1.0)
                continue
            self._unproved.clear()
            return
        raise Retryable("the broker did not come back")


def _kill(
    roles: Roles, plan: ChaosPlan, rng: random.Random, disturb: Disturb, clock: Clock
) -> tuple[int, Mapping[str, int]]:
    """How many were killed, and which faults were made beside, by kind."""
    kills, faults = 0, Counter[str]()
    while kills < plan.kills:
        clock.sleep(rng.uniform(*plan.pause_s))
        roles.check()
        running = roles.pids()
        if not running:
            continue
        if (fault := disturb(kills, running)) is not None:
            faults[fault] += 1
            log.debug("chaos.fault", fault=fault, kill=kills)
        role = rng.choice(sorted(running))
        try:
            os.kill(running[role], signal.SIGKILL)
        except ProcessLookupError:
            continue
        kills += 1
        log.debug("chaos.kill", role=role, kill=kills)
        if rng.random() < 0.5:  # half of the kills hit while something starts, half while everything works
            with suppress(Retryable):
                roles.wait_until_ready()
    return kills, dict(sorted(faults.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """Which mentions and which dead letters (by their keys) the sent messages hold; the spared ones may be missing."""

    mentions: frozenset[str]
    letters: frozenset[str]
    spared: frozenset[str]
    letters_spared: frozenset[str]


def _expected(settings: Settings, sent: Sequence[_Sent], expired: Collection[bytes]) -> _Expected:
    reader = make_reader(settings, load_watchlist(settings.watchlist.path))
    mentions: set[str] = set()
    spared: set[str] = set()
    letters: set[str] = set()
    letters_spared: set[str] = set()
    for message in sent:
        gone = message.value in expired
        try:
            document, entities = reader.read(message)
        except Rejectable:
            letters.add(str(message.key))
            if gone:
                letters_spared.add(str(message.key))
            continue
        ids = {mention_id(document.key, entity.entity) for entity in entities}
        mentions |= ids
        if gone:
            spared |= ids
    return _Expected(
        mentions=frozenset(mentions),
        letters=frozenset(letters),
        spared=frozenset(spared),
        letters_spared=frozenset(letters_spared),
    )


def _wait(store: Store, must: frozenset[str], expected: _Expected, plan: ChaosPlan, clock: Clock, roles: Roles) -> None:
    """Until everything has arrived and is delivered, or nothing moves any more: then the comparison says what is missing."""
    last, since_s = (-1, -1, -1), clock.monotonic_s()
    letters = len(expected.letters - expected.letters_spared)
    while clock.monotonic_s() - since_s < plan.still_s:
        roles.check()
        try:
            counts, pending = store.counts(), store.oldest_pending_ms()
            there = counts.mentions >= len(must) and (not expected.spared or must <= store.known_mentions(must))
        except Retryable as err:
            log.warning("chaos.database_waits", error=str(err))
            clock.sleep(1.0)
            continue
        if there and counts.dead_letters >= letters and pending is None:
            clock.sleep(3.0)  # what is on its way twice gets time to arrive
            return
        now = (counts.mentions, counts.dead_letters, counts.alerts)
        if now != last:
            log.info("chaos.waiting", arrived=counts, pending=pending is not None)
            last, since_s = now, clock.monotonic_s()
        clock.sleep(0.5)


def _compare(settings: Settings, store: Store, expected: _Expected) -> tuple[Told, Told, int]:
    """Both sides, up to where event time has come in each partition."""
    rules = load_rules(settings.rules.path)
    stored, folded_ms = [], []
    for partition in range(settings.kafka.partitions):
        place = store.partition_state(settings.kafka.topic_mentions, partition)
        if place is not None and place.watermark_ms is not None:
            folded_ms.append(place.watermark_ms // 60_000 * 60_000)
        stored += store.mentions_since(partition, 0)
    until_ms = min(folded_ms, default=0)
    watchlist = load_watchlist(settings.watchlist.path)
    undisturbed = run_backtest(
        stored,
        rules=rules,
        names=watchlist.names(),
        sectors=watchlist.sectors(),  # a company that is seldom named leans on its sector's record
        partitions=settings.kafka.partitions,
    )
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
    known = store.known_mentions(expected.mentions)
    found_letters = frozenset(str(stored.letter.key) for stored in store.dead_letters(limit=1_000_000))
    extra = store.counts().mentions - len(known)
    keys = frozenset(known) | {f"extra {number}" for number in range(extra)}
    until = to_rfc3339(until_ms)
    wanted = Told(
        mentions=expected.mentions - (expected.spared - known),
        dead_letters=expected.letters - (expected.letters_spared - found_letters),
        buckets=wanted_buckets,
        alerts=frozenset(a.id for a in undisturbed.alerts if a.opened_at < until),
    )
    found = Told(
        mentions=keys,
        dead_letters=found_letters,
        buckets=found_buckets,
        alerts=frozenset(a.id for a in store.alerts(limit=1_000_000) if a.opened_at < until),
    )
    return wanted, found, len(known) + extra - len(stored)


def _sums(row: object) -> tuple[float, ...]:
    names = ("raw_n", "effective_n", "negative", "neutral", "positive", "polarity_sum", "polarity_sq_sum")
    return tuple(round(float(getattr(row, name)), 5) for name in names)
