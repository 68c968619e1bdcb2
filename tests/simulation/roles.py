"""Processes: the real loops of `monitor.loops`, each with ports that may fail at every call."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from monitor.alerting import Rules, parse_rules
from monitor.app import CoreMaker, KafkaResults, make_reader
from monitor.cli import CONFIGS
from monitor.delivery import Answer, DeliveryPolicy
from monitor.errors import Retryable
from monitor.linking import Watchlist
from monitor.linking.watchlist import Company
from monitor.loops.attempts import AttemptGuard
from monitor.loops.deliver import DeliverLoop, DeliverLoopPolicy
from monitor.loops.paging import Paging
from monitor.loops.reading import DocumentReader
from monitor.loops.score import ScoreLoop, ScorePolicy
from monitor.loops.watch import WatchLoop, WatchLoopPolicy
from monitor.loops.watchkeeping import Watchkeeping
from monitor.records import Alert
from monitor.settings import Settings, load_settings
from monitor.store import Store
from monitor.store.engine import _begin_sqlite, _prepare_sqlite
from monitor.store.tables import metadata
from monitor.telemetry import Metrics
from tests.builders import WordJudge
from tests.simulation.broker import SimBroker, SimProgress, SimSink, SimSource
from tests.simulation.world import Crash, World

PARTITIONS = 3
ENTITIES = ("AAA", "BBB", "CCC", "DDD", "EEE")
RECEIVERS = ("desk", "boss")
CHOKES, KILLS = "choke", "kills"
# Everything that an alert can live through should happen within the hour that a run lasts.
RULES: Rules = parse_rules(
    {
        "name": "simulated",
        "budget": {"false_alerts_per_day": 50_000.0, "alerts_per_hour_max": 50, "prior_days": 0.05},
        "detectors": {"voices_min_news": 2.0, "voices_min_social": 2.0, "burst_windows_s": [3600]},
        "time": {"lateness_s": 60, "idle_after_s": 20, "future_max_s": 300},
        "life": {"cooldown_s": 600, "calm_s": 300, "check_s": 120, "update_s": 60, "open_max_s": 1800},
    },
    "simulation",
)


@lru_cache
def settings() -> Settings:
    return load_settings(CONFIGS / "default.toml", {"TAPEWATCH_KAFKA__PARTITIONS": str(PARTITIONS)})


@lru_cache
def reader() -> DocumentReader:
    """Decoding and linking as in service, over a watchlist of five."""
    companies = tuple(Company(symbol=symbol, name=f"{symbol.capitalize()} Holdings") for symbol in ENTITIES)
    return make_reader(settings(), Watchlist(companies=companies, fingerprint="simulated"))


class ChokingJudge(WordJudge):
    """Dies of some documents, whatever batch they are in, and takes the process along for others."""

    def judge(self, documents: Any, *, now_ms: int) -> Any:
        if any(KILLS in document.text for document, _ in documents):
            raise Crash("the model killed the process")
        if any(CHOKES in document.text for document, _ in documents):
            raise RuntimeError("the model choked")
        return super().judge(documents, now_ms=now_ms)


def as_it_is(real: Any) -> Any:
    """What nobody has broken."""
    return real


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What a process is made of. Breakages put something of their own in one place."""

    score: type[ScoreLoop] = ScoreLoop
    watch: type[WatchLoop] = WatchLoop
    deliver: type[DeliverLoop] = DeliverLoop
    source: type[SimSource] = SimSource
    transaction: Callable[[Any], Any] = as_it_is
    cores: type[CoreMaker] = CoreMaker
    attempts: type[AttemptGuard] = AttemptGuard
    outbox: Callable[[Store], Any] = as_it_is


class Process:
    """One role. `turn` is one step of its loop; a crash in the middle of it ends the process."""

    def __init__(self, world: World, name: str, source: SimSource | None) -> None:
        self.world, self.name, self.source = world, name, source
        self.alive, self.busy = True, False

    def turn(self) -> int:
        return self._guarded(self._turn)

    def _guarded(self, act: Callable[[], int]) -> int:
        self.busy = True
        try:
            return act()
        except Retryable as err:
            self.world.note(f"    {self.name}: retry: {err}")
        except Crash as crash:
            self.world.note(f"    {self.name}: died at {crash}")
            self.alive = False
        except Exception as err:  # noqa: BLE001 - whatever it is, it is a fault of ours: the run tells it and goes on
            self.world.surprises.append(f"{self.name} ended with {type(err).__name__}: {err}")
            self.alive = False
        finally:
            self.busy = False
        return 0

    def stop(self) -> None:
        """SIGTERM: leave in good order."""

    def _turn(self) -> int:
        raise NotImplementedError


