"""Ten minutes of a slow database and a slow model: what waits must wait in the broker, not in our memory.

`python -m tests.chaos.slow --minutes 10 --out slow.jsonl`: the embedded broker, PostgreSQL behind a proxy that holds back
whatever the roles say to it, and a score role whose model takes its time for each batch. Documents come faster than either
can work off. Memory is sampled every ten seconds; its slope over the last three quarters must stay within bounds, while
the lag must grow, or nothing was shown.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import msgspec

from monitor import app
from monitor.broker import EmbeddedBroker, free_port
from monitor.chaos.load import endless, own_names
from monitor.clock import SystemClock
from monitor.delivery import WebhookSink
from monitor.demo.run import is_ready, role_environment
from monitor.errors import Retryable
from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
from monitor.records import Record
from monitor.scoring import Scorer
from monitor.service import Orders
from monitor.settings import Settings, load_settings
from monitor.supervisor import spawn
from monitor.telemetry import configure_logs
from tests.chaos.soak import CONFIG
from tests.chaos.vitals import Sample, growth, lag_of, sample_of, settled
from tests.postgres import PostgresServer
from tests.proxy import FaultProxy

SLOW_ROLES = ("score", "watch")
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"  # of a sink that lives as long as we do
GROWTH_MB_MAX = 40.0  # over the whole of it: queues are bounded by count, and their documents differ in length


class Verdict(Record, frozen=True, kw_only=True):
    """Printed at the end. `growth_mb`: the slope over the settled part, over that part's length."""

    seconds: float
    documents: int
    database_delay_s: float
    batch_s: float
    memory_mb: Mapping[str, float]
    memory_mb_max: Mapping[str, float]
    growth_mb: Mapping[str, float]
    lag: Mapping[str, int]
    faults: tuple[str, ...]


def judge(
    samples: Sequence[Sample], *, documents: int, database_delay_s: float, batch_s: float, ended: Sequence[str]
) -> Verdict:
    """Each reason against it is a line in `faults`. Pure."""
    end_s, late = samples[-1].at_s, settled(samples)
    hours = (end_s - late[0].at_s) / 3_600
    an_hour = growth(late, SLOW_ROLES, lambda sample: sample.memory_mb)
    more_mb = {role: round(rate * hours, 1) for role, rate in an_hour.items()}
    faults = [f"{role}: {mb:.1f} MB more than before" for role, mb in more_mb.items() if mb > GROWTH_MB_MAX]
    if samples[-1].lag.get("score", 0) <= 0:
        faults.append("score: nothing waits for it, so nothing was shown")
    return Verdict(
        seconds=round(end_s, 1),
        documents=documents,
        database_delay_s=database_delay_s,
        batch_s=batch_s,
        memory_mb=samples[-1].memory_mb,
        memory_mb_max={role: max(s.memory_mb.get(role, 0.0) for s in samples) for role in SLOW_ROLES},
        growth_mb=more_mb,
        lag=samples[-1].lag,
        faults=(*faults, *(f"{role}: ended" for role in ended)),
    )


def slow_score(batch_s: float) -> int:
    """The score role as it is, but for a model that takes `batch_s` for each batch."""
    made, clock = app.make_scorer, SystemClock()

    def make(settings: Settings, *args: object, **options: object) -> Scorer:
        scorer = made(settings, *args, **options)  # type: ignore[arg-type]
        fast = scorer.judge

        def judge_slowly(*batch: object, **how: object) -> object:
            clock.sleep(batch_s)
            return fast(*batch, **how)  # type: ignore[arg-type]

        scorer.judge = judge_slowly  # type: ignore[method-assign,assignment]
        return scorer

    app.make_scorer = make
    orders = Orders()
    signal.signal(signal.SIGTERM, lambda *_: orders.stop.set())
    return app.run_role(load_settings(CONFIG), "score", CONFIG, orders)


