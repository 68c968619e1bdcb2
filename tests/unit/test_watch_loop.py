"""The watch loop: a batch is written whole or not at all, a repeat changes nothing, a zombie writes nothing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from monitor.alerting import parse_rules
from monitor.app import CoreMaker
from monitor.clock import ManualClock
from monitor.errors import Fenced, Retryable
from monitor.loops.watch import WatchLoop, WatchLoopPolicy
from monitor.records import Place, Progress, ScoredMention, mention_id
from monitor.store import Store
from monitor.telemetry.metrics import Metrics

PARTITION = ("mentions", 0)
START_MS = 1_800_000_000_000
NOW_MS = START_MS + 86_400_000  # a day later: nothing is early
RULES = parse_rules({}, "test")


def mention(number: int) -> ScoredMention:
    """A story a minute."""
    return ScoredMention(
        id=mention_id(f"d:{number}", "AAA"),
        entity="AAA",
        document=f"d:{number}",
        source="wire",
        channel="news",
        published_at_ms=START_MS + number * 60_000,
        text=f"story w{number} x{number * 7} y{number * 11}",
        probabilities=(0.8, 0.1, 0.1),
        polarity=-0.7,
        model="words@1",
        scored_at_ms=0,
    )


@dataclass
class Raw:
    place: Place
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ((("origin"), b"news/0"),)


@dataclass
class FakeSource:
    """A partition as a log; `restart` goes back to the stored offset, as an assignment does."""

    store: Store
    log: list[Raw] = field(default_factory=list)
    position: int = 0
    restarts: int = 0
    mute: bool = False
    taken: list[tuple[str, int]] = field(default_factory=list)

    def add(self, *values: ScoredMention | bytes | None) -> None:
        for value in values:
            raw = msgspec.json.encode(value) if isinstance(value, ScoredMention) else value
            self.log.append(Raw(Place(topic=PARTITION[0], partition=0, offset=len(self.log)), raw))

    def poll(self, messages_max: int, timeout_ms: int) -> Sequence[Raw]:
        batch = self.log[self.position : self.position + messages_max]
        self.position += len(batch)
        return batch

    def lost(self) -> Sequence[tuple[str, int]]:
        taken, self.taken = self.taken, []
        return taken

    def assignment(self) -> Sequence[tuple[str, int]]:
        return [PARTITION]

    def restart(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.restarts += 1
        place = self.store.partition_state(*PARTITION)
        self.position = place.next if place else 0

    def commit(self, positions: dict[tuple[str, int], int]) -> None:
        if self.mute:
            raise Retryable("the group is dealing its partitions")

    def lag(self) -> dict[tuple[str, int], int]:
        return {PARTITION: len(self.log) - self.position}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'watch.db'}")
    yield opened
    opened.close()


def build(
    store: Store,
    upstream: Callable[[], Progress] | None = None,
    metrics: Metrics | None = None,
    unheard: Callable[[str | None], None] = lambda _what: None,
    **policy: int,
) -> tuple[WatchLoop, FakeSource, ManualClock]:
    source, clock = FakeSource(store), ManualClock(NOW_MS)
    loop = WatchLoop(
        source=source,
        store=store,
        cores=CoreMaker(rules=RULES, names={}, partitions=1),
        topic_mentions=PARTITION[0],
        clock=clock,
        policy=WatchLoopPolicy(**policy),
        upstream=upstream,
        metrics=metrics,
        unheard=unheard,
    )
    return loop, source, clock


def add(source: FakeSource, origin: str, numbers: Iterable[int]) -> None:
    """Stories that one raw partition held."""
    for number in numbers:
        source.add(mention(number))
        source.log[-1].headers = (("origin", origin.encode()),)


def answer(clock: ManualClock, settled: dict[str, int]) -> Progress:
    """Score answers at once, and all of these have spoken."""
    asked_ms = round(1000 * clock.monotonic_s())
    return Progress(settled=dict(settled), spoken=frozenset(settled), asked_ms=asked_ms)


def written(store: Store) -> tuple[int, int, float]:
    """Stored mentions, the stored offset, and the voices of all buckets."""
    place = store.partition_state(*PARTITION)
    return store.counts().mentions, place.next if place else -1, sum(b.raw_n for b in store.buckets("AAA"))


def test_mentions_buckets_and_offset_are_written_together(store: Store) -> None:
    loop, source, _ = build(store)
    source.add(*(mention(n) for n in range(10)))
    assert loop.turn() == 10
    # 10 stories, one a minute; the watermark is two minutes behind the newest: [0, 7) are folded.
    assert written(store) == (10, 10, 7)


def test_a_redelivered_mention_is_a_no_op(store: Store) -> None:
    """The same mention under a later offset, as score sends it after a crash: stored once, counted once."""
    loop, source, _ = build(store)
    source.add(*(mention(n) for n in range(10)), *(mention(n) for n in range(10)))
    loop.turn()
    assert written(store) == (10, 20, 7)
    assert loop.counts.duplicates == 10
    source.add(mention(3))
    loop.turn()
    assert written(store) == (10, 21, 7)
    assert loop.counts.duplicates == 11


@dataclass
class Breaking:
    """A store whose next transactions fail at their end, after everything was written into them."""

    store: Store
    failures: int
    error: type[Retryable] = Retryable

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    @contextmanager
    def transaction(self) -> Iterator[object]:
        with self.store.transaction() as transaction:
            yield transaction
            if self.failures:
                self.failures -= 1
                raise self.error("the database went away")


@pytest.mark.parametrize("failures", [1, 3])
def test_a_failed_transaction_is_as_if_it_had_never_been_tried(store: Store, failures: int) -> None:
    loop, source, _ = build(store, batch_mentions_max=4)
    breaking = Breaking(store, failures)
    loop._store = breaking  # type: ignore[assignment]
    source.add(*(mention(n) for n in range(10)))
    for _ in range(failures):
        with pytest.raises(Retryable):
            loop.turn()
        assert written(store) == (0, -1, 0)
    while loop.turn():
        pass
    assert source.restarts == failures
    assert written(store) == (10, 10, 7), "the same as without a failure"


def test_a_group_that_cannot_be_told_undoes_nothing(store: Store) -> None:
    """The offset that counts is in the database."""
    loop, source, _ = build(store, batch_mentions_max=4)
    source.mute = True
    source.add(*(mention(n) for n in range(10)))
    while loop.turn():
        pass
    assert source.restarts == 0
    assert written(store) == (10, 10, 7)


def test_a_zombie_is_fenced_and_goes_on_from_what_the_other_wrote(store: Store) -> None:
    """Two loops believe that the partition is theirs: the second to write is refused, whole."""
    loop, source, _ = build(store, batch_mentions_max=5)
    other, same, _ = build(store, batch_mentions_max=5)
    for each in (source, same):
        each.add(*(mention(n) for n in range(10)))
    loop.turn()
    other.turn()  # restored from offset 5 on; its first batch lies behind and is left out
    other.turn()
    assert written(store) == (10, 10, 7)
    with pytest.raises(Fenced):
        loop.turn()
    assert written(store) == (10, 10, 7)
    source.add(mention(10))
    loop.turn()
    assert written(store) == (11, 11, 8)


def test_what_lies_behind_the_stored_offset_does_not_move_it_back(store: Store) -> None:
    """A batch fetched before a seek took effect: known already, and shorter than what is stored."""
    loop, source, _ = build(store, batch_mentions_max=2)
    source.add(*(mention(n) for n in range(10)))
    while loop.turn():
        pass
    source.position = 3
    loop.turn()
    assert written(store)[:2] == (10, 10)


class Settable(ManualClock):
    """A wall clock that can be set; intervals don't notice."""

    offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wall_clock_that_is_set_makes_nothing_late_or_early(store: Store, hours: int) -> None:
    """Live, each story is heard when it is told; in the middle somebody sets the clock, and event time takes no notice."""
    loop, source, clock = build(store)
    clock._now_ms = START_MS
    clock.__class__ = Settable
    for number in range(20):
        if number == 10:
            clock.offset_ms = hours * 3_600_000  # type: ignore[attr-defined]
        source.add(mention(number))
        loop.turn()
        clock.advance(10)
        loop.turn()  # an idle tick: nothing to read for longer than `idle_tick_s`
        clock.advance(50)
    assert written(store)[:2] == (20, 20)
    assert len(store.mentions_since(0, 0)) == 20, "none is late, none is from the future"


