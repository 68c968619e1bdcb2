"""A stream on disk through the whole service, by the commands a user would give, and what came of it.

`python -m tests.bench.service --stream FILE --topic news --out DIR`: Apache Kafka with PostgreSQL where KAFKA_HOME is set, or
with `--embedded` the embedded broker with SQLite. `tapewatch run` and `tapewatch replay --asap` are processes; the figures
come from `/metrics`, from the kernel and from `tapewatch alerts list`. DIR/alerts.jsonl is what the service raised.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from monitor.broker import free_port
from monitor.demo.run import ROLES, is_ready, role_environment
from tests.chaos.vitals import lag_of, metrics_of, sample_of, slope
from tests.servers import servers

CONFIG = Path(__file__).parents[2] / "configs" / "history.toml"
TAPEWATCH = (sys.executable, "-m", "monitor.cli")
STILL_S = 45.0  # so long must nothing change before it counts as done: a batch can take that long beside other work
Samples = dict[str, list[tuple[float, float]]]


def told(port: int, name: str) -> int:
    """One metric of a role, its labels summed up."""
    return round(sum(metrics_of(port, f"tapewatch_{name}").values()))


def wait_until_ready(ports: Mapping[str, int], service: subprocess.Popen[bytes]) -> None:
    for port in ports.values():
        while not is_ready(port):
            assert service.poll() is None, "the service ended; its message stands above"
            time.sleep(0.3)


def roles_of(supervisor: int) -> dict[str, int]:
    """The supervisor's children by role, from the kernel."""
    found = {}
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if "--role" in words:
            found[words[words.index("--role") + 1]] = int(pid)
    return found


def run(stream: Path, topic: str, out: Path, *, embedded: bool, config: Path) -> dict[str, Any]:
    """Start everything, play the stream, wait until nothing moves any more."""
    ports = {role: free_port() for role in ROLES}
    with servers("history", kafka=not embedded, postgres=not embedded) as (bootstrap, database), ExitStack() as stack:
        environ = role_environment(bootstrap, database, ports)
        service = subprocess.Popen([*TAPEWATCH, "run", "--config", str(config)], env=environ)
        stack.callback(service.wait)
        stack.callback(service.terminate)
        wait_until_ready(ports, service)
        pids = roles_of(service.pid)
        started = time.monotonic()
        replay = [*TAPEWATCH, "replay", str(stream), "--topic", topic, "--asap", "--config", str(config), "--json"]
        player = subprocess.Popen(replay, env=environ, stdout=subprocess.PIPE)
        memory: Samples = {role: [] for role in ROLES}
        done_s = watch_until_still(ports, pids, player, memory, started)
        assert player.stdout is not None
        sent = json.loads(player.stdout.read())
        figures = {
            "documents": told(ports["score"], "score_documents_total"),
            "mentions": told(ports["watch"], "watch_mentions_total"),
            "repeats": told(ports["watch"], "watch_duplicates_total"),
            "late": round(metrics_of(ports["watch"], "tapewatch_watch_mentions_total").get("late", 0)),
            "dead_letters": told(ports["watch"], "watch_dead_letters_total"),
        }
        listed = subprocess.run(
            [*TAPEWATCH, "alerts", "list", "--limit", "10000", "--json", "--config", str(config)],
            env=environ,
            check=True,
            capture_output=True,
        )
    alerts = sorted(json.loads(listed.stdout)["alerts"], key=lambda alert: (alert["opened_at"], alert["entity"]))
    out.mkdir(parents=True, exist_ok=True)
    (out / "alerts.jsonl").write_text("".join(json.dumps(alert) + "\n" for alert in alerts), "utf-8")
    return {
        "stream": stream.name.removesuffix(".jsonl.gz"),
        "broker": "embedded, SQLite" if embedded else "Apache Kafka, PostgreSQL",
        "sent": sent,
        **figures,
        "alerts": len(alerts),
        "alerts_by_day": dict(sorted(Counter(str(alert["opened_at"])[:10] for alert in alerts).items())),
        "seconds": round(done_s, 1),
        "memory_mb_max": {role: max(mb for _, mb in memory[role]) for role in ROLES},
        "memory_mb_last_half": {role: half_of(memory[role]) for role in ROLES},
        "memory_mb_per_hour": {
            role: round(slope([s for s in memory[role] if s[0] >= done_s / 2]), 1) for role in ROLES
        },
    }


def half_of(samples: Sequence[tuple[float, float]]) -> list[float]:
    """Resident memory at the middle and at the end."""
    return [samples[len(samples) // 2][1], samples[-1][1]]


def watch_until_still(
    ports: Mapping[str, int], pids: Mapping[str, int], player: subprocess.Popen[bytes], memory: Samples, started: float
) -> float:
    """Sample until the player is through and for STILL_S nothing moved; seconds until the last movement."""
    seen, moved_s = None, 0.0
    while True:
        at_s = time.monotonic() - started
        score, watch = ports["score"], ports["watch"]
        state = (
            told(score, "score_documents_total"),
            told(watch, "watch_mentions_total"),
            told(watch, "watch_duplicates_total"),
            told(watch, "watch_transitions_total"),
        )
        for role, mb in sample_of(at_s, False, pids, {}).memory_mb.items():
            memory[role].append((at_s, mb))
        if state != seen:
            seen, moved_s = state, at_s
        waiting = lag_of(score) + told(score, "score_queue_documents") + lag_of(watch)
        waiting += max(0, told(score, "score_mentions_total") - state[1] - state[2])
        if player.poll() is not None and not waiting and at_s - moved_s > STILL_S:
            return moved_s
        time.sleep(1.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.service", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stream", type=Path, required=True)
    parser.add_argument("--topic", choices=("news", "social"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument(
        "--embedded", action="store_true", help="the embedded broker and SQLite, whatever KAFKA_HOME says"
    )
    given = parser.parse_args()
    embedded = given.embedded or not os.environ.get("KAFKA_HOME")
    found = run(given.stream, given.topic, given.out, embedded=embedded, config=given.config)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
