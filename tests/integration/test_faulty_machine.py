"""A full disk, a disk that does not sync, a clock that somebody sets: nothing half written, said by /readyz, mended by itself.

A real watch role, as a process, with the embedded broker and SQLite, or PostgreSQL where the disk is the server's; the
faults come from outside while it works.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from monitor.broker import EmbeddedBroker, free_port
from monitor.cli import CONFIGS
from monitor.demo.run import role_environment
from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
from monitor.records import ScoredMention, mention_id
from monitor.store import Store
from tests.postgres import PostgresServer

SHIM = Path(__file__).parents[1] / "faulty_machine.c"
DISK_MIB = 12
POSTGRES_DISK_MIB = 40
PATIENCE_S = 90.0


class Machine:
    """The role, its database on a disk of its own, and the faults."""

    def __init__(self, broker: EmbeddedBroker, disk: Path, faults: Path, shim: Path, database: str = "") -> None:
        self.disk, self.faults = disk, faults
        self.database = database or f"sqlite:///{disk / 'tapewatch.db'}"
        self._port = free_port()
        mark = f"faulty-{uuid.uuid4().hex[:6]}"
        topics = {name: f"{mark}-{name}" for name in ("news", "social", "mentions", "dead_letters")}
        self.topic = topics["mentions"]
        self._kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(self._kafka, dict.fromkeys(topics.values(), 1), create=True)
        environ = role_environment(broker.bootstrap_servers, self.database, {"watch": self._port})
        environ |= {f"TAPEWATCH_KAFKA__TOPIC_{name.upper()}": topic for name, topic in topics.items()}
        environ |= {
            "TAPEWATCH_KAFKA__GROUP_PREFIX": mark,
            "TAPEWATCH_KAFKA__PARTITIONS": "1",
            "TAPEWATCH_SINK_URL": "http://127.0.0.1:9/",
            "TAPEWATCH_SINK_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
            "LD_PRELOAD": str(shim),
            "FAULTY_MACHINE": str(faults),
        }
        command = [
            sys.executable,
            "-m",
            "monitor.cli",
            "run",
            "--config",
            str(CONFIGS / "demo.toml"),
            "--role",
            "watch",
        ]
        self.process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)
        self.sent = 0
        self.until("the role is ready", lambda: self.ready() == [])

    def ready(self) -> list[str] | None:
        """What /readyz has against it; None: it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5) as answer:
                return list(json.loads(answer.read())["faults"])
        except urllib.error.HTTPError as err:
            with err:
                return list(json.loads(err.read())["faults"])
        except OSError:
            return None

    def says(self, *words: str) -> bool:
        return any(word in fault for fault in self.ready() or () for word in words)

    def publish(self, count: int) -> None:
        """Mentions of this very moment, each of them a message of its own."""
        with closing(KafkaSink(self._kafka)) as sink:
            for _ in range(count):
                self.sent += 1
                sink.send(
                    self.topic,
                    key=b"AAA",
                    value=msgspec.json.encode(mention(self.sent)),
                    headers=[("origin", b"news/0")],
                )
            sink.flush()

    def stored(self) -> tuple[int, int, int]:
        """Mentions, late ones among them, and the next offset, as one moment of the database has them."""
        with closing(Store.open(self.database)) as store, store._reading("testing") as connection:
            counted = connection.execute(text("SELECT count(*), count(*) FILTER (WHERE late) FROM mentions")).one()
            following = connection.execute(
                text('SELECT "next" FROM partition_states WHERE topic = :topic'), {"topic": self.topic}
            ).scalar()
        return counted[0], counted[1], following or 0

    def whole(self) -> bool:
        """Every message made one mention, so the two can only differ when a batch was written in part."""
        mentions, _, following = self.stored()
        return mentions == following

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert self.process.poll() is None, f"the role ended with {self.process.returncode} before {what}"
            if time.monotonic() > give_up_s:
                pytest.fail(f"not within {PATIENCE_S:.0f} s: {what}; /readyz: {self.ready()}; stored: {self.stored()}")
            time.sleep(0.2)

    def recovers(self) -> None:
        """By itself: the same process, everything that was sent, each mention once."""
        self.until("everything is stored", lambda: self.stored()[0] == self.sent)
        self.until("it is ready again", lambda: self.ready() == [])
        assert self.stored() == (self.sent, 0, self.sent)
        if not self.database.startswith("sqlite"):
            return
        with closing(Store.open(self.database)) as store, store._reading("testing") as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()


