"""The connection to PostgreSQL ends at the COMMIT, a hundred times: before it arrives, or after it was done and before we hear."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from monitor.app import CoreMaker
from monitor.clock import ManualClock
from monitor.errors import Retryable
from monitor.loops.paging import Paging
from monitor.loops.watch import WatchLoop, WatchLoopPolicy
from monitor.records import Alert
from monitor.store import Store
from monitor.store.patience import PatientConnection
from monitor.telemetry import Metrics
from tests.postgres import PostgresServer
from tests.proxy import Cut, FaultProxy
from tests.unit.test_watch_loop import NOW_MS, PARTITION, RULES, FakeSource, mention

CUTS = 100
MENTIONS = 600


class Desk:
    """A receiver that wants to hear of everything."""

    name = "desk"

    def wants(self, _alert: Alert, /) -> bool:
        return True

    def hears(self, _topic: str, _severity: str, /) -> bool:
        return True


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[FaultProxy]:
    with closing(FaultProxy(postgres_server.port)) as opened:
        yield opened


def watching(store: Store) -> WatchLoop:
    source, clock = FakeSource(store), ManualClock(NOW_MS)
    source.add(*(mention(n) for n in range(MENTIONS)))
    return WatchLoop(
        source=source,
        store=store,
        cores=CoreMaker(rules=RULES, names={}, partitions=1),
        paging=Paging(
            store=store,
            rules=RULES,
            sectors={},
            receivers=[Desk()],
            topic_mentions=PARTITION[0],
            clock=clock,
            metrics=Metrics(),
        ),
        topic_mentions=PARTITION[0],
        clock=clock,
        policy=WatchLoopPolicy(batch_mentions_max=5),
    )


def written(store: Store) -> dict[str, object]:
    """Everything that a batch writes."""
    place = store.partition_state(*PARTITION)
    assert place is not None
    alerts = sorted(store.alerts(limit=1_000), key=lambda alert: alert.id)
    return {
        "next": place.next,
        "watermark_ms": place.watermark_ms,
        "mentions": store.counts().mentions,
        "buckets": store.buckets("AAA"),
        "alerts": alerts,
        "transitions": [store.transitions(alert.id) for alert in alerts],
        "outbox": sorted(delivery.id for delivery in store.deliveries(limit=1_000)),
    }


def test_a_hundred_connections_lost_at_the_commit_change_nothing(
    postgres_server: PostgresServer, proxy: FaultProxy
) -> None:
    """Half of them are ambiguous: it was committed, and we must find that out instead of writing it again."""
    rng = random.Random(5)
    cuts = [Cut.BEFORE, Cut.AFTER] * (CUTS // 2)
    rng.shuffle(cuts)
    postgres_server.create("cut")
    with closing(Store.open(postgres_server.url("cut", port=proxy.port))) as store:
        loop, failed = watching(store), 0
        while True:
            if cuts and not proxy.cuts_left and rng.random() < 0.8:
                proxy.cut_commits([cuts.pop()])
            try:
                if not loop.turn():
                    break
            except Retryable:
                failed += 1
        disturbed = written(store)
    assert proxy.counts == {"commit_cut_before": CUTS // 2, "commit_cut_after": CUTS // 2}
    assert failed == CUTS
    with closing(Store.open(postgres_server.create("whole"))) as store:
        undisturbed = watching(store)
        while undisturbed.turn():
            pass
        assert disturbed == written(store)
    assert disturbed["mentions"] == MENTIONS
    assert disturbed["outbox"], "something was to be delivered"


def test_a_connection_that_fell_silent_is_given_up(
    postgres_server: PostgresServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-open: nobody says that it is gone. The caller hears of it in time, and the next connection works."""
    monkeypatch.setattr(PatientConnection, "answer_s", 1.0)
    postgres_server.create("silent")
    with closing(Store.open(postgres_server.url("silent", port=proxy.port))) as store:
        store.check()
        assert proxy.half_open() == 1
        store.check()  # the pool asks whether the connection lives, and takes another
        with pytest.raises(Retryable, match="no answer within 1 s"), store.transaction() as transaction:
            proxy.half_open()
            transaction.insert_mentions([mention(0)], 0)
        assert store.counts().mentions == 0
