"""Chaos on Apache Kafka with PostgreSQL, two processes each of score and watch with names of their own in their groups.

`python -m tests.chaos --kills 200 --seed 7` with KAFKA_HOME set; prints what `tapewatch chaos --json` prints. Roles are
killed, and before every third kill something else breaks as well: see `tests/chaos/faults.py`.
"""

import argparse
import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

from monitor.chaos import ChaosPlan, run_chaos
from monitor.chaos.load import own_names
from monitor.demo.run import role_environment
from monitor.telemetry import configure_logs
from tests.chaos.faults import KINDS, FaultPlan, Faults, World
from tests.kafka_broker import ApacheKafka
from tests.postgres import PostgresServer
from tests.proxy import FaultProxy

CONFIG = Path(__file__).parents[2] / "configs" / "demo.toml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=60.0, help="documents a second")
    parser.add_argument("--every", type=int, default=3, help="a fault before each so many kills")
    parser.add_argument("--away", type=float, default=60.0, help="the longest time that a broker is away or stalls")
    parser.add_argument("--log-level", default="error")
    parser.add_argument("--faults", default=",".join(KINDS))
    chosen = parser.parse_args()
    configure_logs(level=chosen.log_level)
    with ExitStack() as stack:
        world, names = start_world(stack)
        plan = FaultPlan(
            every=chosen.every,
            kinds=tuple(chosen.faults.split(",")),
            away_s=chosen.away,
            stall_s=(min(5.0, chosen.away), chosen.away),
        )
        faults = Faults(world, plan, random.Random(chosen.seed))
        stack.callback(faults.finish)
        world.database.create("chaos")
        findings = run_chaos(
            CONFIG,
            ChaosPlan(
                kills=chosen.kills,
                seed=chosen.seed,
                processes=2,
                static=True,
                documents_per_second=chosen.rate,
                still_s=240.0,
            ),
            bootstrap_servers=f"127.0.0.1:{world.broker_proxy.port}",
            database_url=world.database.url("chaos", port=world.database_proxy.port),
            disturb=faults,
            mended=faults.finish,
            expired=lambda: faults.expired,
            environment=names | {"TAPEWATCH_KAFKA__PARTITIONS": "4"},
            say=lambda text: sys.stderr.write(text + "\n"),
        )
        sys.stderr.write(f"{dict(world.broker_proxy.counts)} {dict(world.database_proxy.counts)}\n")
    sys.stdout.write(msgspec.json.encode(findings).decode() + "\n")
    return 0 if findings.sound else 1


def start_world(stack: ExitStack) -> tuple[World, dict[str, str]]:
    """Broker, database and a proxy before each; and the names of the topics that a run is to use."""
    # PostgreSQL doesn't run as root: its folder can't lie in one that only we may enter.
    database_folder, broker_folder = (Path(tempfile.mkdtemp(prefix="tapewatch-chaos-")) for _ in range(2))
    for folder in (database_folder, broker_folder):
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    database = PostgresServer(database_folder).start()
    stack.callback(database.kill)
    broker = ApacheKafka(broker_folder)
    broker_proxy, database_proxy = FaultProxy(broker.port), FaultProxy(database.port)
    for proxy in (broker_proxy, database_proxy):
        stack.callback(proxy.close)
    broker.advertise(broker_proxy.port)
    broker.start()
    stack.callback(broker.kill)
    names = own_names("chaos")
    raw = [names[f"TAPEWATCH_KAFKA__TOPIC_{topic}"] for topic in ("NEWS", "SOCIAL")]
    return World(
        broker=broker,
        broker_proxy=broker_proxy,
        database=database,
        database_proxy=database_proxy,
        topics=lambda: raw,
        environ={
            **role_environment(broker.bootstrap_servers, database.url("chaos"), {}),
            **names,
            "TAPEWATCH_SINK_URL": "http://127.0.0.1:9/",
            "TAPEWATCH_SINK_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
        },
    ), names


if __name__ == "__main__":
    sys.exit(main())
