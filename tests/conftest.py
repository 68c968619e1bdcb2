"""Services for the whole session, started when the first test asks for them; each listens on loopback only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.broker import EmbeddedBroker
from tests.kafka_broker import ApacheKafka
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    broker = ApacheKafka(tmp_path_factory.mktemp("kafka")).start()
    yield broker
    broker.kill()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    # Not in pytest's own folder: PostgreSQL runs as another user, and pytest closes its folders to others.
    with tempfile.TemporaryDirectory(prefix="tapewatch-postgres-") as folder:
        server = PostgresServer(Path(folder)).start()
        yield server
        server.kill()


LEFT_OUT = pytest.StashKey[int]()
TOLD = "told"  # the name of a test's recorded property that the last lines show


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without KAFKA_HOME the tests on Apache Kafka can't run; the last lines say so, nothing is hidden."""
    if os.environ.get("KAFKA_HOME"):
        return
    without = [item for item in items if item.get_closest_marker("kafka")]
    items[:] = [item for item in items if item not in without]
    config.stash[LEFT_OUT] = len(without)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of several tells the one that writes the last lines what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)  # each worker collects all tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", []):
        for name, value in report.user_properties:
            if name == TOLD and report.when == "call":
                terminalreporter.write_line(value)
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"KAFKA_HOME is not set: {left_out} tests on a real Apache Kafka did not run; set it to an unpacked Apache Kafka"
        )
