"""The soak's verdict sees what it is for, and a short run of it; `make soak` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.broker import EmbeddedBroker
from tests.chaos.soak import SoakPlan, Verdict, judge, soak
from tests.chaos.vitals import Sample, slope

ROLES = ("score", "watch", "deliver")


def sampled(
    *, memory_mb_per_hour: float = 0.0, descriptors_per_hour: float = 0.0, lag_per_hour: float = 0.0
) -> Verdict:
    """Two hours, a sample a minute, every fifth at the end of a pause."""
    samples = [
        Sample(
            at_s=60.0 * minute,
            idle=minute % 5 == 0,
            memory_mb=dict.fromkeys(ROLES, 100 + memory_mb_per_hour * minute / 60 + (30 if minute % 7 == 0 else 0)),
            descriptors={role: round(10 + descriptors_per_hour * minute / 60) for role in ROLES},
            threads=dict.fromkeys(ROLES, 3),
            lag={"score": round(lag_per_hour * minute / 60)},
            pids={role: number for number, role in enumerate(ROLES)},
        )
        for minute in range(1, 121)
    ]
    return judge(SoakPlan(seconds=7_200), samples, documents=1, mentions=1, lost=0, alerts=0, deliveries=0)


def test_what_grows_is_named_and_what_jumps_now_and_then_is_not() -> None:
    assert sampled().faults == ()
    assert [fault.split(":")[0] for fault in sampled(memory_mb_per_hour=20).faults] == list(ROLES)
    assert len(sampled(descriptors_per_hour=6).faults) == 3
    assert len(sampled(lag_per_hour=50).faults) == 1


def test_the_slope_is_that_of_most_pairs() -> None:
    line = [(3_600.0 * hour, 5.0 * hour) for hour in range(10)]
    assert slope(line) == pytest.approx(5.0)
    assert slope([*line, (36_000.0, 900.0)]) == pytest.approx(5.0, abs=0.5)


def test_a_short_soak_loses_nothing_and_nobody_restarts(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    kept: list[Sample] = []
    plan = SoakPlan(seconds=16, rate=20, burst_rate=80, burst_s=1, pause_s=4, cycle_s=8, sample_s=2)
    verdict = soak(
        plan,
        bootstrap_servers=embedded_broker.bootstrap_servers,
        database_url=f"sqlite:///{tmp_path / 'soak.db'}",
        keep=kept.append,
    )
    assert verdict.documents > 200
    assert (verdict.lost, verdict.restarts, verdict.idle_lag_last) == (0, 0, 0)
    assert sum(sample.idle for sample in kept) >= 2
    assert all(sample.memory_mb.keys() == set(ROLES) for sample in kept)