def run(
    seconds: float, *, rate: float, database_delay_s: float, batch_s: float, keep: Callable[[Sample], object]
) -> Verdict:
    """Start everything, feed it, sample it, and say what was seen."""
    clock = SystemClock()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tapewatch-slow-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = PostgresServer(folder).start()
        stack.callback(database.kill)
        database.create("slow")
        proxy = FaultProxy(database.port)
        stack.callback(proxy.close)
        servers = stack.enter_context(EmbeddedBroker()).bootstrap_servers
        sink = stack.enter_context(WebhookSink(secrets=(SECRET,), on_message=lambda _key, _body: None))
        ports = {role: free_port() for role in SLOW_ROLES}
        environ = role_environment(servers, database.url("slow", port=proxy.port), ports) | own_names("slow")
        environ |= {"TAPEWATCH_SINK_URL": sink.url, "TAPEWATCH_SINK_SECRET": SECRET}
        settings = load_settings(CONFIG, environ)
        kafka = KafkaConfig(bootstrap_servers=servers)
        ensure_topics(kafka, app.topics_of(settings), create=True)
        watch = [sys.executable, "-m", "monitor.cli", "run", "--config", str(CONFIG), "--role", "watch"]
        score = [sys.executable, "-m", "tests.chaos.slow", "--be-score", str(batch_s)]
        children = {role: spawn(command, environ=environ) for role, command in (("score", score), ("watch", watch))}
        for child in children.values():
            stack.callback(child.kill)
        for port in ports.values():
            _wait_for(port, clock)
        proxy.delay_s = database_delay_s
        over, sent = threading.Event(), [0]
        feeder = threading.Thread(target=partial(_feed, kafka, settings, rate, over, sent), name="load", daemon=True)
        feeder.start()
        stack.callback(over.set)
        samples: list[Sample] = []
        started_s = clock.monotonic_s()
        while (at_s := clock.monotonic_s() - started_s) < seconds:
            clock.sleep(10.0)
            pids = {role: child.pid for role, child in children.items() if child.poll() is None}
            samples.append(sample_of(at_s, False, pids, {role: lag_of(ports[role]) for role in pids}))
            keep(samples[-1])
        ended = [role for role, child in children.items() if child.poll() is not None]
        return judge(samples, documents=sent[0], database_delay_s=database_delay_s, batch_s=batch_s, ended=ended)


def _wait_for(port: int, clock: SystemClock) -> None:
    """Until it is ready, for five minutes."""
    give_up_s = clock.monotonic_s() + 300
    while not is_ready(port):
        assert clock.monotonic_s() < give_up_s, f"nothing ready at port {port} after five minutes"
        clock.sleep(0.5)


def _feed(kafka: KafkaConfig, settings: Settings, rate: float, over: threading.Event, sent: list[int]) -> None:
    topics = {"news": settings.kafka.topic_news, "social": settings.kafka.topic_social}
    started_s = time.monotonic()
    with closing(KafkaSink(kafka)) as producer:
        for message in endless(7):
            while not over.is_set():
                try:
                    producer.send(topics[message.topic], key=message.key, value=message.value, event_ms=message.at_ms)
                    break
                except Retryable:
                    over.wait(1.0)
            sent[0] += 1
            if over.wait(max(0.0, started_s + sent[0] / rate - time.monotonic())):
                return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=50.0, help="documents a second")
    parser.add_argument("--database-delay", type=float, default=1.0, help="seconds, each time something is said to it")
    parser.add_argument("--batch-s", type=float, default=5.0, help="of the model, for each batch")
    parser.add_argument("--out", type=Path, default=Path("slow.jsonl"))
    parser.add_argument("--be-score", type=float, default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.be_score is not None:
        return slow_score(chosen.be_score)
    configure_logs(level="error")
    with chosen.out.open("wb", buffering=0) as out:
        verdict = run(
            chosen.minutes * 60,
            rate=chosen.rate,
            database_delay_s=chosen.database_delay,
            batch_s=chosen.batch_s,
            keep=lambda sample: out.write(msgspec.json.encode(sample) + b"\n"),
        )
    sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
