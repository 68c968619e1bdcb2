"""`tapewatch run` as a service manager sees it: ready, watched, restarted, reloaded, drained; and nothing secret is shown."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monitor.app import topics_of
from monitor.broker import EmbeddedBroker, free_port
from monitor.cli import CONFIGS
from monitor.clock import SystemClock
from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
from monitor.settings import load_settings
from monitor.store import Store
from monitor.telemetry import NotifyListener
from tests.hostile import HostileServer, answering
from tests.unit.test_deliver_loop import write

CLOCK = SystemClock()
SIGNING = "whsec_" + base64.b64encode(b"planted-signing-secret-1").decode()
PREVIOUS = "whsec_" + base64.b64encode(b"planted-signing-secret-0").decode()
TOKEN = "planted-token-in-the-url"
LOAD = 12_000  # documents, each of which names three companies


class Service:
    """The supervisor as a process, its log, and the socket that a service manager would listen at."""

    def __init__(self, folder: Path, broker: EmbeddedBroker, hook: str) -> None:
        self.config, self.log_file = folder / "tapewatch.toml", folder / "log"
        self.broker, self.hook = broker, hook
        self.database = f"sqlite:///{folder / 'tapewatch.db'}"
        self.ports = {role: free_port() for role in ("score", "watch", "deliver")}
        self.manager = NotifyListener(folder / "notify")
        self.told: set[str] = set()
        self.configure()
        environ = {**os.environ, "DESK_URL": f"{hook}/{TOKEN}", "DESK_SECRET": SIGNING, **self.manager.environ(60)}
        environ |= {"DESK_PREVIOUS": PREVIOUS}
        command = [sys.executable, "-m", "monitor.cli", "run", "--config", str(self.config)]
        with self.log_file.open("wb") as out:
            self.process = subprocess.Popen(command, env=environ, stdout=out, stderr=out)

    def configure(self, extra: str = "", *, service: str = "") -> None:
        ports = "\n".join(f"[{role}]\ntelemetry_port = {port}" for role, port in self.ports.items())
        self.config.write_text(f"""
