"""A broker and an empty database of their own, for as long as a block lasts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from monitor.broker import EmbeddedBroker
from tests.kafka_broker import ApacheKafka
from tests.postgres import PostgresServer


@contextmanager
def servers(name: str, *, kafka: bool, postgres: bool) -> Iterator[tuple[str, str]]:
    """Bootstrap servers and the URL of the database `name`: Apache Kafka or the embedded broker, PostgreSQL or SQLite."""
    with ExitStack() as stack:
        folders = [Path(tempfile.mkdtemp(prefix=f"tapewatch-{name}-")) for _ in range(2)]
        for folder in folders:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = f"sqlite:///{folders[0] / name}.db"
        if postgres:
            database = PostgresServer(folders[0]).start()
            stack.callback(database.kill)
            url = database.create(name)
        if kafka:
            apache = ApacheKafka(folders[1]).start()
            stack.callback(apache.kill)
            yield apache.bootstrap_servers, url
        else:
            yield stack.enter_context(EmbeddedBroker()).bootstrap_servers, url
