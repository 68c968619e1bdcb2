"""`tapewatch offsets`: which topics the roles' offsets belong to, what is refused, and the operator's word to go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Literal

import kafka
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.structs import TopicPartition

from monitor.app import group_of, kafka_config
from monitor.clock import Clock
from monitor.errors import Fatal, Retryable
from monitor.loops.holds import notice_of
from monitor.records import Alert, Record
from monitor.settings import Settings
from monitor.store import Store, StoredAnchor

From = Literal["earliest", "latest"]


class Told(Record, frozen=True, kw_only=True):
    """A receiver by its name: who heard of the refusal hears that it ended, whatever it wants to hear of otherwise."""

    name: str

    def wants(self, _alert: Alert, /) -> bool:
        return False

    def hears(self, _topic: str, _severity: str, /) -> bool:
        return False


class Accepted(Record, frozen=True, kw_only=True):
    """One partition that goes on, where, and how many messages lie before it that nobody will read."""

    group: str
    topic: str
    partition: int
    next: int
    topic_id: str


def listed(settings: Settings, store: Store) -> list[StoredAnchor]:
    """Every partition that a role of this configuration has read; those that are refused come first."""
    groups = {group_of(settings, role) for role in ("score", "watch")}
    found = [anchor for anchor in store.anchors() if anchor.consumer_group in groups]
    return sorted(found, key=lambda anchor: anchor.refused_reason is None)


def accept(
    settings: Settings,
    store: Store,
    topic: str,
    *,
    partition: int | None,
    start: From,
    clock: Clock,
) -> list[Accepted]:
    """Go on with every refused partition of `topic` (or with the one named). Raises Fatal when none is refused."""
    refused = [
        anchor
        for anchor in listed(settings, store)
        if anchor.topic == topic and anchor.refused_reason and partition in (None, anchor.partition)
    ]
    if not refused:
        which = topic if partition is None else f"{topic}/{partition}"
        raise Fatal(f"offsets accept: nothing of {which} is refused; `tapewatch offsets list` shows what is")
    told = [Told(name=receiver.name) for receiver in settings.receivers]
    ids, starts = _ask(settings, topic, sorted({anchor.partition for anchor in refused}), start)
    accepted = []
    for anchor in refused:
        store.accept_start(
            anchor.consumer_group,
            topic,
            anchor.partition,
            topic_id=ids,
            start=starts[anchor.partition],
            now_ms=clock.now_ms(),
        )
        with store.transaction() as transaction:
            notice = notice_of(anchor, accepted_next=starts[anchor.partition], at_ms=clock.now_ms())
            transaction.tell([notice], told, now_ms=clock.now_ms(), topic="operator")
        accepted.append(
            Accepted(
                group=anchor.consumer_group,
                topic=topic,
                partition=anchor.partition,
                next=starts[anchor.partition],
                topic_id=ids,
            )
        )
    return accepted


def _ask(settings: Settings, topic: str, partitions: Sequence[int], start: From) -> tuple[str, dict[int, int]]:
    """The topic's id and where each partition starts or ends, from the broker."""
    config = kafka_config(settings, role="offsets")
    try:
        with closing(KafkaAdminClient(**config.client())) as admin:
            (told,) = admin.describe_topics([topic])
        if told["error_code"]:
            raise Fatal(f"offsets accept: the broker has no topic {topic}")
        missing = sorted(set(partitions) - {each["partition_index"] for each in told["partitions"]})
        if missing:
            raise Fatal(f"offsets accept: {topic} has no partition {', '.join(map(str, missing))} any more")
        with closing(kafka.KafkaConsumer(**config.client())) as consumer:
            places = [TopicPartition(topic, partition) for partition in partitions]
            found = consumer.beginning_offsets(places) if start == "earliest" else consumer.end_offsets(places)
    except KafkaError as err:
        raise Retryable(f"kafka {config.bootstrap_servers}: {type(err).__name__}: {err}") from err
    return str(told["topic_id"]), {place.partition: int(offset) for place, offset in found.items()}
