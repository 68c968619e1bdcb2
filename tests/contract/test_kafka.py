"""One contract, two brokers: the embedded one and a real Apache Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import kafka
import pytest
from kafka.admin import KafkaAdminClient
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import MemberState, TopicPartition

from monitor.app import KafkaResults
from monitor.broker import free_port
from monitor.cli import CONFIGS
from monitor.clock import ManualClock
from monitor.errors import Fatal, Retryable
from monitor.intake.anchors import Hold, HoldReason
from monitor.intake.kafka import KafkaConfig, KafkaSink, KafkaSource, Partition, RawMessage, ensure_topics, partition_of
from monitor.intake.membership import MembershipPolicy
from monitor.intake.progress import GroupProgress
from monitor.records import Document, LinkedEntity
from monitor.settings import Settings, load_settings
from monitor.store import Store
from tests.builders import judged
from tests.kafka_broker import ApacheKafka

BROKERS = ["embedded_broker", pytest.param("apache_kafka", marks=pytest.mark.kafka)]


@pytest.fixture(params=BROKERS)
def config(request: pytest.FixtureRequest) -> KafkaConfig:
    broker = request.getfixturevalue(request.param)
    return KafkaConfig(bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=6_000, look_again_s=0.5)


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
    source: KafkaSource, enough: Callable[[list[RawMessage]], bool], polls_max: int = 300, timeout_ms: int = 100
) -> list[RawMessage]:
    seen: list[RawMessage] = []
    for _ in range(polls_max):
        seen += source.poll(100, timeout_ms)
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


def read_until_held(source: KafkaSource, *, partitions: int = 1, polls_max: int = 300) -> dict[Partition, Hold]:
    for _ in range(polls_max):
        source.poll(100, 100)
        if len(source.held()) >= partitions:
            return source.held()
    pytest.fail(f"only {source.held()} held after {polls_max} polls")


def test_a_position_that_the_topic_does_not_hold_is_refused(config: KafkaConfig, topic: str) -> None:
    """Beyond the end: refused, never reset, and no other process is bothered by it."""
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", positions=lambda _topic, p: 99 if p else None)
    held = read_until_held(source)
    assert list(held) == [(topic, 1)]
    assert held[topic, 1].reason is HoldReason.BEYOND_THE_END
    assert "next offset is 99, but the topic ends at 0" in held[topic, 1].detail
    produce(config, topic, 20)
    seen = read_until(source, lambda seen: len(seen) >= 5)
    source.close()
    assert {m.place.partition for m in seen} == {0}, "the other partition goes on"


def admin(config: KafkaConfig) -> KafkaAdminClient:
    return KafkaAdminClient(**config.client())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{tmp_path / 'anchors.db'}")) as opened:
        yield opened


def anchored(config: KafkaConfig, topic: str, store: Store) -> KafkaSource:
    return KafkaSource(config, topics=[topic], group=f"g-{topic}", anchors=store)


def remade(config: KafkaConfig, topic: str) -> None:
    with closing(admin(config)) as client:
        client.delete_topics([topic])
        for _ in range(100):
            if topic not in client.list_topics():
                break
            time.sleep(0.1)
    ensure_topics(config, {topic: 2}, create=True)


def test_a_topic_that_was_made_anew_is_refused_until_it_is_accepted(
    config: KafkaConfig, topic: str, store: Store
) -> None:
    """Not even the broker knows the old offsets then: the id that the database keeps is what tells the two apart."""
    produce(config, topic, 10)
    first = anchored(config, topic, store)
    seen = read_until(first, lambda seen: len(seen) >= 10)
    first.commit({(topic, p): 1 + max(m.place.offset for m in seen if m.place.partition == p) for p in (0, 1)})
    first.close()
    remade(config, topic)
    produce(config, topic, 30)
    second = anchored(config, topic, store)
    held = read_until_held(second, partitions=2)
    assert {hold.reason for hold in held.values()} == {HoldReason.TOPIC_RECREATED}
    assert f"tapewatch offsets accept {topic}" in held[topic, 0].detail
    assert [a.refused_reason for a in store.anchors(topic=topic)] == ["topic_recreated"] * 2
    with closing(admin(config)) as client:
        told = client.describe_topics([topic])[0]["topic_id"]
    for partition in (0, 1):
        store.accept_start(f"g-{topic}", topic, partition, topic_id=told, start=0, now_ms=1)
    seen = read_until(second, lambda seen: len(seen) >= 30)
    second.close()
    assert len({str(m.place) for m in seen}) == 30, "all of the new one, from its start"
    assert [(a.refused_reason, a.accepted_next) for a in store.anchors(topic=topic)] == [(None, None)] * 2


def test_a_topic_that_is_made_anew_while_it_is_read_is_refused(config: KafkaConfig, topic: str, store: Store) -> None:
    told: list[int] = []
    source = KafkaSource(
        replace(config, metadata_max_age_ms=500),
        topics=[topic],
        group=f"g-{topic}",
        anchors=store,
        on_held=lambda held: told.append(len(held)),
    )
    produce(config, topic, 10)
    read_until(source, lambda seen: len(seen) >= 10)
    remade(config, topic)
    produce(config, topic, 40)  # more than the old one held: no offset would look wrong
    held = read_until_held(source, partitions=2)
    source.close()
    assert {hold.reason for hold in held.values()} == {HoldReason.TOPIC_RECREATED}
    assert told[-1] == 2


@pytest.mark.kafka
def test_messages_that_expired_unread_are_told_and_accepted(apache_kafka: ApacheKafka, store: Store) -> None:
    """Retention went over a stopped consumer: how many messages are gone is said, and nothing is skipped quietly."""
    config = KafkaConfig(bootstrap_servers=apache_kafka.bootstrap_servers, session_timeout_ms=6_000)
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(config, {topic: 1}, create=True)
    produce(config, topic, 10)
    first = anchored(config, topic, store)
    read_until(first, lambda seen: len(seen) >= 10)
    first.commit({(topic, 0): 4})
    first.close()
    with closing(admin(config)) as client:
        client.delete_records({TopicPartition(topic, 0): 7})
    second = anchored(config, topic, store)
    held = read_until_held(second)
    assert held[topic, 0].reason is HoldReason.MESSAGES_EXPIRED
    assert "3 messages expired unread" in held[topic, 0].detail
    topic_id = store.anchors(topic=topic)[0].topic_id
    store.accept_start(f"g-{topic}", topic, 0, topic_id=topic_id, start=7, now_ms=1)
    seen = read_until(second, lambda seen: len(seen) >= 3)
    second.close()
    assert [m.place.offset for m in seen] == [7, 8, 9]


@pytest.mark.kafka
def test_a_partition_that_is_added_is_read_from_its_first_message(apache_kafka: ApacheKafka, store: Store) -> None:
    """Although a new group starts at the end: what came before we noticed the partition was never ours to skip.

    Polls so short that the client can't finish to rejoin within one: it must go on with the next.
    """
    config = KafkaConfig(
        bootstrap_servers=apache_kafka.bootstrap_servers,
        session_timeout_ms=6_000,
        first_offset="latest",
        metadata_max_age_ms=2_000,
    )
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(config, {topic: 1}, create=True)
    produce(config, topic, 5)
    source = anchored(config, topic, store)
    for _ in range(100):
        assert source.poll(100, 100) == [], "what was there before the group is not read"
        if source.assignment():
            break
    with closing(admin(config)) as client:
        client.create_partitions({topic: 3})
    produce(config, topic, 60)
    seen = read_until(source, lambda seen: len(seen) >= 60, polls_max=10_000, timeout_ms=2)
    source.close()
    assert sorted(int(m.value or b"") for m in seen) == list(range(60))
    assert {m.place.partition for m in seen} == {0, 1, 2}


def mentions_of(settings: Settings, config: KafkaConfig, entities: Sequence[str]) -> None:
    """Published as `score` does."""
    sink = KafkaSink(config)
    results = KafkaResults(sink, settings)
    document = Document(id="1", source="s", channel="news", published_at_ms=1, title="X falls")
    for entity in entities:
        mention = judged(document, LinkedEntity(entity=entity, spans=(), cue="symbol"), 1)
        results.send_mention(mention, origin="news/0/0")
    results.flush()
    results.close()


@pytest.mark.kafka
def test_an_entity_stays_in_its_partition_when_partitions_are_added(apache_kafka: ApacheKafka) -> None:
    """Its history lies there: in another it would begin anew. What is added to the mentions stays empty."""
    config = KafkaConfig(bootstrap_servers=apache_kafka.bootstrap_servers, session_timeout_ms=6_000)
    topic = f"t-{uuid.uuid4().hex[:8]}"
    environ = {"TAPEWATCH_KAFKA__TOPIC_MENTIONS": topic, "TAPEWATCH_KAFKA__PARTITIONS": "2"}
    settings = load_settings(CONFIGS / "default.toml", environ)
    ensure_topics(config, {topic: 2}, create=True, spread=(topic,))
    entities = [f"E{number}" for number in range(40)]
    mentions_of(settings, config, entities)
    with closing(admin(config)) as client:
        client.create_partitions({topic: 5})
        for _ in range(100):
            if len(client.describe_topics([topic])[0]["partitions"]) == 5:
                break
            time.sleep(0.1)
    mentions_of(settings, config, entities)
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    seen = read_until(source, lambda seen: len(seen) >= 80)
    source.close()
    places = {(m.key, m.place.partition) for m in seen}
    assert len(places) == 40, "each entity in one partition"
    assert places == {(entity.encode(), partition_of(entity, 2)) for entity in entities}, (
        "where the backtest has it too"
    )


def test_a_topic_with_too_few_partitions_for_its_entities_is_refused(config: KafkaConfig, topic: str) -> None:
    ensure_topics(config, {topic: 2}, create=True, spread=(topic,))
    with pytest.raises(Fatal, match=rf"kafka.partitions = 3, but topic {topic} has 2: add partitions"):
        ensure_topics(config, {topic: 3}, create=True, spread=(topic,))


class Away:
    """Anchors in a database that does not answer for a while."""

    def __init__(self, store: Store, failures: int) -> None:
        self._store, self.failures = store, failures

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def anchor(self, group: str, topic: str, partition: int) -> object:
        if self.failures:
            self.failures -= 1
            raise Retryable("database: away")
        return self._store.anchor(group, topic, partition)


def test_while_the_database_is_away_no_partition_is_begun(config: KafkaConfig, topic: str, store: Store) -> None:
    """It can't be told whether the topic is the one we read before: held, told, and begun when it can."""
    produce(config, topic, 10)
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", anchors=Away(store, 3))  # type: ignore[arg-type]
    held = read_until_held(source, partitions=2)
    assert {hold.reason for hold in held.values()} == {HoldReason.IDENTITY_UNKNOWN}
    seen = read_until(source, lambda seen: len(seen) >= 10)
    source.close()
    assert source.held() == {}
    assert len(seen) == 10


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
    quick = replace(config, membership=MembershipPolicy(coordinator_max_s=1.0))
    source = KafkaSource(quick, topics=[topic], group=f"g-{topic}")
    source._consumer._coordinator._find_coordinator_future = Future()
    seen = read_until(source, lambda seen: len(seen) >= 10)
    source.close()
    assert sorted(int(m.value or b"") for m in seen) == list(range(10))


