"""An operator in a bad hour: retention has gone over unread messages; what is held must be said, and one word must free it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import kafka
from kafka.admin import KafkaAdminClient
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import TopicPartition

from monitor.app import group_of
from monitor.intake.kafka import KafkaConfig
from monitor.loops.holds import notice_of
from monitor.settings import load_settings
from monitor.store import Store, StoredAnchor
from tests.kafka_broker import ApacheKafka

CONFIG = Path(__file__).parents[2] / "configs" / "demo.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """What expired: the messages before `cut` that nobody had committed."""

    topic: str
    partition: int
    cut: int
    values: Sequence[bytes]


class Operator:
    """Looks at the broker and the database directly, and acts by the command line."""

    def __init__(self, broker: ApacheKafka, environ: Mapping[str, str]) -> None:
        self._config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        self._environ = environ
        self._settings = load_settings(CONFIG, environ)
        self._group = group_of(self._settings, "score")

    def expire(self, topics: Sequence[str]) -> Gone | None:
        """Throw away all but the last message of the partition with most that is unread; None: there is nothing unread."""
        with closing(KafkaAdminClient(**self._config.client())) as admin:
            told = admin.describe_topics(list(topics))
            places = [TopicPartition(t["name"], p["partition_index"]) for t in told for p in t["partitions"]]
            done = self._committed(admin, places)
            ends = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
            unread = {place: ends[place].offset - done[place] for place in places if place in done}
            place = max(unread, key=lambda place: unread[place], default=None)
            if place is None or unread[place] < 2:
                return None
            cut = ends[place].offset - 1
            values = self._read(place, done[place], cut)
            admin.delete_records({place: cut})
            return Gone(topic=place.topic, partition=place.partition, cut=cut, values=values)

    def frees(self, gone: Gone, ports: Sequence[int], *, within_s: float) -> bool:
        """Wait until it is held, said by /readyz and told to receivers; then accept it, and wait until it goes on.

        False: it was never held, for somebody came back and committed what lay before the cut.
        """
        give_up_s = time.monotonic() + within_s
        with closing(Store.open(self._settings.database.url)) as store:
            while not self._is_told(store, gone, ports):
                assert time.monotonic() < give_up_s, f"{gone.topic}/{gone.partition} expired, and nobody says so"
                if self._was_read(gone):
                    return False
                time.sleep(0.5)
            command = ["offsets", "accept", gone.topic, "--partition", str(gone.partition), "--config", str(CONFIG)]
            subprocess.run(
                [sys.executable, "-m", "monitor.cli", *command],
                check=True,
                env=dict(self._environ),
                capture_output=True,
            )
            while not self._was_read(gone):
                assert time.monotonic() < give_up_s, f"{gone.topic}/{gone.partition} was accepted and does not go on"
                time.sleep(0.5)
            return True

    def _is_told(self, store: Store, gone: Gone, ports: Sequence[int]) -> bool:
        held = self._refusal(store, gone)
        if held is None or not any("expired unread" in fault for port in ports for fault in faults_of(port)):
            return False
        page = notice_of(held).page
        return any(delivery.alert_id == page for delivery in store.deliveries(limit=1_000_000))

    def _refusal(self, store: Store, gone: Gone) -> StoredAnchor | None:
        return next(
            (
                anchor
                for anchor in store.anchors(group=self._group, topic=gone.topic)
                if anchor.partition == gone.partition and anchor.refused_reason == "messages_expired"
            ),
            None,
        )

    def _was_read(self, gone: Gone) -> bool:
        place = TopicPartition(gone.topic, gone.partition)
        with closing(KafkaAdminClient(**self._config.client())) as admin:
            return self._committed(admin, [place]).get(place, 0) >= gone.cut

    def _committed(self, admin: KafkaAdminClient, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        told = admin.list_group_offsets({self._group: list(places)})[self._group]
        return {place: found.offset for place, found in told.items() if found.offset >= 0}

    def _read(self, place: TopicPartition, start: int, end: int) -> list[bytes]:
        with closing(kafka.KafkaConsumer(**self._config.client())) as consumer:
            consumer.assign([place])
            consumer.seek(place, start)
            values: list[bytes] = []
            while consumer.position(place) < end:
                for record in consumer.poll(timeout_ms=1_000).get(place, ()):
                    if record.offset < end:
                        values.append(record.value)
                    else:
                        return values
            return values


def faults_of(port: int) -> list[str]:
    """What /readyz has against a role; nothing when it does not answer."""
    url = f"http://127.0.0.1:{port}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return list(json.loads(answer.read())["faults"])
    except urllib.error.HTTPError as err:
        with err, suppress(ValueError):
            return list(json.loads(err.read())["faults"])
    except OSError:
        pass
    return []