[service]
watchdog_s = 10
{service}
[kafka]
bootstrap_servers = "{self.broker.bootstrap_servers}"
session_timeout_ms = 6000
partitions = 2
[database]
url = "{self.database}"
[watchlist]
path = "{CONFIGS}/watchlists/us_large.csv"
[rules]
path = "{CONFIGS}/rules/default.toml"
[telemetry]
log_format = "json"
log_level = "debug"
[[receivers]]
name = "desk"
url_env = "DESK_URL"
secret_env = "DESK_SECRET"
previous_secret_env = "DESK_PREVIOUS"
allow_http = true
allow_private = true
{ports}
{extra}
""")

    def events(self) -> list[dict[str, Any]]:
        """Lines of the log that are events."""
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [e for e in self.events() if e["event"] == event and fields.items() <= e.items()]

    def shown(self, role: str, path: str = "/metrics") -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[role]}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as err:
            return err.read().decode()  # not ready, and why
        except OSError:
            return ""

    def figure(self, role: str, name: str) -> float:
        found = re.search(rf"^tapewatch_{name} ([0-9.e+]+)$", self.shown(role), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def hears(self, what: str) -> bool:
        self.told |= self.manager.received()
        return what in self.told

    def until(self, fact: Callable[[], object], what: str) -> None:
        give_up_s = CLOCK.monotonic_s() + 120
        while not fact():
            assert self.process.poll() is None, f"the service ended; {self.log_file.read_text()[-2000:]}"
            assert CLOCK.monotonic_s() < give_up_s, (
                f"{what}: not within two minutes; {self.log_file.read_text()[-2000:]}"
            )
            CLOCK.sleep(0.1)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    hook = HostileServer(answering("500 Sorry", body=f"{TOKEN} {SIGNING}".encode()))
    with EmbeddedBroker() as broker, hook:
        store = Store.open(f"sqlite:///{tmp_path / 'tapewatch.db'}")
        write(store, ["desk"], alerts=["a", "b"])
        store.close()
        made = Service(tmp_path, broker, f"http://127.0.0.1:{hook.port}")
        yield made
        made.process.kill()
        made.process.wait()
        made.manager.close()


@pytest.mark.slow
def test_a_service_is_ready_restarted_reloaded_and_drained_and_shows_no_secret(service: Service) -> None:
    service.until(lambda: service.hears("READY"), "ready")
    service.until(lambda: service.logged("delivery.failed", receiver="desk"), "a try at the webhook")

    # A role that is killed is started again.
    (watch,) = service.logged("role.started", role="watch")
    os.kill(int(watch["pid"]), signal.SIGKILL)
    service.until(lambda: len(service.logged("role.started", role="watch")) == 2, "watch again")
    assert service.logged("role.ended", role="watch", exit_code=-9)

    # A bad configuration is refused with its faults, and nobody restarts for it.
    service.configure(service='drain = "soon"')
    service.process.send_signal(signal.SIGHUP)
    service.until(lambda: service.logged("reload.refused"), "the refusal")
    assert any("service.drain: unknown key" in fault for fault in service.logged("reload.refused")[0]["faults"])
    assert not service.logged("reload.begun")

    # A good one is taken over by every role in its own process.
    moved = service.ports["deliver"] = free_port()
    service.configure()
    service.process.send_signal(signal.SIGHUP)
    service.until(lambda: "true" in service.shown("deliver", "/readyz"), f"deliver at its new port {moved}")
    service.until(lambda: len(service.logged("reload.begun")) == 3, "all roles")
    service.until(lambda: all('"ok": true' in service.shown(r, "/readyz") for r in service.ports), "ready again")
    assert len(service.logged("role.ended")) == 1

    # A role that hangs, alive as a process and silent, is killed and started again. It is watched from its READY on, which
    # comes up to a second after /readyz says so.
    service.until(lambda: len(service.logged("role.ready", role="deliver")) == 2, "deliver told READY after its reload")
    pid = service.logged("role.started", role="deliver")[-1]["pid"]
    os.kill(int(pid), signal.SIGSTOP)
    service.until(lambda: service.logged("role.hung", role="deliver"), "the watchdog")
    service.until(lambda: service.logged("role.started", role="deliver")[-1]["pid"] != pid, "deliver again")
    service.until(lambda: '"ok": true' in service.shown("deliver", "/readyz"), "deliver ready again")

    # SIGTERM in the middle of a load: everything ends in order and in time.
    feeder = threading.Thread(target=feed, args=(service,))
    feeder.start()
    service.until(lambda: service.figure("score", "score_mentions_total") > 0, "mentions")
    pages = "".join(service.shown(role, path) for role in service.ports for path in ("/metrics", "/readyz", "/healthz"))
    assert service.figure("score", "score_mentions_total") < 3 * LOAD, "the load is still on"
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0
    feeder.join()
    assert not service.logged("role.killed"), "none had to be killed after drain_s"
    assert {e["role"] for e in service.logged("role.stopped")} == {"score", "watch", "deliver"}
    assert service.hears("STOPPING")

    # Whatever was logged or served on the way names no secret.
    assert len(pages) > 10_000
    everything = service.log_file.read_text() + pages
    for planted in (SIGNING, PREVIOUS, TOKEN, "planted"):
        assert planted not in everything


@pytest.mark.slow
def test_a_reload_in_the_midst_of_the_first_join_costs_no_partition(service: Service) -> None:
    """Whoever leaves a group while it joins it must leave it usable. Until it has partitions, a role is not ready."""
    waits = "no partitions: group tapewatch-score is still being joined"
    service.until(lambda: waits in service.shown("score", "/readyz"), "score joins")
    service.process.send_signal(signal.SIGHUP)
    service.until(lambda: len(service.logged("role.started", role="score")) == 2, "the reload")
    service.until(lambda: '"ok": true' in service.shown("score", "/readyz"), "score ready")
    feed(service, 50)
    service.until(lambda: service.figure("score", "score_documents_total") == 50, "all of it is read")


def feed(service: Service, count: int = LOAD) -> None:
    settings = load_settings(
        service.config, {"DESK_URL": service.hook, "DESK_SECRET": SIGNING, "DESK_PREVIOUS": PREVIOUS}
    )
    config = KafkaConfig(bootstrap_servers=service.broker.bootstrap_servers)
    ensure_topics(config, topics_of(settings), create=True)
    with closing(KafkaSink(config)) as sink:
        for number in range(count):
            message = {
                "id": str(number),
                "source": "wire",
                "channel": "news",
                "published_at": "2026-03-01T10:00:00Z",
                "title": f"Apple shares plunge {number} times as Microsoft and Nvidia soar on record profit {number}",
            }
            sink.send("news", key=None, value=json.dumps(message).encode())
        sink.flush()
