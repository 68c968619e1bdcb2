"""The score loop loses nothing: an offset is committed when its results are acknowledged, never before."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from monitor.clock import ManualClock
from monitor.errors import NotNow, Rejectable, Retryable
from monitor.loops.offsets import OffsetTracker
from monitor.loops.score import ScoreLoop, ScorePolicy
from monitor.records import DeadLetter, Document, LinkedEntity, Place, ScoredMention, mention_id


def place(offset: int, partition: int = 0) -> Place:
    return Place(topic="news", partition=partition, offset=offset)


@dataclass
class Raw:
    place: Place
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class FakeSource:
    messages: list[Raw]
    taken: list[tuple[str, int]] = field(default_factory=list)
    commits: list[dict[tuple[str, int], int]] = field(default_factory=list)
    paused: bool = False
    log: list[Raw] = field(default_factory=list)
    restarts: list[list[tuple[str, int]]] = field(default_factory=list)
    dealing: bool = False

    def poll(self, messages_max: int, timeout_ms: int) -> Sequence[Raw]:
        if self.paused:
            return []
        self.log += [m for m in self.messages if m not in self.log]
        batch, self.messages = self.messages[:messages_max], self.messages[messages_max:]
        return batch

    def lost(self) -> Sequence[tuple[str, int]]:
        taken, self.taken = self.taken, []
        return taken

    def assignment(self) -> Sequence[tuple[str, int]]:
        return [("news", 0)]

    def restart(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Like the broker: what was not committed comes again."""
        self.restarts.append(list(partitions))
        start = self.commits[-1].get(("news", 0), 0) if self.commits else 0
        self.messages = [m for m in self.log if m.place.offset >= start]

    def lag(self) -> dict[tuple[str, int], int]:
        return {("news", 0): len(self.messages)}

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def commit(self, positions: dict[tuple[str, int], int]) -> None:
        if self.dealing:
            raise NotNow("the group is dealing its partitions")
        self.commits.append(dict(positions))


@dataclass
class FakeSink:
    mentions: list[ScoredMention] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    broken: bool = False

    def send_mention(self, mention: ScoredMention, *, origin: str) -> None:
        self.mentions.append(mention)

    def send_dead_letter(self, letter: DeadLetter) -> None:
        self.letters.append(letter)

    def flush(self) -> None:
        if self.broken:
            raise Retryable("broker away")


class FakeReader:
    def read(self, message: Raw) -> tuple[Document, tuple[LinkedEntity, ...]]:
        if message.value is None:
            raise Rejectable(f"{message.place}: empty", reason="empty")
        text = message.value.decode()
        document = Document(id=text, source="s", channel="news", published_at_ms=0, title=text)
        names = [w[1:] for w in text.split() if w.startswith("$")]
        return document, tuple(LinkedEntity(entity=n, spans=(), cue="cashtag") for n in names)


class FakeJudge:
    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]:
        return [
            [
                ScoredMention(
                    id=mention_id(document.key, entity.entity),
                    entity=entity.entity,
                    document=document.key,
                    source=document.source,
                    channel="news",
                    published_at_ms=0,
                    text=document.text,
                    probabilities=(0.2, 0.5, 0.3),
                    polarity=0.1,
                    model="fake@0",
                    scored_at_ms=now_ms,
                )
                for entity in entities
            ]
            for document, entities in documents
        ]


def build(messages: list[Raw], **policy: int) -> tuple[ScoreLoop, FakeSource, FakeSink, ManualClock]:
    source, sink, clock = FakeSource(messages), FakeSink(), ManualClock()
    loop = ScoreLoop(
        source=source,
        sink=sink,
        reader=FakeReader(),
        judge=FakeJudge(),
        clock=clock,
        policy=ScorePolicy(**{"commit_ms": 0, **policy}),
    )
    return loop, source, sink, clock


def test_every_mention_is_published_before_its_offset_is_committed() -> None:
    loop, source, sink, _ = build([Raw(place(0), b"$A $B"), Raw(place(1), b"nothing"), Raw(place(2), b"$A again")])
    loop.turn()
    assert source.commits == [{("news", 0): 0}]
    loop.drain(5)
    assert [m.entity for m in sink.mentions] == ["A", "B", "A"]
    assert source.commits[-1] == {("news", 0): 3}


def test_a_message_that_cannot_be_used_is_quarantined_and_the_line_goes_on() -> None:
    loop, source, sink, _ = build([Raw(place(0), None), Raw(place(1), b"$A")])
    loop.turn()
    loop.drain(5)
    assert [(x.place.offset, x.reason) for x in sink.letters] == [(0, "empty")]
    assert [m.entity for m in sink.mentions] == ["A"]
    assert source.commits[-1] == {("news", 0): 2}