class ScoreProcess(Process):
    def __init__(self, world: World, name: str, broker: SimBroker, store: Store, build: Build) -> None:
        kafka = settings().kafka
        source = build.source(broker, name=name, topics=(kafka.topic_news, kafka.topic_social), group="score")
        super().__init__(world, name, source)
        self.loop = build.score(
            source=source,
            sink=KafkaResults(SimSink(broker, name=name), settings()),  # type: ignore[arg-type]
            reader=reader(),
            judge=ChokingJudge(),
            clock=world.clock,
            policy=ScorePolicy(
                batch_documents_max=world.rng.choice((1, 4, 64)),
                queue_documents_max=world.rng.choice((8, 1_024)),
                poll_messages_max=world.rng.choice((5, 200)),
                model_wait_s=0.0,  # the world's time stands still meanwhile: to wait would only cost ours
            ),
            metrics=SHARED_METRICS,
            attempts=build.attempts(FaultyStore(world, name, store, build.transaction), owner=name, clock=world.clock),
        )
        self.loop._model = SimExecutor(world, name)  # type: ignore[assignment]  # one thread: the seed decides what is done when

    def _turn(self) -> int:
        return self.loop.turn()

    def stop(self) -> None:
        def drain() -> int:
            self.loop.drain(5.0)
            return 0

        self._guarded(drain)
        self.alive = False


class WatchProcess(Process):
    def __init__(self, world: World, name: str, broker: SimBroker, store: Store, build: Build) -> None:
        kafka = settings().kafka
        self.store = FaultyStore(world, name, store, build.transaction)

        def position(topic: str, partition: int) -> int | None:
            place = self.store.partition_state(topic, partition)
            return place.next if place is not None else None

        source = build.source(
            broker,
            name=name,
            topics=(kafka.topic_mentions, kafka.topic_dead_letters),
            group="watch",
            positions=position,
        )
        super().__init__(world, name, source)
        subscribers = [Subscriber(receiver) for receiver in RECEIVERS]
        self.loop = build.watch(
            source=source,
            store=self.store,
            cores=build.cores(rules=RULES, names={}, partitions=PARTITIONS),
            paging=Paging(
                store=self.store,  # type: ignore[arg-type]
                rules=RULES,
                sectors={},
                receivers=subscribers,
                topic_mentions=kafka.topic_mentions,
                clock=world.clock,
                metrics=SHARED_METRICS,
            ),
            watchkeeping=Watchkeeping(
                store=self.store,  # type: ignore[arg-type]
                rules=RULES,
                receivers=subscribers,
                clock=world.clock,
                metrics=SHARED_METRICS,
            ),
            topic_mentions=kafka.topic_mentions,
            clock=world.clock,
            policy=WatchLoopPolicy(batch_mentions_max=world.rng.choice((5, 20, 1_000))),
            metrics=SHARED_METRICS,
            upstream=SimProgress(broker, (kafka.topic_news, kafka.topic_social)),
        )

    def _turn(self) -> int:
        return self.loop.turn()


class DeliverProcess(Process):
    def __init__(self, world: World, name: str, store: Store, build: Build, inbox: Inbox) -> None:
        super().__init__(world, name, None)
        self.store = FaultyStore(world, name, build.outbox(store), build.transaction)
        self._receivers = [SimReceiver(world, name, self.store, receiver, inbox) for receiver in RECEIVERS]
        self.loop = build.deliver(
            store=self.store,  # type: ignore[arg-type]
            receivers=self._receivers,
            clock=world.clock,
            policy=DeliverLoopPolicy(batch_max=3, retry=DeliveryPolicy(pause_max_s=600.0, retry_after_max_s=600.0)),
            owner=name,
            rng=random.Random(world.rng.random()),
        )

    def _turn(self) -> int:
        return sum(self.loop.turn(receiver) for receiver in self._receivers)


