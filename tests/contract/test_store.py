"""One contract, two databases: SQLite and PostgreSQL. Everything is idempotent, and a zombie is fenced."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from monitor.alerting import PageReason, Settled, Verdict
from monitor.app import check_spread
from monitor.cli import CONFIGS
from monitor.clock import ManualClock, SystemClock
from monitor.errors import Fatal, Fenced
from monitor.records import Alert, AlertTransition, DeadLetter, Document, LinkedEntity, Notice, Place, Suppression
from monitor.settings import Settings, load_settings
from monitor.store import WATCHKEEPER, AttemptMark, ReceiverState, Store
from monitor.store.migrate import VERSION_TABLE
from monitor.store.tables import metadata
from tests.builders import an_alert, judged, told


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_server").create(f"t{uuid.uuid4().hex[:12]}"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


def mention(number: int, at_ms: int = 0):
    document = Document(
        id=str(number), source="s", channel="news", published_at_ms=at_ms, title=f"X falls {number}\x00"
    )
    return judged(document, LinkedEntity(entity="X", spans=(), cue="symbol"), 1)


def alert(severity: str = "low", resolved: bool = False) -> Alert:
    return an_alert(id="a1", severity=severity, resolved_at="2026-01-01T01:00:00Z" if resolved else None)


def transition(change: str, at_ms: int, severity: str = "low") -> AlertTransition:
    return AlertTransition(
        alert=alert(severity, resolved=change == "resolved"),
        change=change,
        reason="test",
        at_ms=at_ms,  # type: ignore[arg-type]
    )


class Desk:
    name = "desk"

    def wants(self, _alert: Alert, /) -> bool:
        return True

    def hears(self, _topic: str, _severity: str, /) -> bool:
        return True


class Boss(Desk):
    name = "boss"

    def wants(self, alert: Alert, /) -> bool:
        return alert.severity == "high"


def advance(store: Store, expected: int | None, following: int) -> None:
    with store.transaction() as t:
        t.advance_offset("mentions", 0, expected=expected, following=following, watermark_ms=5, state=b"s")


def test_an_offset_moves_only_from_where_it_was_expected(store: Store) -> None:
    advance(store, None, 10)
    advance(store, 10, 20)
    for expected in (None, 10):
        with pytest.raises(Fenced):
            advance(store, expected, 30)
    place = store.partition_state("mentions", 0)
    assert place is not None
    assert (place.next, place.watermark_ms, place.state) == (20, 5, b"s")


def test_a_zombie_writes_nothing_at_all(store: Store) -> None:
    advance(store, None, 10)
    with pytest.raises(Fenced), store.transaction() as t:
        t.insert_mentions([mention(1)], 0)
        t.advance_offset("mentions", 0, expected=9, following=11, watermark_ms=None, state=b"")
    assert store.counts().mentions == 0


def test_a_transaction_that_breaks_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError, match="crash"), store.transaction() as t:
        t.insert_mentions([mention(1)], 0)
        raise RuntimeError("crash")
    assert store.known_mentions([mention(1).id]) == set()


def test_a_redelivered_mention_is_a_no_op(store: Store) -> None:
    with store.transaction() as t:
        assert t.insert_mentions([mention(1), mention(2)], 0) == {mention(1).id, mention(2).id}
    with store.transaction() as t:
        assert t.insert_mentions([mention(2), mention(3)], 0) == {mention(3).id}
    assert store.counts().mentions == 3


def test_mentions_are_read_back_in_order_and_late_ones_are_not(store: Store) -> None:
    with store.transaction() as t:
        t.insert_mentions([mention(1, 30), mention(2, 10), mention(3, 20)], 4, late={mention(3, 20).id})
    assert [m.published_at_ms for m in store.mentions_since(4, 0)] == [10, 30]
    assert [m.published_at_ms for m in store.mentions_since(4, 11)] == [30]
    assert store.mentions_since(5, 0) == []


def test_each_step_of_an_alert_is_kept_and_told_once(store: Store) -> None:
    steps = [transition("opened", 1), transition("updated", 2, "high"), transition("resolved", 3, "high")]
    for _ in range(2):
        with store.transaction() as t:
            t.record_transitions(steps)
            t.tell(told(steps), [Desk(), Boss()], now_ms=9)
    assert [s.change for s in store.transitions("a1")] == ["opened", "updated", "resolved"]
    sent = sorted((d.receiver, d.sequence, d.change) for d in store.deliveries())
    assert sent == [
        ("boss", 2, "opened"),  # what passes the filter late is news to that receiver
        ("boss", 3, "resolved"),
        ("desk", 1, "opened"),
        ("desk", 2, "updated"),
        ("desk", 3, "resolved"),
    ]
    assert [a.severity for a in store.alerts(status="resolved")] == ["high"]


def test_a_later_step_never_overtakes_an_earlier_one(store: Store) -> None:
    with store.transaction() as t:
        t.tell(told([transition("opened", 1), transition("resolved", 3)]), [Desk()], now_ms=0)
    claim = {"owner": "one", "now_ms": 10, "lease_ms": 100, "limit": 5}
    first = store.claim_deliveries("desk", **claim)  # type: ignore[arg-type]
    assert [d.change for d in first] == ["opened"]
    assert store.claim_deliveries("desk", owner="two", now_ms=20, lease_ms=100, limit=5) == []
    assert store.mark_delivered(first[0].id, owner="one", now_ms=30)
    assert [d.change for d in store.claim_deliveries("desk", owner="two", now_ms=30, lease_ms=9, limit=5)] == [
        "resolved"
    ]


def test_a_lease_that_ran_out_is_taken_over_with_the_same_id(store: Store) -> None:
    with store.transaction() as t:
        t.tell(told([transition("opened", 1)]), [Desk()], now_ms=0)
    first = store.claim_deliveries("desk", owner="one", now_ms=10, lease_ms=0, limit=5)
    again = store.claim_deliveries("desk", owner="two", now_ms=10, lease_ms=100, limit=5)
    assert [d.id for d in again] == [d.id for d in first]
    assert again[0].attempts == 2
    assert not store.mark_delivered(first[0].id, owner="one", now_ms=210), "the first owner no longer answers for it"
    assert store.mark_delivered(again[0].id, owner="two", now_ms=210)


def test_a_claimant_whose_clock_is_ahead_does_not_take_what_another_has_leased(store: Store) -> None:
    """Nor does one whose clock is behind hold it longer: the database's clock alone counts leases."""
    hour_ms, minute_ms = 3_600_000, 60_000
    with store.transaction() as t:
        t.tell(told([transition("opened", 1)]), [Desk()], now_ms=0)
    (first,) = store.claim_deliveries("desk", owner="one", now_ms=hour_ms, lease_ms=minute_ms, limit=5)
    assert store.claim_deliveries("desk", owner="ahead", now_ms=2 * hour_ms, lease_ms=minute_ms, limit=5) == []
    store.release_deliveries([first.id], owner="one")
    store.claim_deliveries("desk", owner="ahead", now_ms=2 * hour_ms, lease_ms=0, limit=5)
    (again,) = store.claim_deliveries("desk", owner="one", now_ms=hour_ms, lease_ms=minute_ms, limit=5)
    assert again.id == first.id


