"""Nothing lost, nothing twice: a short run of `tapewatch chaos`; `make chaos` is the long one."""

import random
from contextlib import ExitStack

import pytest

from monitor.chaos import ChaosPlan, Findings, Told, judge, run_chaos
from monitor.cli import CONFIGS
from tests.chaos.__main__ import start_world
from tests.chaos.faults import FaultPlan, Faults


def test_roles_that_are_killed_lose_and_double_nothing() -> None:
    findings = run_chaos(CONFIGS / "demo.toml", ChaosPlan(kills=4, seed=3, pause_s=(1.0, 4.0)))
    assert findings.kills == 4
    assert findings.mentions > 400
    assert findings.sound, findings


def disturbed(faults: FaultPlan, *, kills: int) -> tuple[Findings, Faults]:
    """Two processes of a role on Apache Kafka and PostgreSQL, in a world that is broken before each kill."""
    with ExitStack() as stack:
        world, names = start_world(stack)
        breaking = Faults(world, faults, random.Random(1))
        stack.callback(breaking.finish)
        world.database.create("chaos")
        findings = run_chaos(
            CONFIGS / "demo.toml",
            ChaosPlan(kills=kills, seed=5, processes=2, static=True, documents_per_second=40.0, pause_s=(1.0, 3.0)),
            bootstrap_servers=f"127.0.0.1:{world.broker_proxy.port}",
            database_url=world.database.url("chaos", port=world.database_proxy.port),
            disturb=breaking,
            mended=breaking.finish,
            expired=lambda: breaking.expired,
            environment=names,
        )
    assert findings.kills == kills
    assert findings.sound, findings
    return findings, breaking


@pytest.mark.kafka
def test_faults_of_broker_network_and_database_lose_and_double_nothing() -> None:
    """One process stopped past its session, connections cut in every way, commits lost."""
    kinds = ("process_stalled", "commits_cut", "broker_connections_reset", "partitions_added", "database_killed")
    findings, _ = disturbed(FaultPlan(every=1, kinds=kinds, away_s=3.0, stall_s=(3.0, 5.0), sleep_s=9.0), kills=6)
    assert sum(findings.faults.values()) >= 2


@pytest.mark.kafka
def test_what_expires_unread_is_held_and_said_and_goes_on_at_an_operators_word() -> None:
    """Nothing else is missing, and no fault is mended before `offsets accept` was needed and did its work."""
    _, breaking = disturbed(FaultPlan(every=1, kinds=("messages_expired",), unread_s=5.0), kills=2)
    assert breaking.expired
    assert breaking.accepted


def told(mentions: str, *, raw: float = 1.0, alerts: str = "", letters: int = 0) -> Told:
    return Told(
        mentions=frozenset(mentions),
        dead_letters=frozenset(str(number) for number in range(letters)),
        buckets={("AAA", "news", 0): (raw, 1.0)},
        alerts=frozenset(alerts),
    )


def test_the_comparison_sees_every_kind_of_damage() -> None:
    """A judge that finds nothing must be one that could have found it."""

    def findings(found: Told, *, outbox: str = "x", received: str = "x", late: int = 0) -> dict[str, int]:
        result = judge(
            told("ab", alerts="k", letters=1),
            found,
            outbox=list(outbox),
            received=list(received),
            kills=1,
            documents=2,
            late=late,
            seconds=1.0,
        )
        sizes = {"kills", "documents", "mentions", "alerts", "deliveries", "seconds", "faults"}
        told_apart = {name: getattr(result, name) for name in result.__struct_fields__ if name not in sizes}
        assert result.sound == (not {k: v for k, v in told_apart.items() if v and k != "redelivered"})
        return {name: value for name, value in told_apart.items() if value}

    whole = told("ab", alerts="k", letters=1)
    assert findings(whole) == {}
    assert findings(whole, received="xx") == {"redelivered": 1}
    assert findings(whole, late=1) == {"late": 1}
    assert findings(whole, received="") == {"undelivered": 1}
    assert findings(told("a", alerts="k", letters=1)) == {"lost": 1}
    assert findings(told("abc", alerts="k", letters=1)) == {"duplicated": 1}
    assert findings(told("ab", raw=2.0, alerts="k", letters=1)) == {"duplicated": 1, "buckets_differ": 1}
    assert findings(told("ab", alerts="q", letters=2)) == {
        "alerts_missing": 1,
        "alerts_extra": 1,
        "dead_letters_extra": 1,
    }
    assert findings(told("ab", alerts="k")) == {"dead_letters_lost": 1}