def mention(number: int) -> ScoredMention:
    return ScoredMention(
        id=mention_id(f"wire:{number}", "AAA"),
        entity="AAA",
        document=f"wire:{number}",
        source="wire",
        channel="news",
        published_at_ms=time.time_ns() // 1_000_000,
        text=f"story w{number} x{number * 7} y{number * 11} " + "and so on " * 50,
        probabilities=(0.2, 0.6, 0.2),
        polarity=0.0,
        model="words@1",
        scored_at_ms=0,
    )


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bool]]:
    """A tmpfs of a few MiB; where nobody may mount one, an ordinary folder, and False."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        sys.__stderr__.write(
            "\nno tmpfs can be mounted here: the full disk is played by a limit on the size of files\n"
        )
    yield folder, mounted.returncode == 0
    if mounted.returncode == 0:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is missing: apt-get install gcc"
    library = tmp_path_factory.mktemp("shim") / "faulty_machine.so"
    subprocess.run([compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SHIM)], check=True)
    return library


@pytest.fixture(scope="module")
def machine(
    embedded_broker: EmbeddedBroker,
    small_disk: tuple[Path, bool],
    shim: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    running = Machine(embedded_broker, small_disk[0], tmp_path_factory.mktemp("faults"), shim)
    yield running
    running.end()


def fill_up(machine: Machine) -> Callable[[], None]:
    """Not one block is left; returns what makes room again."""
    ballast = machine.disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4_096)
    return ballast.unlink


def hold_down(machine: Machine) -> Callable[[], None]:
    """No file of the role may grow any more."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    size = max(file.stat().st_size for file in machine.disk.iterdir())
    resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def lift() -> None:
        resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE, unlimited)

    return lift


def test_a_full_disk_is_said_and_survived(machine: Machine, small_disk: tuple[Path, bool]) -> None:
    machine.publish(50)
    machine.recovers()
    free = fill_up(machine) if small_disk[1] else hold_down(machine)
    for _ in range(8):  # what space there is in files that exist already is used up first
        machine.publish(500)
        if machine.says("full", "disk I/O error"):
            break
    machine.until("/readyz says that the disk is full", lambda: machine.says("full", "disk I/O error"))
    assert machine.whole()
    free()
    machine.recovers()


@pytest.fixture
def machine_on_postgres(
    embedded_broker: EmbeddedBroker, postgres_server: PostgresServer, shim: Path, tmp_path: Path
) -> Iterator[Machine]:
    """Its tables lie in a tablespace on a small disk; the server's own files and its log have room enough."""
    # Not in pytest's own folder: PostgreSQL runs as another user, and pytest closes its folders to others.
    disk = Path(tempfile.mkdtemp(prefix="tapewatch-disk-"))
    disk.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={POSTGRES_DISK_MIB}m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        disk.rmdir()
        pytest.skip("no tmpfs can be mounted here, and a server's files can't be held down from outside")
    running = None
    try:
        running = Machine(embedded_broker, disk, tmp_path, shim, postgres_server.create_on(disk, "full_disk"))
        yield running
    finally:
        if running is not None:
            running.end()
        (disk / "ballast").unlink(missing_ok=True)
        postgres_server.drop_from("full_disk")
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


def test_a_full_disk_of_postgresql_is_said_and_survived(machine_on_postgres: Machine) -> None:
    machine = machine_on_postgres
    machine.publish(50)
    machine.recovers()
    free = fill_up(machine)
    for _ in range(8):
        machine.publish(500)
        if machine.says("No space left"):
            break
    machine.until("/readyz says that the disk is full", lambda: machine.says("No space left"))
    assert machine.whole()
    free()
    machine.recovers()


def test_a_disk_that_does_not_sync_is_said_and_survived(machine: Machine) -> None:
    fault = machine.faults / "fsync"
    fault.touch()
    machine.publish(100)
    machine.until("/readyz says that syncing fails", lambda: machine.says("disk I/O error"))
    assert machine.whole()
    fault.unlink()
    machine.recovers()


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_is_said_and_makes_nothing_late(machine: Machine, hours: int) -> None:
    """Set while it works, and set right again: what is published in between is neither late nor of the future."""
    fault = machine.faults / "clock"
    partly = machine.faults / "clock.half"
    partly.write_text(str(hours * 3_600))
    partly.replace(fault)
    machine.until("/readyz says that the clock was set", lambda: machine.says(f"set by {hours * 3_600:+d} s"))
    machine.publish(50)
    machine.until("it goes on", lambda: machine.stored()[0] == machine.sent)
    fault.unlink()
    machine.publish(50)
    machine.recovers()