def test_a_join_that_never_ends_is_begun_anew(config: KafkaConfig, topic: str) -> None:
    """The client waits for an answer that was lost. What it was given before that is given up, and read again."""
    produce(config, topic, 10)
    quick = replace(config, membership=MembershipPolicy(joining_max_s=6.0))
    faults: list[str | None] = []
    source = KafkaSource(quick, topics=[topic], group=f"g-{topic}", on_standing=faults.append)
    read_until(source, lambda seen: len(seen) >= 10)
    first, coordinator = source._consumer, source._consumer._coordinator
    coordinator.request_rejoin()
    coordinator._join_task = Future()
    coordinator.state = MemberState.REBALANCING
    lost: list[Partition] = []
    read_until(source, lambda seen: bool(lost.extend(source.lost())) or len(seen) >= 10, polls_max=600)
    assert source._consumer is not first
    assert sorted(lost) == [(topic, 0), (topic, 1)]
    source.close()
    assert faults[0] is not None
    assert faults[-1] is None


def test_a_join_that_ends_between_two_polls_counts(config: KafkaConfig, topic: str) -> None:
    """Polls too short to see it end, and work between them: nobody joins again and again, and makes the others do so."""
    members: list[KafkaSource] = []
    for wanted in ([2], [1, 1]):
        members.append(KafkaSource(config, topics=[topic], group=f"g-{topic}"))
        for _ in range(600):
            for member in members:
                member.poll(100, 0)
            time.sleep(0.1)
            if [len(member.assignment()) for member in members] == wanted:
                break
        else:
            pytest.fail(f"assignments are {[member.assignment() for member in members]}")
    rounds = [member._consumer._coordinator._generation.generation_id for member in members]
    for member in members:
        member.close()
    assert max(rounds) <= 5, "one to join, three to move a partition, and one that nobody asked for"


