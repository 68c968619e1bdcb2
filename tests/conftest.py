"""Services for the whole session, started when the first test asks for them; each listens on loopback only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without KAFKA_HOME the tests on Apache Kafka can't run; the last lines say so, nothing is hidden."""
    if os.environ.get("KAFKA_HOME"):
        return
    without = [item for item in items if item.get_closest_marker("kafka")]
    items[:] = [item for item in items if item not in without]
    config.stash[LEFT_OUT] = len(without)


LEFT_OUT = pytest.StashKey[int]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"KAFKA_HOME is not set: {left_out} tests on a real Apache Kafka did not run; set it to an unpacked Apache Kafka"
        )
