"""Soak: hours of mixed traffic through every role, sampled each minute; memory, descriptors and idle lag must stay flat.

`python -m tests.chaos.soak --hours 2 --out soak.jsonl`: Apache Kafka where KAFKA_HOME is set, else the embedded broker;
PostgreSQL either way. News, posts, reprints, brigades and malformed messages come at a steady rate with a burst and a
pause in each cycle. Nothing is killed here: a role that restarts has failed the soak.
"""

from __future__ import annotations

import argparse
import base64
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from monitor.app import make_reader, topics_of
from monitor.broker import free_port
from monitor.chaos.load import endless, own_names
from monitor.clock import SystemClock
from monitor.delivery import WebhookSink
from monitor.demo.run import ROLES, DemoPolicy, Roles, role_environment
from monitor.demo.stream import DemoMessage
from monitor.errors import Rejectable
from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
from monitor.linking import load_watchlist
from monitor.records import Place, Record, mention_id
from monitor.settings import load_settings
from monitor.store import Store
from monitor.telemetry import configure_logs
from tests.chaos.vitals import Sample, growth, lag_of, metrics_of, sample_of, settled, slope
from tests.servers import servers

CONFIG = Path(__file__).parents[2] / "configs" / "demo.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakPlan:
    """A cycle is traffic at `rate`, a burst at `burst_rate` in its middle, and `pause_s` of silence at its end."""

    seconds: float
    seed: int = 7
    rate: float = 30.0
    burst_rate: float = 150.0
    burst_s: float = 15.0
    pause_s: float = 40.0
    cycle_s: float = 300.0
    sample_s: float = 60.0
    memory_mb_per_hour_max: float = 12.0
    descriptors_per_hour_max: float = 2.0


class Verdict(Record, frozen=True, kw_only=True):
    """What `--json` prints. Slopes are Theil–Sen medians over the settled part of the run."""

    seconds: float
    documents: int
    mentions: int
    lost: int
    alerts: int
    deliveries: int
    restarts: int
    memory_mb: Mapping[str, float]
    memory_mb_per_hour: Mapping[str, float]
    descriptors_per_hour: Mapping[str, float]
    idle_lag_last: int
    idle_lag_per_hour: float
    faults: tuple[str, ...]


def soak(
    plan: SoakPlan,
    *,
    bootstrap_servers: str,
    database_url: str,
    keep: Callable[[Sample], None],
    say: Callable[[str], object] = lambda _text: None,
) -> Verdict:
    """Run it to the end; `keep` gets every sample as it is taken."""
    clock = SystemClock()
    with ExitStack() as stack:
        received: set[str] = set()
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
        sink = stack.enter_context(WebhookSink(secrets=(secret,), on_message=lambda key, _body: received.add(key)))
        ports = {role: free_port() for role in ROLES}
        environ = role_environment(bootstrap_servers, database_url, ports) | own_names("soak")
        environ |= {"TAPEWATCH_SINK_URL": sink.url, "TAPEWATCH_SINK_SECRET": secret}
        environ |= {"TAPEWATCH_DATABASE__RETENTION_DAYS": "30"}  # of event time, which runs fast: rows are purged too
        settings = load_settings(CONFIG, environ)
        store = stack.enter_context(closing(Store.open(database_url)))
        kafka = KafkaConfig(bootstrap_servers=bootstrap_servers)
        ensure_topics(kafka, topics_of(settings), create=True)
        reader = make_reader(settings, load_watchlist(settings.watchlist.path))
        roles = Roles(CONFIG, environ, ports, clock=clock, policy=DemoPolicy())
        stack.callback(roles.stop)
        roles.wait_until_ready()
        samples: list[Sample] = []
        wanted = 0

        def take(idle: bool) -> None:
            pids = roles.pids()
            lag = {role: lag_of(ports[role]) for role in ("score", "watch")}
            lag["deliver"] = store.counts().pending_deliveries
            samples.append(sample_of(clock.monotonic_s() - started_s, idle, pids, lag))
            keep(samples[-1])

        producer = stack.enter_context(closing(KafkaSink(kafka)))
        topics = {"news": settings.kafka.topic_news, "social": settings.kafka.topic_social}
        say("ready; sending")
        started_s = clock.monotonic_s()
        documents = 0
        for step in _steps(plan, endless(plan.seed), clock):
            if isinstance(step, bool):
                roles.check()
                take(step)
                continue
            producer.send(topics[step.topic], key=step.key, value=step.value, event_ms=step.at_ms)
            wanted += _mentions(reader, topics[step.topic], step.value)
            documents += 1
        producer.flush()
        _settle(store, lambda: sum(_counted(ports["watch"]).values()) >= wanted)
        take(True)
        found = round(sum(_counted(ports["watch"]).values()))
        counts = store.counts()
        return judge(
            plan,
            samples,
            documents=documents,
            mentions=found,
            lost=wanted - found,
            alerts=counts.alerts,
            deliveries=len(received),
        )


