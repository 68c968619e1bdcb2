"""Chaos on Apache Kafka with PostgreSQL: roles are killed, and every tenth time the broker too, back after 0 to 10 s.

`python -m tests.chaos --kills 200 --seed 7` with KAFKA_HOME set; prints what `tapewatch chaos --json` prints.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import msgspec

from monitor.chaos import ChaosPlan, run_chaos
from monitor.telemetry import configure_logs
from tests.kafka_broker import ApacheKafka
from tests.postgres import PostgresServer

CONFIG = Path(__file__).parents[2] / "configs" / "demo.toml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--broker-every", type=int, default=10, help="0: never")
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    back: list[threading.Timer] = []
    configure_logs(level="error")
    # PostgreSQL doesn't run as root: its folder can't lie in one that only we may enter.
    with ExitStack() as stack:
        database_folder, broker_folder = (Path(tempfile.mkdtemp(prefix="tapewatch-chaos-")) for _ in range(2))
        for folder in (database_folder, broker_folder):
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = PostgresServer(database_folder).start()
        broker = ApacheKafka(broker_folder).start()

        def disturb(kill: int) -> None:
            if not chosen.broker_every or kill % chosen.broker_every != chosen.broker_every - 1:
                return
            for timer in back:
                timer.join()
            back.clear()
            broker.kill()
            back.append(threading.Timer(rng.uniform(0, 10), broker.start))
            back[0].start()

        try:
            findings = run_chaos(
                CONFIG,
                ChaosPlan(kills=chosen.kills, seed=chosen.seed, still_s=120.0),
                bootstrap_servers=broker.bootstrap_servers,
                database_url=database.create("chaos"),
                disturb=disturb,
                say=lambda text: sys.stderr.write(text + "\n"),
            )
        finally:
            for timer in back:
                timer.join()
            broker.kill()
            database.kill()
    sys.stdout.write(msgspec.json.encode(findings).decode() + "\n")
    return 0 if findings.sound else 1


if __name__ == "__main__":
    sys.exit(main())