def test_the_databases_clock_counts_milliseconds_from_1970(store: Store) -> None:
    """Within a day of this machine's, or a unit or the epoch is wrong: the machines need not agree any better."""
    with store.transaction() as t:
        t.tell(told([transition("opened", 1)]), [Desk()], now_ms=0)
    (claimed,) = store.claim_deliveries("desk", owner="one", now_ms=10, lease_ms=0, limit=5)
    assert abs(claimed.lease_until_ms - SystemClock().now_ms()) < 86_400_000


def test_a_lease_is_as_long_as_was_asked_by_the_databases_clock(store: Store) -> None:
    now_ms = 5_000
    timed = Store(store._engine, clock_ms=lambda _connection: now_ms)
    with store.transaction() as t:
        t.tell(told([transition("opened", 1)]), [Desk()], now_ms=0)
    (claimed,) = timed.claim_deliveries("desk", owner="one", now_ms=10, lease_ms=100, limit=5)
    assert claimed.lease_until_ms == 5_100
    now_ms = 5_099
    assert timed.claim_deliveries("desk", owner="two", now_ms=10, lease_ms=100, limit=5) == []
    now_ms = 5_100
    assert len(timed.claim_deliveries("desk", owner="two", now_ms=10, lease_ms=100, limit=5)) == 1


