"""Health gives reasons, metrics can't be blown up by input, the port answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from monitor.clock import ManualClock
from monitor.errors import Fatal
from monitor.telemetry import CATALOGUE, Health, Metrics, TelemetryServer
from monitor.telemetry.health import TROUBLE_S


def test_a_part_that_has_not_started_keeps_the_role_from_being_ready_but_not_from_living() -> None:
    health = Health({"poll": 60})
    assert health.faults(0) == ["poll: not started yet"]
    assert health.faults(0, alive_only=True) == []


def test_a_part_that_was_last_seen_too_long_ago_is_named() -> None:
    health = Health({"poll": 60})
    health.beat("poll", 10)
    assert health.faults(70) == []
    assert health.faults(71, alive_only=True) == ["poll: last seen 61 s ago, at most 60 s is healthy"]


def test_trouble_is_told_until_the_work_is_done_or_nobody_tells_it_any_more() -> None:
    health = Health({})
    health.trouble("work", "database: disk full", 10)
    assert health.faults(11) == ["work: database: disk full"]
    assert health.faults(11, alive_only=True) == [], "waiting for the world is being alive"
    health.trouble("work", None, 12)
    assert health.faults(12) == []
    health.trouble("work", "database: away", 20)
    assert health.faults(20 + TROUBLE_S) == []


def test_a_wall_clock_that_was_set_is_told() -> None:
    clock, health = Settable(), Health({})
    server = TelemetryServer(host="127.0.0.1", port=0, key="k", metrics=Metrics(), health=health, clock=clock)
    clock.offset_ms = -3_600_000
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5)
    with caught.value as answer:
        (fault,) = json.loads(answer.read())["faults"]
    assert fault.startswith("clock: the wall clock was set by -3600 s")
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=5) as alive:
        assert alive.status == 200
    server.close()


class Settable(ManualClock):
    """Its wall time can be set; its intervals can't."""

    offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms


def test_label_values_beyond_the_limit_become_one() -> None:
    metrics = Metrics()
    for number in range(500):
        metrics.count("score_dead_letters_total", label=f"reason{number}")
    text = metrics.exposition().decode()
    assert text.count("tapewatch_score_dead_letters_total{") == 65
    assert 'reason="other"} 436.0' in text


def test_every_metric_has_a_meaning_and_is_exposed() -> None:
    assert all(metric.meaning.endswith(".") for metric in CATALOGUE)
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_the_port_answers_with_reasons() -> None:
    clock, health = ManualClock(), Health({"poll": 60})
    server = TelemetryServer(host="127.0.0.1", port=0, key="k", metrics=Metrics(), health=health, clock=clock)
    base = f"http://127.0.0.1:{server.port}"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{base}/readyz", timeout=5)
    with caught.value as answer:
        assert json.loads(answer.read())["faults"] == ["poll: not started yet"]
    health.beat("poll", 0)
    with urllib.request.urlopen(f"{base}/readyz", timeout=5) as good:
        assert good.status == 200
    with urllib.request.urlopen(f"{base}/metrics", timeout=5) as shown:
        assert b"tapewatch_score_documents_total" in shown.read()
    with pytest.raises(Fatal, match=rf"\[score\] telemetry_port = {server.port}: can't listen"):
        TelemetryServer(
            host="127.0.0.1",
            port=server.port,
            key="[score] telemetry_port",
            metrics=Metrics(),
            health=health,
            clock=clock,
        )
    server.close()