def judge(
    plan: SoakPlan, samples: Sequence[Sample], *, documents: int, mentions: int, lost: int, alerts: int, deliveries: int
) -> Verdict:
    """Flat or not; each reason against it is a line in `faults`. Pure."""
    end_s, late = samples[-1].at_s, settled(samples)
    idle = [sample for sample in late if sample.idle]
    memory = growth(late, ROLES, lambda sample: sample.memory_mb)
    files = growth(late, ROLES, lambda sample: sample.descriptors)
    lag = slope([(sample.at_s, sum(sample.lag.values())) for sample in idle])
    restarts = sum(len({s.pids[role] for s in samples if role in s.pids}) - 1 for role in ROLES)
    faults = [
        f"{role}: memory grows by {rate:.1f} MB an hour"
        for role, rate in memory.items()
        if rate > plan.memory_mb_per_hour_max
    ]
    faults += [
        f"{role}: descriptors grow by {rate:.1f} an hour"
        for role, rate in files.items()
        if rate > plan.descriptors_per_hour_max
    ]
    if lag > 1.0 or sum(idle[-1].lag.values()):
        faults.append(f"idle lag {sum(idle[-1].lag.values())} at the end, growing by {lag:.1f} an hour")
    if restarts:
        faults.append(f"{restarts} restarts")
    if lost:
        faults.append(f"{lost} mentions lost (negative: counted twice)")
    return Verdict(
        seconds=round(end_s, 1),
        documents=documents,
        mentions=mentions,
        lost=lost,
        alerts=alerts,
        deliveries=deliveries,
        restarts=restarts,
        memory_mb={role: samples[-1].memory_mb.get(role, 0.0) for role in ROLES},
        memory_mb_per_hour={role: round(rate, 2) for role, rate in memory.items()},
        descriptors_per_hour={role: round(rate, 2) for role, rate in files.items()},
        idle_lag_last=sum(idle[-1].lag.values()),
        idle_lag_per_hour=round(lag, 2),
        faults=tuple(faults),
    )


def _steps(plan: SoakPlan, messages: Iterator[DemoMessage], clock: SystemClock) -> Iterator[DemoMessage | bool]:
    """Messages when they are due; a bool when a sample is (True: at the end of a pause, so that lag is idle lag)."""
    started_s = clock.monotonic_s()
    owed, last_s, sampled_s, pausing = 0.0, 0.0, 0.0, False
    while (at_s := clock.monotonic_s() - started_s) < plan.seconds:
        in_cycle_s = at_s % plan.cycle_s
        rate = _rate(plan, in_cycle_s)
        owed, last_s = owed + rate * min(1.0, at_s - last_s), at_s
        while owed >= 1.0:
            owed -= 1.0
            yield next(messages)
        if rate:
            pausing = True
        if pausing and in_cycle_s > plan.cycle_s - 1.0:
            pausing = False
            yield True
        elif at_s - sampled_s >= plan.sample_s:
            sampled_s = at_s
            yield False
        clock.sleep(0.05)


def _rate(plan: SoakPlan, in_cycle_s: float) -> float:
    if in_cycle_s >= plan.cycle_s - plan.pause_s:
        return 0.0
    middle_s = (plan.cycle_s - plan.pause_s) / 2
    return plan.burst_rate if middle_s <= in_cycle_s < middle_s + plan.burst_s else plan.rate


def _counted(port: int) -> dict[str, float]:
    return metrics_of(port, "tapewatch_watch_mentions_total")


def _mentions(reader: object, topic: str, value: bytes) -> int:
    """How many mentions this message must become."""

    @dataclass(frozen=True)
    class Message:
        place: Place
        value: bytes
        key: bytes | None = None
        headers: Sequence[tuple[str, bytes]] = ()

    try:
        document, entities = reader.read(Message(Place(topic=topic, partition=0, offset=0), value))  # type: ignore[attr-defined]
    except Rejectable:
        return 0
    return len({mention_id(document.key, entity.entity) for entity in entities})


def _settle(store: Store, arrived: Callable[[], bool]) -> None:
    """Two minutes for what is on its way."""
    give_up_s = time.monotonic() + 120
    while time.monotonic() < give_up_s and not (arrived() and store.oldest_pending_ms() is None):
        time.sleep(1.0)
    time.sleep(10.0)  # the lag is measured every five seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"))
    chosen = parser.parse_args()
    configure_logs(level="error")
    plan = SoakPlan(seconds=chosen.hours * 3_600, seed=chosen.seed, rate=chosen.rate)
    kafka = bool(os.environ.get("KAFKA_HOME"))
    with (
        servers("soak", kafka=kafka, postgres=True) as (bootstrap, database),
        chosen.out.open("wb", buffering=0) as out,
    ):
        verdict = soak(
            plan,
            bootstrap_servers=bootstrap,
            database_url=database,
            keep=lambda sample: out.write(msgspec.json.encode(sample) + b"\n"),
            say=lambda text: sys.stderr.write(text + "\n"),
        )
    sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