@pytest.mark.parametrize("goodbye_max_s", [8.0, 0.0])
def test_one_that_leaves_while_it_joins_leaves_nothing_behind(
    config: KafkaConfig, topic: str, goodbye_max_s: float
) -> None:
    """As a reload does that comes too early. Whether its join ends in time or not: whoever comes next gets everything."""
    hasty = KafkaSource(replace(config, goodbye_max_s=goodbye_max_s), topics=[topic], group=f"g-{topic}")
    for _ in range(2_000):
        hasty.poll(100, 1)
        if hasty._consumer._coordinator.state is MemberState.REBALANCING:
            break
    assert hasty.assignment() == []
    hasty.close()
    produce(config, topic, 10)
    faults: list[str | None] = []
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}", on_standing=faults.append)
    seen = read_until(source, lambda seen: len(seen) >= 10)
    source.close()
    assert len(seen) == 10
    assert faults[0] == f"no partitions: group g-{topic} is still being joined"
    assert faults[-1] is None


def test_a_surplus_member_is_told_apart_and_takes_over(config: KafkaConfig, topic: str) -> None:
    """Two partitions, three members: the third owns nothing, and that is right; it gets its share when one leaves."""
    faults: list[str | None] = []
    group = f"g-{topic}"
    first, second = (KafkaSource(config, topics=[topic], group=group) for _ in range(2))
    owned([first, second], lambda sizes: sizes == [1, 1], polls_max=3_000)
    third = KafkaSource(config, topics=[topic], group=group, on_standing=faults.append)
    owned([first, second, third], lambda sizes: sizes == [1, 1, 0] and faults[-1] is None, polls_max=3_000)
    assert faults[0] is not None
    second.close()
    owned([first, third], lambda sizes: sizes == [1, 1], polls_max=3_000)
    for source in (first, third):
        source.close()