class SimExecutor:
    """The model's threads: a batch is judged when somebody waits for it, or when the seed says that it is done."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def submit(self, judge: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Lazy(self._world, lambda: judge(*args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


class _Lazy(Future[Any]):
    def __init__(self, world: World, work: Callable[[], Any]) -> None:
        super().__init__()
        self._world, self._work = world, work

    def done(self) -> bool:
        return not self._world.faulty or self._world.rng.random() < 0.6

    def result(self, timeout: float | None = None) -> Any:
        return self._work()


class FaultyStore:
    """The real store; every call may find the database away, and every commit may fail, or succeed without saying so."""

    _READS = frozenset(
        {
            "partition_state",
            "entity_states",
            "mentions_since",
            "known_mentions",
            "oldest_pending_ms",
            "receiver_state",
            "marks_left",
            "paging_state",
            "partition_marks",
            "waiting_steps",
            "silences",
            "acknowledged",
            "newest_heard_hour",
            "feed_hours",
            "intake_shares",
        }
    )

    def __init__(self, world: World, name: str, store: Store, transaction: Callable[[Any], Any]) -> None:
        self._world, self._name, self._store, self._wrap = world, name, store, transaction
        self.lease_until_ms: dict[str, int] = {}

    def __getattr__(self, what: str) -> Any:
        call = getattr(self._store, what)
        if not callable(call):
            return call

        def faulty(*args: Any, **kwargs: Any) -> Any:
            world = self._world
            world.step(self._name, what)
            if world.may("database_away"):
                raise Retryable(f"{what}: the database is away")
            if what in self._READS:
                return call(*args, **kwargs)
            if world.may("commit_fails"):
                raise Retryable(f"{what}: not committed")
            answer = call(*args, **kwargs)
            self._note(what, args, answer)
            if world.may("commit_ambiguous"):
                raise Retryable(f"{what}: committed, but nobody said so")
            world.step(self._name, f"{what} done")
            return answer

        return faulty

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        world = self._world
        world.step(self._name, "transaction", stalled="stalled_before_writing")
        if world.may("database_away"):
            raise Retryable("transaction: the database is away")
        with self._store.transaction() as real:
            world.in_transaction = True
            try:
                yield FaultyTransaction(world, self._name, self._wrap(real))
                world.step(self._name, "commit")
                if world.may("commit_fails"):
                    raise Retryable("transaction: not committed")
            finally:
                world.in_transaction = False
        if world.may("commit_ambiguous"):
            raise Retryable("transaction: committed, but nobody said so")
        world.step(self._name, "committed")

    def _note(self, what: str, args: Sequence[Any], answer: Any) -> None:
        """What is needed to judge a repeated delivery."""
        if what == "claim_deliveries":
            for claim in answer:
                self._world.note(f"    {self._name}: claims {claim.id}")
                self.lease_until_ms[claim.id] = claim.lease_until_ms
        elif what == "mark_delivered" and answer:
            self._world.note(f"    {self._name}: closed {args[0]}")


class FaultyTransaction:
    """A step before each statement: a crash between any two of them leaves nothing behind."""

    def __init__(self, world: World, name: str, real: Any) -> None:
        self._world, self._name, self._real = world, name, real

    def __getattr__(self, what: str) -> Any:
        self._world.step(self._name, f"statement {what}")
        return getattr(self._real, what)


@dataclass(frozen=True, slots=True)
class Subscriber:
    """`boss` hears only of what is severe."""

    name: str

    def wants(self, alert: Alert, /) -> bool:
        return self.name != "boss" or alert.severity != "low"

    def hears(self, _topic: str, severity: str, /) -> bool:
        return self.name != "boss" or severity != "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What a receiver has taken. `again_for_nothing`: the outbox had recorded it as delivered already, and by the
    database's clock the lease of whoever sent it had not run out. What the processes' own clocks say is no excuse.
    """

    receiver: str
    id: str
    body: bytes
    again_for_nothing: bool


class Inbox:
    """Everything that the receivers accepted, in order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.accepted: list[Accepted] = []

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.accepted]


class SimReceiver:
    """A webhook's other end."""

    timeout_s = 10.0

    def __init__(self, world: World, process: str, store: FaultyStore, name: str, inbox: Inbox) -> None:
        self._world, self._process, self._store, self.name, self._inbox = world, process, store, name, inbox

    def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
        world = self._world
        world.step(self._process, "webhook")
        if world.may("webhook_fails"):
            return world.rng.choice(
                (
                    Answer(status=500, detail="failed"),
                    Answer(status=429, detail="too many", retry_after="30"),
                    Answer(status=302, detail="moved"),
                    Answer(status=None, detail="unreachable"),
                )
            )
        if world.may("webhook_gone"):
            return Answer(status=410, detail="gone")
        self._accept(message_id, body)
        if world.may("webhook_fails_accepted"):
            return Answer(status=world.rng.choice((None, 500, 503)), detail="accepted, but nobody said so")
        world.step(self._process, "webhook accepted")
        return Answer(status=204, detail="ok")

    def _accept(self, message_id: str, body: bytes) -> None:
        closed = {d.id for d in self._inbox.store.deliveries(limit=10_000, status="delivered")}
        excused = database_ms(self._world) >= self._store.lease_until_ms.get(message_id, 0)
        self._inbox.accepted.append(
            Accepted(
                receiver=self.name,
                id=message_id,
                body=body,
                again_for_nothing=message_id in closed and not excused,
            )
        )


def database_ms(world: World) -> int:
    """The database's clock: on a machine of its own, where nobody sets it; it need not agree with any other."""
    return round(1000 * world.clock.monotonic_s())


def fresh_store(world: World) -> Store:
    """The real store on SQLite in memory: the one connection of this thread, emptied by copying an empty database over it."""
    engine, empty = _engine()
    with engine.connect() as connection:
        empty.backup(connection.connection.driver_connection)  # type: ignore[arg-type]
    return Store(engine, clock_ms=lambda _connection: database_ms(world))


def raw(store: Store) -> sqlite3.Connection:
    """The connection itself: what is asked between all steps must cost little."""
    connection = store._engine.raw_connection().driver_connection
    assert isinstance(connection, sqlite3.Connection), "one connection for all"
    return connection


@lru_cache
def _engine() -> tuple[Engine, sqlite3.Connection]:
    engine = create_engine("sqlite://", poolclass=StaticPool, hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    metadata.create_all(engine)
    empty = sqlite3.connect(":memory:")
    with engine.connect() as connection:
        connection.connection.driver_connection.backup(empty)  # type: ignore[union-attr]
    return engine, empty


SHARED_METRICS = Metrics()