def test_a_restart_at_any_point_gives_the_same_buckets(store: Store, tmp_path: Path) -> None:
    source_log = [mention(n) for n in range(30)]
    for step in (1, 7):
        database = Store.open(f"sqlite:///{tmp_path / f'step{step}.db'}")
        done = 0
        while done < len(source_log):
            loop, source, _ = build(database, batch_mentions_max=step)
            source.add(*source_log)
            source.restart([PARTITION])
            loop.turn()
            done = source.position
        assert written(database) == (30, 30, 27)
        database.close()


def test_bytes_that_are_no_mention_are_quarantined_and_the_line_goes_on(store: Store) -> None:
    loop, source, _ = build(store)
    source.add(mention(0), b"{broken", None, mention(5))
    loop.turn()
    assert written(store)[:2] == (2, 4)
    assert [stored.letter.reason for stored in store.dead_letters()] == ["not_a_mention", "not_a_mention"]


def test_a_lost_partition_is_forgotten_and_read_back_when_it_returns(store: Store) -> None:
    loop, source, _ = build(store)
    source.add(*(mention(n) for n in range(10)))
    loop.turn()
    source.taken = [PARTITION]
    source.add(*(mention(n) for n in range(10, 20)))
    loop.turn()
    assert written(store) == (20, 20, 17)


