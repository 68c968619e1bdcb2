"""The service manager is told the truth: ready when ready, alive only while every part is."""

from __future__ import annotations

import socket
from pathlib import Path

from monitor.clock import ManualClock
from monitor.telemetry import Caretaker, Health, Notifier, NotifyListener


def test_datagrams_are_as_the_protocol_has_them(tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    notifier = Notifier.of({"NOTIFY_SOCKET": str(tmp_path / "notify")}, pid=1)
    notifier.ready()
    notifier.watchdog()
    notifier.reloading(12.5)
    notifier.stopping()
    assert [manager.recv(100) for _ in range(4)] == [
        b"READY=1",
        b"WATCHDOG=1",
        b"RELOADING=1\nMONOTONIC_USEC=12500000",
        b"STOPPING=1",
    ]
    manager.close()


def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind("\0tapewatch-test-notify")
    Notifier.of({"NOTIFY_SOCKET": "@tapewatch-test-notify"}, pid=1).ready()
    assert manager.recv(100) == b"READY=1"
    manager.close()


def test_without_a_manager_or_after_its_death_nothing_happens(tmp_path: Path) -> None:
    Notifier.of({}, pid=1).ready()
    Notifier.of({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, pid=1).watchdog()


def test_the_watchdog_is_meant_for_the_process_that_it_names() -> None:
    environ = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
    assert Notifier.of(environ, pid=7).watchdog_s == 30.0
    assert Notifier.of(environ, pid=8).watchdog_s is None
    assert Notifier.of({"WATCHDOG_USEC": "nonsense"}, pid=8).watchdog_s is None


def test_ready_is_told_once_and_life_only_while_polls_and_model_are_fresh(tmp_path: Path) -> None:
    manager = NotifyListener(tmp_path / "notify")
    clock, health = ManualClock(), Health({"poll": 60.0, "model": 120.0})
    caretaker = Caretaker(Notifier.of(manager.environ(60.0), pid=1), health, clock)

    def told() -> set[str]:
        caretaker.tend()
        return manager.received()

    assert told() == set(), "nothing has started"
    health.beat("poll", 0)
    assert told() == set(), "the model has not"
    health.beat("model", 0)
    assert told() == {"READY", "WATCHDOG"}
    clock.advance(59)
    health.beat("poll", 59)
    assert told() == {"WATCHDOG"}
    clock.advance(60)
    assert told() == {"WATCHDOG"}
    health.beat("poll", 119)
    clock.advance(2)
    assert told() == set(), "polls go on, but a batch never ended"
    health.beat("model", 121)
    assert told() == {"WATCHDOG"}
    clock.advance(61)
    health.beat("model", 182)
    assert told() == set(), "the model answers, but nobody polls"
    manager.close()