def test_what_was_never_tried_is_due_although_the_clock_was_set_back(store: Store) -> None:
    """Otherwise the alerts of the last minutes would wait until the clock is there again."""
    with store.transaction() as t:
        t.tell(told([transition("opened", 1)]), [Desk()], now_ms=3_600_000)
    (claimed,) = store.claim_deliveries("desk", owner="one", now_ms=10, lease_ms=100, limit=5)
    store.retry_later(claimed.id, owner="one", next_attempt_at_ms=500, error="failed")
    assert store.claim_deliveries("desk", owner="one", now_ms=20, lease_ms=100, limit=5) == [], "a retry has its time"


def test_a_receiver_that_is_gone_is_left_alone_until_somebody_retries(store: Store) -> None:
    with store.transaction() as t:
        t.tell(told([transition("opened", 1)]), [Desk()], now_ms=0)
    store.disable_receiver("desk", reason="410", now_ms=5)
    assert store.claim_deliveries("desk", owner="one", now_ms=10, lease_ms=9, limit=5) == []
    ids = [d.id for d in store.deliveries(status="disabled")]
    assert store.retry_deliveries(ids, now_ms=20) == 1
    assert store.receiver_state("desk") == ReceiverState(name="desk")
    assert len(store.claim_deliveries("desk", owner="one", now_ms=20, lease_ms=9, limit=5)) == 1


def test_what_is_given_back_was_never_claimed(store: Store) -> None:
    with store.transaction() as t:
        t.tell(told([transition("opened", 1)]), [Desk()], now_ms=0)
    (claimed,) = store.claim_deliveries("desk", owner="one", now_ms=10, lease_ms=100, limit=5)
    assert store.release_deliveries([claimed.id], owner="two") == 0, "only its owner gives it back"
    assert store.release_deliveries([claimed.id], owner="one") == 1
    (again,) = store.claim_deliveries("desk", owner="two", now_ms=20, lease_ms=100, limit=5)
    assert (again.attempts, again.first_attempt_at_ms) == (1, 20)


def test_what_is_remembered_of_a_receiver_is_changed_as_one(store: Store) -> None:
    def failed(state: ReceiverState) -> ReceiverState:
        return ReceiverState(name=state.name, open_until_ms=50, consecutive_failures=state.consecutive_failures + 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _n: store.change_receiver("desk", failed), range(8)))
    assert store.receiver_state("desk").consecutive_failures == 8
    assert [state.name for state in store.receiver_states()] == ["desk"]
    assert not store.take_probe("desk", now_ms=49, until_ms=99)
    assert [store.take_probe("desk", now_ms=50, until_ms=99) for _ in range(2)] == [True, False]


def test_what_is_written_for_a_disabled_receiver_is_parked_and_can_be_woken(store: Store) -> None:
    store.disable_receiver("desk", reason="410", now_ms=5)
    with store.transaction() as t:
        t.tell(told([transition("opened", 1, "high")]), [Desk(), Boss()], now_ms=0)
    assert [store.park_deliveries("desk") for _ in range(2)] == [1, 0]
    assert {d.receiver: d.status for d in store.deliveries()} == {"desk": "disabled", "boss": "pending"}
    assert store.retry_deliveries(now_ms=9, receiver="boss") == 0
    assert store.retry_deliveries(now_ms=9) == 1


def test_a_dead_letter_is_kept_once_with_its_bytes(store: Store) -> None:
    letter = DeadLetter(
        place=Place(topic="news", partition=1, offset=7),
        key=None,
        value=b"\xff\x00",
        headers=(("h", b"\x00"),),
        reason="not_utf8",
        detail="byte 0\x00",
        failed_at_ms=3,
    )
    for _ in range(2):
        with store.transaction() as t:
            t.keep_dead_letter(letter)
    (stored,) = store.dead_letters()
    assert (stored.letter.value, stored.letter.headers, stored.letter.place) == (
        letter.value,
        letter.headers,
        letter.place,
    )
    store.mark_replayed([stored.id], now_ms=4)
    assert store.dead_letters(pending=True) == []