def test_silence_behind_a_backlog_is_no_silence(store: Store) -> None:
    """Nobody speaks in our topic, but score has not read the raw topics yet: event time stands until it has."""
    settled = {"news/0": 0, "social/0": 0}
    loop, source, clock = build(store, upstream=lambda: answer(clock, settled))
    source.add(*(mention(n) for n in range(10)))
    loop.turn()
    assert written(store) == (10, 10, 0)
    clock.advance(600)
    loop.turn()
    settled["news/0"] = clock.now_ms()
    loop.turn()
    assert written(store) == (10, 10, 0), "social/0 may still hold an older story"
    settled["social/0"] = clock.now_ms()
    clock.advance(60)
    loop.turn()
    clock.advance(600)
    settled |= dict.fromkeys(settled, clock.now_ms())
    loop.turn()
    assert written(store) == (10, 10, 10)


def test_what_lies_unread_before_us_is_no_silence(store: Store) -> None:
    """We stood still for a minute. What came meanwhile is all there, but one origin's is read before the other's."""
    settled = dict.fromkeys(("news/0", "news/1"), 0)
    loop, source, clock = build(store, upstream=lambda: answer(clock, settled), batch_mentions_max=10)

    add(source, "news/0", [0])
    add(source, "news/1", [0 + 100])
    loop.turn()
    clock.advance(60)
    settled |= dict.fromkeys(settled, round(clock.monotonic_s() * 1000))
    add(source, "news/1", range(101, 120))
    add(source, "news/0", range(1, 20))
    while loop.turn():
        pass
    assert loop._owned[PARTITION].core.counts["late"] == 0
    assert written(store)[:2] == (40, 40)


@dataclass
class Score:
    """What is told of its progress: nothing before it first answers, then that all was worked off at `asked_s`."""

    spoken: tuple[str, ...] = ()
    asked_s: float | None = None

    def __call__(self) -> Progress:
        if self.asked_s is None:
            return Progress()
        asked_ms = round(1000 * self.asked_s)
        return Progress(
            settled=dict.fromkeys(("news/0", "news/1"), asked_ms), spoken=frozenset(self.spoken), asked_ms=asked_ms
        )


def test_before_scores_first_answer_event_time_stands(store: Store) -> None:
    """Of two raw partitions the one with the newer stories reaches us first."""
    score = Score()
    loop, source, clock = build(store, upstream=score)
    add(source, "news/0", range(60, 120))
    loop.turn()
    clock.advance(10)
    add(source, "news/1", range(10))
    loop.turn()
    assert written(store) == (70, 70, 0)
    score.spoken, score.asked_s = ("news/0", "news/1"), clock.monotonic_s()
    add(source, "news/0", [120])
    loop.turn()
    assert written(store) == (71, 71, 7), "news/1 is at minute 9, less the lateness"
    assert len(store.mentions_since(0, 0)) == 71, "none is late"


def test_an_answer_from_before_the_first_mention_does_not_say_who_speaks(store: Store) -> None:
    """All was empty when score was last asked; then everybody speaks at once."""
    score = Score()
    loop, source, clock = build(store, upstream=score)
    score.asked_s = clock.monotonic_s()
    loop.turn()
    clock.advance(6)
    loop.turn()
    assert loop._owned[PARTITION].known is not None, "the answer has reached the core"
    add(source, "news/0", range(60))
    loop.turn()
    assert written(store) == (60, 60, 0)
    score.spoken, score.asked_s = ("news/0", "news/1"), clock.monotonic_s()
    add(source, "news/0", [60])
    loop.turn()
    assert written(store) == (61, 61, 0), "news/1 has spoken, and what it said is not here"
    add(source, "news/1", range(61, 70))
    loop.turn()
    assert written(store) == (70, 70, 58), "news/0 stands at minute 60 and holds news/1"


def test_a_group_that_never_answers_stops_nobody_and_is_told(store: Store) -> None:
    told: list[str | None] = []
    score = Score()
    loop, source, clock = build(store, upstream=score, unheard=told.append)
    add(source, "news/0", range(10))
    loop.turn()
    clock.advance(59)
    add(source, "news/0", [10])
    loop.turn()
    assert written(store) == (11, 11, 0)
    clock.advance(1)
    add(source, "news/0", [11])
    with capture_logs() as said:
        loop.turn()
        loop.turn()
    assert written(store) == (12, 12, 9)
    assert [each["event"] for each in said if each["log_level"] == "warning"] == ["watch.goes_on_unheard"]
    assert told[:-1] == [None, None, None]
    assert "mentions/0" in (told[-1] or "")
    score.asked_s = clock.monotonic_s()
    add(source, "news/0", [12])
    loop.turn()
    loop.turn()
    assert told[-1] is None