def test_partitions_that_nobody_got_are_asked_for(
    config: KafkaConfig, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the leader forgot them for: without another round nobody would ever read them."""
    assign = CooperativeStickyAssignor.assign
    faults: list[str | None] = []

    def noticed() -> bool:
        return any("gave this member none" in fault for fault in faults if fault)

    def forgetful(assignor: CooperativeStickyAssignor, cluster: object, members: Sequence[object]) -> dict[str, object]:
        given: dict[str, object] = assign(assignor, cluster, members)
        nothing = ConsumerProtocolAssignment(1, [], b"")
        return given if noticed() else dict.fromkeys(given, nothing)  # however many rounds the broker makes of one join

    monkeypatch.setattr(CooperativeStickyAssignor, "assign", forgetful)
    produce(config, topic, 10)
    quick = replace(config, membership=MembershipPolicy(look_empty_s=0.5, unowned_max_s=1.0))
    source = KafkaSource(quick, topics=[topic], group=f"g-{topic}", on_standing=faults.append)
    seen = read_until(source, lambda seen: len(seen) >= 10)
    source.close()
    assert len(seen) == 10
    assert noticed()


@pytest.mark.kafka
def test_one_that_does_not_lead_can_ask_for_a_round(apache_kafka: ApacheKafka) -> None:
    """Kafka gives a follower that asks again in the same words the old answer: partitions that its leader forgot would
    belong to nobody until somebody comes or goes."""
    config = KafkaConfig(bootstrap_servers=apache_kafka.bootstrap_servers, session_timeout_ms=6_000)
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(config, {topic: 2}, create=True)
    members = [KafkaSource(config, topics=[topic], group=f"g-{topic}") for _ in range(2)]
    owned(members, lambda sizes: sizes == [1, 1], polls_max=3_000)
    (follower,) = [one for one in members if not one._consumer._coordinator._is_leader]
    before = follower._consumer._coordinator._generation.generation_id
    follower._ask_for_a_round()
    for _ in range(600):
        for member in members:
            member.poll(100, 20)
        if all(one._consumer._coordinator._generation.generation_id > before for one in members):
            break
    else:
        pytest.fail("nobody made another round")
    owned(members, lambda sizes: sizes == [1, 1])
    assert [member.lost() for member in members if member is follower] == [[]]
    for member in members:
        member.close()


def test_only_what_is_really_ours_is_claimed(config: KafkaConfig, topic: str) -> None:
    """A member that was thrown out goes on claiming what it had: the leader would keep that for it, and it for nobody."""
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    owned([source], lambda sizes: sizes == [2])
    coordinator = source._consumer._coordinator
    ((_, told),) = coordinator.group_protocols()
    assert [list(one.partitions) for one in told.owned_partitions] == [[0, 1]]
    source._consumer._subscription.assign_from_subscribed([])  # as the client does when it was thrown out
    ((_, told),) = coordinator.group_protocols()
    source.close()
    assert told.owned_partitions == []


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


def test_how_far_a_group_is_told_in_wall_time(config: KafkaConfig, topic: str) -> None:
    """A message is worked off when an offset behind it is committed; a busy partition counts as far as it had come."""
    clock = ManualClock(1_000)
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    progress = GroupProgress(config, group=f"g-{topic}", topics=[topic], clock=clock, every_s=1.0)

    def asked_at(now_ms: int) -> dict[str, int]:
        clock.advance((now_ms - clock.now_ms()) / 1000)
        return dict(progress().settled)

    assert asked_at(2_000) == {f"{topic}/0": 2_000, f"{topic}/1": 2_000}, "nothing was ever sent"
    sink = KafkaSink(config)

    def send(count: int) -> None:
        for number in range(count):
            sink.send(topic, key=b"k%d" % number, value=b"v")
            sink.flush()

    send(20)
    assert asked_at(4_000) == {f"{topic}/0": 2_000, f"{topic}/1": 2_000}, "twenty wait"
    seen = read_until(source, lambda seen: len(seen) >= 20)
    ends = {(topic, p): 1 + max(m.place.offset for m in seen if m.place.partition == p) for p in (0, 1)}
    source.commit({(topic, 0): ends[topic, 0], (topic, 1): 1})
    assert asked_at(6_000) == {f"{topic}/0": 6_000, f"{topic}/1": 2_000}
    send(20)
    source.commit(ends)
    assert asked_at(8_000) == {f"{topic}/0": 6_000, f"{topic}/1": 4_000}, "/1 has what was there at 4_000"
    assert asked_at(8_500) == {f"{topic}/0": 6_000, f"{topic}/1": 4_000}, "not asked again so soon"
    for each in (sink, source, progress):
        each.close()


def test_a_broker_that_is_away_lets_nobody_get_further() -> None:
    config = KafkaConfig(
        bootstrap_servers=f"127.0.0.1:{free_port()}", request_timeout_ms=1_000, bootstrap_timeout_ms=1_000
    )
    progress = GroupProgress(config, group="g", topics=["t"], clock=ManualClock(1_000))
    assert progress().settled == {}
    assert progress().since_ms == 1_000


def owned(sources: Sequence[KafkaSource], enough: Callable[[list[int]], bool], polls_max: int = 600) -> None:
    """Poll all of them in turn until the sizes of their assignments are as wanted."""
    for _ in range(polls_max):
        for source in sources:
            source.poll(100, 20)
        if enough([len(source.assignment()) for source in sources]):
            return
    pytest.fail(f"assignments are {[source.assignment() for source in sources]}")


def test_a_second_process_takes_its_share_and_nothing_else(config: KafkaConfig, topic: str) -> None:
    """Cooperative: partitions move one by one, and those that stay are never taken away."""
    first = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    owned([first], lambda sizes: sizes == [2])
    second = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    owned([first, second], lambda sizes: sizes == [1, 1], polls_max=3_000)
    assert len(first.lost()) == 1, "the other one was never taken away"
    for source in (first, second):
        source.close()


@pytest.mark.kafka
def test_a_static_member_that_comes_back_keeps_its_own(apache_kafka: ApacheKafka) -> None:
    """One that dies and comes back within its session disturbs nobody. (The embedded broker knows no static members.)"""
    config = KafkaConfig(bootstrap_servers=apache_kafka.bootstrap_servers, session_timeout_ms=20_000)
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(config, {topic: 2}, create=True)

    def member(name: str) -> KafkaSource:
        return KafkaSource(replace(config, static_member=f"{topic}-{name}"), topics=[topic], group=f"g-{topic}")

    first = member("a")
    owned([first], lambda sizes: sizes == [2])
    second = member("b")
    owned([first, second], lambda sizes: sizes == [1, 1])
    assert len(first.lost()) == 1
    kept, theirs = first.assignment(), second.assignment()
    second.close()  # as a crash: a static member does not say goodbye
    again = member("b")
    owned([first, again], lambda sizes: sizes == [1, 1])
    assert (first.lost(), first.assignment()) == ([], kept)
    assert again.assignment() == theirs
    for source in (first, again):
        source.close()


@pytest.mark.kafka
def test_a_member_whose_name_another_process_took_stops(apache_kafka: ApacheKafka) -> None:
    """It was stopped past its session and replaced: it must not read on as if nothing had been."""
    config = KafkaConfig(
        bootstrap_servers=apache_kafka.bootstrap_servers, session_timeout_ms=6_000, static_member="only"
    )
    topic = f"t-{uuid.uuid4().hex[:8]}"
    ensure_topics(config, {topic: 1}, create=True)
    zombie = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    owned([zombie], lambda sizes: sizes == [1])
    replacement = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    owned([replacement], lambda sizes: sizes == [1])
    with pytest.raises(Fatal, match=r"kafka.static_member only: another process"):
        for _ in range(300):
            zombie.poll(100, 50)
    for source in (replacement, zombie):
        source.close()


def test_a_sink_that_was_not_answered_begins_anew(
    config: KafkaConfig, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent since the last answer must be sent again; a producer that does not answer is not asked twice."""
    sink = KafkaSink(config)
    sink.send(topic, key=b"k", value=b"0")
    sink.flush()
    answers = kafka.KafkaProducer.flush
    silent = iter([KafkaTimeoutError("nobody answers")])

    def flush(producer: kafka.KafkaProducer, timeout: float | None = None) -> None:
        for error in silent:
            raise error
        answers(producer, timeout)

    monkeypatch.setattr(kafka.KafkaProducer, "flush", flush)
    sink.send(topic, key=b"k", value=b"1")
    with pytest.raises(Retryable, match="nobody answers"):
        sink.flush()
    sink.flush()  # nothing was sent since
    sink.send(topic, key=b"k", value=b"1")
    sink.flush()
    sink.close()
    source = KafkaSource(config, topics=[topic], group=f"g-{topic}")
    seen = read_until(source, lambda seen: {m.value for m in seen} >= {b"0", b"1"})
    source.close()
    assert seen[0].value == b"0"
