"""One contract, two brokers: the embedded one and a real Apache Kafka."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

import kafka
import pytest
from kafka.future import Future
from kafka.structs import TopicPartition

from monitor.broker import free_port
from monitor.errors import Fatal, Retryable
from monitor.intake.kafka import KafkaConfig, KafkaSink, KafkaSource, RawMessage, TopicTruncated, ensure_topics
from tests.kafka_broker import ApacheKafka

BROKERS = ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.kafka)]


@pytest.fixture(params=BROKERS)
def config(request: pytest.FixtureRequest) -> KafkaConfig:
    broker = request.getfixturevalue(request.param)
    return KafkaConfig(bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=6_000)


@pytest.fixture
def topic(config: KafkaConfig) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(config, {name: 2}, create=True)
    return name


def produce(config: KafkaConfig, topic: str, count: int) -> None:
    sink = KafkaSink(config)
    for number in range(count):
        sink.send(topic, key=b"k%d" % number, value=b"%d" % number, headers=[("n", b"%d" % number)])
    sink.flush()
    sink.close()


def read_until(
    source: KafkaSource, enough: Callable[[list[RawMessage]], bool], polls_max: int = 300
) -> list[RawMessage]:
    seen: list[RawMessage] = []
    for _ in range(polls_max):
        seen += source.poll(100, 100)
        if enough(seen):
            return seen
    pytest.fail(f"only {len(seen)} messages after {polls_max} polls")


def test_what_is_acknowledged_is_read_with_its_key_headers_and_place(config: KafkaConfig, topic: str) -> None:
    produce(config, topic, 20)
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    seen = read_until(source, lambda seen: len(seen) >= 20)
    source.close()
    assert sorted(int(m.value or b"") for m in seen) == list(range(20))
    assert all(m.headers == (("n", m.value),) for m in seen)
    assert len({str(m.place) for m in seen}) == 20


def test_a_group_goes_on_where_it_committed(config: KafkaConfig, topic: str) -> None:
    produce(config, topic, 10)
    first = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    seen = read_until(first, lambda seen: len(seen) >= 10)
    ends = {
        (topic, p): max(m.place.offset for m in seen if m.place.partition == p) + 1
        for p in {m.place.partition for m in seen}
    }
    first.commit(ends)
    first.close()
    produce(config, topic, 3)
    second = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    again = read_until(second, lambda seen: len(seen) >= 3)
    second.close()
    assert len(again) == 3


def test_a_stored_position_wins_over_the_group(config: KafkaConfig, topic: str) -> None:
    produce(config, topic, 10)
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", positions=lambda _topic, _partition: 1)
    seen = read_until(source, lambda seen: len(seen) >= 8)
    source.close()
    assert min(m.place.offset for m in seen) == 1
    assert len(seen) == 8


def test_a_position_that_the_topic_does_not_hold_is_refused(config: KafkaConfig, topic: str) -> None:
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", positions=lambda _topic, _partition: 99)
    with pytest.raises(TopicTruncated, match=r"next offset is 99"):
        read_until(source, lambda _seen: False)
    source.close()


def test_a_missing_topic_is_named(config: KafkaConfig) -> None:
    with pytest.raises(Fatal, match="no-such-topic"):
        ensure_topics(config, {"no-such-topic": 1}, create=False)


def test_no_broker_is_retryable_and_names_the_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Retryable, match=address):
        KafkaSink(KafkaConfig(bootstrap_servers=address, request_timeout_ms=1_000, bootstrap_timeout_ms=1_000))


@pytest.mark.kafka
def test_what_was_acknowledged_survives_a_killed_broker(tmp_path_factory: pytest.TempPathFactory) -> None:
    broker = ApacheKafka(tmp_path_factory.mktemp("killed")).start()
    config = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=6_000)
    ensure_topics(config, {"t": 1}, create=True)
    produce(config, "t", 50)
    broker.kill()
    broker.start()
    source = KafkaSource(config, topics=["t"], group="g")
    seen = read_until(source, lambda seen: len(seen) >= 50)
    source.close()
    broker.kill()
    assert [int(m.value or b"") for m in seen] == list(range(50))


def test_partitions_are_read_as_one_in_the_order_of_time(config: KafkaConfig, topic: str) -> None:
    """Two partitions, each with a long run of its own: read oldest first, not one after the other."""
    sink = KafkaSink(config)
    for number in range(12_000):  # more than is held, so that partitions are paused and go on
        sink.send(topic, key=b"k%d" % number, value=b"%d" % number, event_ms=1_000 + number)
    sink.flush()
    sink.close()
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", merged=True)
    seen = read_until(source, lambda seen: len(seen) >= 12_000)
    source.close()
    assert {m.place.partition for m in seen} == {0, 1}
    assert [m.timestamp_ms for m in seen] == sorted(m.timestamp_ms for m in seen)


def test_a_restarted_partition_is_read_again_from_its_stored_position(config: KafkaConfig, topic: str) -> None:
    produce(config, topic, 10)
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", positions=lambda _topic, _partition: 0)
    first = read_until(source, lambda seen: len(seen) >= 10)
    source.restart([(topic, 0), (topic, 1)])
    again = read_until(source, lambda seen: len(seen) >= 10)
    source.close()
    assert sorted(str(m.place) for m in again) == sorted(str(m.place) for m in first)


def test_an_old_event_is_no_old_record(config: KafkaConfig, topic: str) -> None:
    """Brokers expire by a record's timestamp: a stream of 2008 must be there when somebody comes to read it."""
    sink = KafkaSink(config)
    sink.send(topic, key=b"k", value=b"v", event_ms=1_220_000_000_000)
    sink.flush()
    sink.close()
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    (message,) = read_until(source, lambda seen: len(seen) >= 1)
    source.close()
    assert message.timestamp_ms == 1_220_000_000_000
    assert message.headers == ()
    consumer = kafka.KafkaConsumer(bootstrap_servers=config.bootstrap_servers)
    partition = TopicPartition(topic, message.place.partition)
    found = consumer.offsets_for_times({partition: 1_600_000_000_000})[partition]
    consumer.close()
    assert found is not None, "the record's own timestamp is of today"


def test_a_coordinator_that_is_never_found_is_asked_for_anew(config: KafkaConfig, topic: str) -> None:
    """The client's question for it was lost: without a second consumer it would wait for ever and say nothing."""
    produce(config, topic, 10)
    source = KafkaSource(replace(config, coordinator_max_s=1.0), topics=[topic], group=f"g-{topic}")
    source._consumer._coordinator._find_coordinator_future = Future()
    seen = read_until(source, lambda seen: len(seen) >= 10)
    source.close()
    assert sorted(int(m.value or b"") for m in seen) == list(range(10))


def test_a_partition_that_went_and_came_back_is_held_until_its_loss_was_told(config: KafkaConfig, topic: str) -> None:
    """What was read of it before that would be dropped as lost, and never be read again."""
    produce(config, topic, 10)
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", positions=lambda _topic, _partition: 0)
    read_until(source, lambda seen: len(seen) >= 10)
    partitions = [TopicPartition(topic, number) for number in (0, 1)]
    source._listener.on_partitions_revoked(partitions)
    source._listener.on_partitions_assigned(partitions)
    assert source.poll(100, 100) == []
    assert sorted(source.lost()) == [(topic, 0), (topic, 1)]
    again = read_until(source, lambda seen: len(seen) >= 10)
    source.close()
    assert len(again) == 10
