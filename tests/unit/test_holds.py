"""A partition that waits for an operator is shown, counted and told: once, to those who hear operator's notices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from monitor.clock import ManualClock
from monitor.errors import Retryable
from monitor.intake.anchors import Hold, HoldReason
from monitor.loops.holds import HoldNotices, notice_of
from monitor.records import Alert
from monitor.store import Store
from monitor.telemetry import Health, Metrics

HELD = {("news", 1): Hold(reason=HoldReason.MESSAGES_EXPIRED, detail="news/1: 3 messages expired unread")}


class Receiver:
    def __init__(self, name: str, topic: str) -> None:
        self.name, self._topic = name, topic

    def wants(self, _alert: Alert, /) -> bool:
        return True

    def hears(self, topic: str, _severity: str, /) -> bool:
        return topic == self._topic


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(f"sqlite:///{tmp_path / 'holds.db'}")) as opened:
        opened.refuse_start("g", "news", 1, reason="messages_expired", detail="3 messages expired unread", now_ms=7)
        yield opened


def notices(store: Store, health: Health, metrics: Metrics) -> HoldNotices:
    return HoldNotices(
        store=store,
        group="g",
        receivers=[Receiver("ops", "operator"), Receiver("desk", "alerts")],
        reasons=tuple(HoldReason),
        health=health,
        metrics=metrics,
        clock=ManualClock(1_000),
    )


def test_a_held_partition_is_shown_counted_and_told_once(store: Store) -> None:
    health, metrics = Health({}), Metrics()
    notices(store, health, metrics)(HELD)
    notices(store, health, metrics)(HELD)  # as another process would, or this one after a restart
    assert health.faults(0.0) == ["news/1: 3 messages expired unread"]
    assert health.faults(0.0, alive_only=True) == [], "a restart would not help"
    assert 'held_partitions{reason="messages_expired"} 1.0' in metrics.exposition().decode()
    (claimed,) = store.claim_deliveries("ops", owner="me", now_ms=2_000, lease_ms=1_000, limit=10)
    body = msgspec.json.decode(claimed.alert_json)
    assert (claimed.event, body["topic"], body["partition"]) == ("operator.partition_held", "news", 1)
    assert store.claim_deliveries("desk", owner="me", now_ms=2_000, lease_ms=1_000, limit=10) == []


def test_when_it_goes_on_nothing_is_shown_and_who_heard_of_it_hears_the_end(store: Store) -> None:
    health, metrics = Health({}), Metrics()
    notices(store, health, metrics)(HELD)
    (anchor,) = store.anchors()
    with store.transaction() as transaction:
        told = transaction.tell(
            [notice_of(anchor, accepted_next=12, at_ms=9)], [Receiver("ops", "x")], now_ms=9, topic="operator"
        )
    assert told == 1
    notices(store, health, metrics)({})
    assert health.faults(0.0) == []
    assert 'held_partitions{reason="messages_expired"} 0.0' in metrics.exposition().decode()


def test_a_database_that_is_away_keeps_nobody_from_polling(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise Retryable("database: away")

    monkeypatch.setattr(store, "anchors", away)
    health = Health({})
    notices(store, health, Metrics())(HELD)
    assert health.faults(0.0) == ["news/1: 3 messages expired unread"]