def test_nothing_is_committed_while_the_broker_does_not_acknowledge() -> None:
    loop, source, sink, _ = build([Raw(place(0), b"nothing")])
    sink.broken = True
    with pytest.raises(Retryable):
        loop.turn()
    assert source.commits == []
    assert source.restarts == [[("news", 0)]], "what was not acknowledged must be read again"
    sink.broken = False
    loop.turn()
    assert source.commits == [{("news", 0): 1}]


def test_a_commit_while_the_group_deals_is_said_again_and_nothing_is_scored_again() -> None:
    loop, source, sink, _ = build([Raw(place(0), b"$A"), Raw(place(1), b"nothing")], deadline_ms=0)
    source.dealing = True
    while not sink.mentions:
        loop.turn()
    loop.turn()
    assert (source.commits, source.restarts) == ([], [])
    source.dealing = False
    loop.turn()
    assert source.commits == [{("news", 0): 2}]
    assert len(sink.mentions) == 1


class SetBack(ManualClock):
    """Somebody sets the wall clock back by an hour; intervals go on."""

    def now_ms(self) -> int:
        return super().now_ms() - 3_600_000


def test_a_wall_clock_that_is_set_back_stops_nothing() -> None:
    loop, source, sink, clock = build([Raw(place(0), b"$A"), Raw(place(1), b"nothing")], commit_ms=500)
    loop.turn()
    clock.__class__ = SetBack
    for _ in range(5):
        clock.advance(1)
        loop.turn()
    assert [m.entity for m in sink.mentions] == ["A"]
    assert source.commits[-1] == {("news", 0): 2}


def test_a_full_queue_pauses_the_source_and_an_empty_one_resumes_it() -> None:
    messages = [Raw(place(i), b"$A") for i in range(16)]
    loop, source, _, clock = build(messages, queue_documents_max=4, batch_documents_max=2, poll_messages_max=16)
    loop.turn()
    assert source.paused
    for _ in range(10):
        clock.advance(1)
        loop.turn()
    assert not source.paused


class Stuck(FakeJudge):
    """A model that does not answer until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]:
        self.go.wait(60)
        return super().judge(documents, now_ms=now_ms)


def test_polling_goes_on_and_nothing_piles_up_however_long_the_model_takes() -> None:
    """Ten minutes at one turn a second: the group keeps us, and no more is held than the queue may hold."""
    source, sink, clock, judge = FakeSource([]), FakeSink(), ManualClock(), Stuck()
    source.messages = [Raw(place(i), b"$A %d" % i) for i in range(500)]
    policy = ScorePolicy(queue_documents_max=20, batch_documents_max=5, poll_messages_max=10, model_wait_s=0.0)
    polls = []
    loop = ScoreLoop(
        source=source,
        sink=sink,
        reader=FakeReader(),
        judge=judge,
        clock=clock,
        policy=policy,
        seen=polls.append,
    )
    held = []
    for _ in range(600):
        loop.turn()
        held.append(loop._offsets.in_flight)
        clock.advance(1)
    assert polls.count("poll") == 600
    assert max(held) == 30, "two batches with the model, a full queue of 20"
    judge.go.set()
    while len(sink.mentions) < 500:
        loop.turn()
        clock.advance(1)
    assert not source.paused


@dataclass
class Picky(FakeJudge):
    """Dies of one document, whatever batch it is in."""

    sizes: list[int] = field(default_factory=list)

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]:
        self.sizes.append(len(documents))
        if any("poison" in document.text for document, _ in documents):
            raise RuntimeError("the model choked")
        return super().judge(documents, now_ms=now_ms)


def test_a_batch_that_fails_is_halved_until_the_document_at_fault_stands_alone() -> None:
    messages = [Raw(place(i), b"$A poison" if i == 5 else b"$A %d" % i) for i in range(8)]
    source, sink = FakeSource(messages), FakeSink()
    loop = ScoreLoop(
        source=source, sink=sink, reader=FakeReader(), judge=Picky(), clock=ManualClock(), policy=ScorePolicy()
    )
    loop.turn()
    loop.drain(60)
    assert [(x.place.offset, x.reason) for x in sink.letters] == [(5, "not_scorable")]
    assert len(sink.mentions) == 7
    assert source.commits[-1] == {("news", 0): 8}


def test_work_of_a_lost_partition_is_discarded() -> None:
    loop, source, sink, _ = build([Raw(place(0), b"$A"), Raw(place(0, 1), b"$B")], deadline_ms=10_000)
    loop.turn()
    source.taken.append(("news", 0))
    loop.turn()
    loop.drain(5)
    assert [m.entity for m in sink.mentions] == ["B"]
    assert ("news", 0) not in source.commits[-1]


def test_the_lowest_offset_in_flight_holds_the_commit_back() -> None:
    tracker = OffsetTracker()
    for offset in range(3):
        tracker.received(place(offset))
    tracker.finished(place(2))
    tracker.finished(place(0))
    assert tracker.committable() == {("news", 0): 1}
    tracker.finished(place(1))
    assert tracker.committable() == {("news", 0): 3}
