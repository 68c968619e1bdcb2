"""A real Apache Kafka (one KRaft node, loopback) from KAFKA_HOME, an unpacked distribution, in a folder of the test's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from monitor.broker import free_port

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=9000
broker.heartbeat.interval.ms=1000
auto.create.topics.enable=false
"""


class ApacheKafka:
    """Formatted on construction; `start`, `kill` (SIGKILL: a crash) and `stop` (clean) as often as the test likes.

    `advertise(port)` before the first start: clients are sent there, to a proxy of the test's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = folder / "server.properties"
        self._controller = free_port()
        self.advertise(self.port)
        self.log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        storage = "kafka.tools.StorageTool"
        uuid = subprocess.check_output([*_java(), storage, "random-uuid"], text=True, stderr=subprocess.DEVNULL)
        self._format(uuid.split()[-1])

    def _format(self, cluster: str) -> None:
        command = [*_java(), "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster]
        subprocess.run([*command, "-c", str(self.settings)], check=True, capture_output=True)

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def advertise(self, port: int) -> None:
        text = PROPERTIES.format(port=self.port, advertised=port, controller=self._controller, folder=self.folder)
        self.settings.write_text(text)

    def start(self) -> ApacheKafka:
        self.log.touch()
        seen = self.log.stat().st_size
        with self.log.open("ab") as out:
            self._process = subprocess.Popen([*_java(), "kafka.Kafka", str(self.settings)], stdout=out, stderr=out)
        try:
            self._wait_until_started(seen)
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_until_started(self, seen: int) -> None:
        give_up_s = time.monotonic() + 600
        while b"Kafka Server started" not in self.log.read_bytes()[seen:]:
            assert self._process is not None
            assert self._process.poll() is None, f"the broker ended; see {self.log}"
            assert time.monotonic() < give_up_s, f"no answer in ten minutes; see {self.log}"
            time.sleep(0.1)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT: a broker that stalls."""
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(120)
            self._process = None


def _java() -> list[str]:
    home = Path(os.environ["KAFKA_HOME"])
    logging = home / "log4j2.properties"
    options = [f"-Dlog4j2.configurationFile={logging}"] if logging.exists() else []
    return ["java", "-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", *options, "-cp", f"{home}/libs/*"]