def test_what_was_read_back_waits_no_longer_than_what_was_held(store: Store) -> None:
    """A database that fails again and again throws the core away; the wait is counted from the first of them."""
    loop, source, clock = build(store, upstream=Score())
    breaking = Breaking(store, 3)
    loop._store = breaking  # type: ignore[assignment]
    add(source, "news/0", range(10))
    for _ in range(3):
        with pytest.raises(Retryable):
            loop.turn()
        clock.advance(20)
    loop.turn()
    assert written(store) == (10, 10, 7)


def test_a_purge_that_was_not_all_goes_on(store: Store) -> None:
    loop, source, clock = build(store, retention_ms=60_000, purge_rows_max=2)
    source.add(*(mention(n) for n in range(10)))
    loop.turn()
    left = [store.counts().mentions]
    for _ in range(3):
        clock.advance(6)
        loop.turn()
        left.append(store.counts().mentions)
    assert left == [8, 6, 4, 4], "what is older than a minute before the watermark, two rows at a time"


def test_how_far_behind_we_are_is_told(store: Store) -> None:
    loop, source, clock = build(store, batch_mentions_max=4)
    source.add(*(mention(n) for n in range(10)))
    loop.turn()
    clock.advance(6)
    loop.turn()
    assert 'lag_messages{partition="mentions/0"} 2.0' in loop._metrics.exposition().decode()


def test_a_brigade_is_kept_counted_and_told_once(store: Store) -> None:
    """Many new accounts fill one mould; however the batches are cut, one notice says how many they were."""
    metrics = Metrics()
    loop, source, _ = build(store, metrics=metrics)
    for start in (0, 150):
        source.add(
            *(
                msgspec.structs.replace(
                    mention(number),
                    channel="social",
                    published_at_ms=START_MS + number * 3_000,
                    text=f"sell all your shares of it before they go to zero n{number}",
                    author=f"new{number}",
                )
                for number in range(start, start + 150)
            )
        )
        loop.turn()
        assert len(store.notices()) == 1
    source.add(mention(1_000))
    loop.turn()
    (notice,) = store.notices()
    assert (notice.kind, notice.entity, notice.channel) == ("brigade", "AAA", "social")
    assert notice.accounts > 280
    exposition = metrics.exposition().decode()
    assert "tapewatch_watch_brigades_total 1.0" in exposition
    assert f"tapewatch_watch_brigade_accounts_total {float(notice.accounts)}" in exposition


def test_what_is_heard_and_by_which_engine_is_counted_with_the_batch(store: Store) -> None:
    """A repeat is not heard twice, and a failed transaction has heard nothing."""
    loop, source, clock = build(store)
    source.add(*(mention(n) for n in range(10)), b"{broken")
    for raw in source.log[:4]:
        raw.headers = (("origin", b"news/0"), ("engine", b"cuda"))
    source.log[5].headers = (("origin", b"news/0"), ("engine", b"cpu"))
    breaking = Breaking(store, 1)
    loop._store = breaking  # type: ignore[assignment]
    with pytest.raises(Retryable):
        loop.turn()
    assert store.feed_hours(0) == []
    loop.turn()
    source.add(*(mention(n) for n in range(5)))
    loop.turn()
    assert [(row.source, row.mentions) for row in store.feed_hours(0)] == [("wire", 10)]
    shares = store.intake_shares(0, clock.now_ms() + 1)
    assert (shares.mentions, shares.other_engine, shares.dead_letters) == (10, 4, 1)


def test_a_source_with_a_wrong_clock_is_named(store: Store) -> None:
    """Once a batch and fate: who, how many, and by how much; the item itself is kept and counted by its fate."""
    metrics = Metrics()
    loop, source, _ = build(store, metrics=metrics)
    punctual = msgspec.structs.replace(mention(0), published_at_ms=NOW_MS - 1_000)
    early = [
        msgspec.structs.replace(mention(number), source="fast clock", published_at_ms=NOW_MS + 3_600_000)
        for number in (1, 2)
    ]
    old = msgspec.structs.replace(mention(3), source="archive", published_at_ms=NOW_MS - 30 * 86_400_000)
    source.add(punctual, *early, old)
    with capture_logs() as said:
        loop.turn()
    told = [
        (each["source"], each["fate"], each["count"], each["ahead_s"])
        for each in said
        if each["event"] == "watch.off_time"
    ]
    assert told == [("archive", "late", 1, -30 * 86_400), ("fast clock", "future", 2, 3_600)]
    assert 'tapewatch_watch_mentions_total{fate="future"} 2.0' in metrics.exposition().decode()
    assert store.counts().mentions == 4