def test_attempts_are_counted_across_restarts_and_forgotten_with_the_next_one(store: Store, url: str) -> None:
    first, second = (Place(topic="news", partition=0, offset=offset) for offset in (3, 4))
    assert store.note_attempt(first) == 1
    again = Store.open(url)
    assert again.note_attempt(first) == 2
    assert again.note_attempt(second, survived=first) == 1
    assert again.note_attempt(first) == 1
    again.clear_attempts([second])
    assert again.note_attempt(second) == 1
    again.close()


def test_a_mark_is_seen_by_others_and_taken_away_by_its_owner_only(store: Store) -> None:
    mine, other = ("news", 0), ("news", 1)
    store.note_marks({mine: AttemptMark(10), other: AttemptMark(7)}, owner="one")
    store.note_marks({mine: AttemptMark(20, 3)}, owner="one")
    assert store.marks_left([mine, other], owner="one") == {}
    assert store.marks_left([mine, ("social", 0)], owner="two") == {mine: AttemptMark(20, 3)}
    store.note_marks({mine: AttemptMark(30)}, owner="two")
    store.clear_marks([mine, other], owner="one")
    assert store.marks_left([mine, other], owner="three") == {mine: AttemptMark(30)}


def test_the_migrations_make_the_tables_that_the_code_expects(store: Store) -> None:
    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_a_database_of_a_newer_version_is_refused(store: Store, url: str) -> None:
    with store._engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(Fatal, match="version 9999, newer than this tapewatch knows"):
        Store.open(url)


def test_a_step_waits_for_the_pager_until_it_is_settled(store: Store) -> None:
    with store.transaction() as t:
        t.record_transitions([transition("opened", 1), transition("resolved", 3)])
    assert [(w.sequence, w.transition.change) for w in store.waiting_steps(2)] == [(1, "opened")]
    settled = Settled(alert="a1", sequence=1, verdict=Verdict.SILENT, reason=PageReason.SILENCED, page="a1", silence=7)
    with store.transaction() as t:
        t.settle([settled], now_ms=5)
    assert [w.sequence for w in store.waiting_steps(9)] == [2]
    first, second = store.decisions("a1")
    assert (first.verdict, first.reason, first.silence_id, first.decided_at_ms) == ("silent", "silenced", 7, 5)
    assert second.verdict == "waiting"


def test_only_one_process_pages_at_a_time(store: Store) -> None:
    with store.transaction() as t:
        t.save_paging(expected=0, state=b"one")
    for expected in (0, 7):
        with pytest.raises(Fenced), store.transaction() as t:
            t.save_paging(expected=expected, state=b"two")
            t.tell(told([transition("opened", 1)]), [Desk()], now_ms=0)
    assert store.paging_state() == (1, b"one")
    with store.transaction() as t:
        t.save_paging(expected=1, state=b"three")
    assert store.paging_state() == (2, b"three")


def test_a_silence_is_kept_with_its_author_and_holds_until_it_is_expired(store: Store) -> None:
    number = store.add_silence(
        author="ann", reason="earnings", created_at_ms=1, starts_at_ms=10, ends_at_ms=90, entity="X"
    )
    assert [s.id for s in store.silences(ended_before_ms=80)] == [number]
    assert not store.expire_silence(number + 1, author="bob", at_ms=50, now_ms=51)
    assert store.expire_silence(number, author="bob", at_ms=50, now_ms=51)
    assert not store.expire_silence(number, author="bob", at_ms=40, now_ms=52), "once is enough"
    assert store.silences(ended_before_ms=80) == []
    (kept,) = store.silences()
    assert (kept.author, kept.reason, kept.ends_at_ms, kept.expired_by) == ("ann", "earnings", 50, "bob")


def test_an_acknowledgement_names_who_gave_it(store: Store) -> None:
    with store.transaction() as t:
        t.record_transitions([transition("opened", 1)])
    assert not store.acknowledge("nobody", author="ann", reason="", now_ms=1)
    assert store.acknowledge("a1", author="ann", reason="looking", now_ms=1)
    assert store.acknowledged(["a1", "nobody"]) == {"a1": "ann"}
    assert store.alert_id("a") == "a1"
    assert store.alert_id("%") is None


def test_why_nothing_was_opened_is_kept_once(store: Store) -> None:
    noted = Suppression(
        entity="X", kind="tone", direction="negative", reason="cooling_down", at_ms=5, score=3.0, needed=2.0, voices=4.0
    )
    for _ in range(2):
        with store.transaction() as t:
            t.keep_suppressions([noted])
    assert store.suppressions(entity="X") == [noted]
    assert store.suppressions(entity="Y") == []


def test_a_notice_is_replaced_by_its_later_state(store: Store) -> None:
    first = Notice(
        kind="brigade",
        entity="X",
        channel="social",
        since_ms=5,
        last_ms=9,
        accounts=40,
        voices=2.5,
        document="s:1",
        text="sell",
    )
    later = msgspec.structs.replace(first, last_ms=20, accounts=90)
    other = msgspec.structs.replace(first, since_ms=900, last_ms=950)
    for notices in ([first], [later, other], [later], []):
        with store.transaction() as transaction:
            transaction.keep_notices(notices)
    assert store.notices() == [other, later]
    assert store.notices(entity="Y") == []
    assert store.notices(limit=1) == [other]


def test_what_was_heard_is_counted_by_source_and_hour_over_all_partitions(store: Store) -> None:
    hour = 3_600_000
    for partition, mentions in ((0, [mention(1, 5), mention(2, hour + 7)]), (1, [mention(3, 9)]), (0, [mention(4, 3)])):
        with store.transaction() as t:
            t.note_heard(mentions, partition, now_ms=100 + partition)
    first, second = store.feed_hours(0)
    assert (first.channel, first.source, first.hour, first.mentions, first.newest_ms) == ("news", "s", 0, 3, 9)
    assert (second.hour, second.mentions, second.newest_ms, second.seen_at_ms) == (1, 1, hour + 7, 100)
    assert store.newest_heard_hour() == 1
    assert [row.hour for row in store.feed_hours(1)] == [1]
    assert store.forget_health(before_hour=1, before_ms=0) == 2


def test_how_results_came_in_is_counted_in_slots(store: Store) -> None:
    for now_ms, poor in ((10, 1), (299_999, 2), (300_000, 4)):
        with store.transaction() as t:
            t.note_intake("mentions", 0, now_ms=now_ms, mentions=10, abstained=poor)
    with store.transaction() as t:
        t.note_intake("dead-letters", 0, now_ms=20, dead_letters=5)
    whole = store.intake_shares(0, 300_000)
    assert (whole.mentions, whole.abstained, whole.other_engine, whole.dead_letters) == (20, 3, 0, 5)
    assert store.intake_shares(300_000, 600_000).abstained == 4
    assert store.intake_shares(600_000, 900_000).mentions == 0


def test_keepers_have_states_of_their_own(store: Store) -> None:
    with store.transaction() as t:
        t.save_paging(expected=0, state=b"pager")
        t.save_paging(expected=0, state=b"watch", keeper=WATCHKEEPER)
    with store.transaction() as t:
        t.save_paging(expected=1, state=b"watch2", keeper=WATCHKEEPER)
    assert store.paging_state() == (1, b"pager")
    assert store.paging_state(WATCHKEEPER) == (2, b"watch2")


def test_over_how_many_partitions_a_topic_is_spread_is_said_once(store: Store) -> None:
    """Whoever says it first is right; another topic is another matter."""
    assert store.spread("mentions", 4, now_ms=1_000) == (4, 1_000)
    assert store.spread("mentions", 8, now_ms=2_000) == (4, 1_000)
    assert store.spread("others", 8, now_ms=2_000) == (8, 2_000)


def test_another_number_of_partitions_is_refused_with_what_to_do(store: Store) -> None:
    """Entities would move, and leave their history behind."""

    def settings(partitions: int) -> Settings:
        return load_settings(CONFIGS / "default.toml", {"TAPEWATCH_KAFKA__PARTITIONS": str(partitions)})

    clock = ManualClock(1_000)
    check_spread(store, settings(4), clock)
    check_spread(store, settings(4), clock)
    with pytest.raises(Fatal, match=r"kafka.partitions = 8: entities are spread over 4 partitions .* Set it back to 4"):
        check_spread(store, settings(8), clock)
