"""Roles are kept running, and stopped together."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from monitor.clock import ManualClock
from monitor.supervisor import EXIT_GOOD, EXIT_WRONG, RestartPolicy, Supervisor, spawn
from monitor.telemetry import Notifier, NotifyListener


@dataclass
class FakeProcess:
    pid: int
    code: int | None = None
    stubborn: bool = False
    signals: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int, /) -> None:
        self.signals.append(number)
        if not self.stubborn:
            self.code = 0

    def kill(self) -> None:
        self.signals.append(signal.SIGKILL)
        self.code = -9


@dataclass
class World:
    """Children that are started, and a stop event that advances the clock instead of waiting."""

    clock: ManualClock
    rounds: int
    script: dict[int, int] = field(default_factory=dict)
    started: list[tuple[float, FakeProcess]] = field(default_factory=list)
    stubborn: bool = False
    notifiers: list[Notifier] = field(default_factory=list)
    each_round: Callable[[int], None] = lambda _round: None

    def spawn(self, command: Sequence[str], extra: Mapping[str, str], /) -> FakeProcess:
        process = FakeProcess(len(self.started), stubborn=self.stubborn)
        self.notifiers.append(Notifier.of(extra, pid=0))
        if len(self.started) in self.script:
            process.code = self.script[len(self.started)]
        self.started.append((self.clock.monotonic_s(), process))
        return process


class Rounds(threading.Event):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def wait(self, timeout: float | None = None) -> bool:
        self.world.clock.advance(timeout or 0)
        self.world.rounds -= 1
        self.world.each_round(self.world.rounds)
        if self.world.rounds == 0:
            self.set()
        return self.is_set()


def supervise(
    world: World, roles: Sequence[str], *, watchdog_s: float | None = None, notifier: Notifier | None = None
) -> int:
    supervisor = Supervisor(
        {role: [role] for role in roles},
        clock=world.clock,
        drain_s=5,
        policy=RestartPolicy(pause_s=1, pause_max_s=4, poll_s=0.5, watchdog_s=watchdog_s, reload_s=20),
        spawn=world.spawn,
        notifier=notifier,
    )
    return supervisor.run(Rounds(world))


def test_a_role_that_dies_is_started_again_after_growing_pauses() -> None:
    world = World(ManualClock(), rounds=60, script={0: 1, 1: -9, 2: 1, 3: 1})
    assert supervise(world, ["watch"]) == EXIT_GOOD
    starts = [at_s for at_s, _ in world.started]
    assert len(starts) == 5
    pauses = [round(later - earlier) for earlier, later in pairwise(starts)]
    assert pauses == [2, 2, 4, 4], "half a second to notice it, then 1, 2, 4 and at most 4 seconds"


def test_a_role_with_a_wrong_configuration_stops_them_all() -> None:
    world = World(ManualClock(), rounds=60, script={1: EXIT_WRONG})
    assert supervise(world, ["score", "watch", "deliver"]) == EXIT_WRONG
    assert all(process.poll() is not None for _, process in world.started)


def test_whoever_does_not_drain_in_time_is_killed() -> None:
    world = World(ManualClock(), rounds=2, stubborn=True)
    assert supervise(world, ["watch"]) == EXIT_GOOD
    assert world.started[0][1].signals == [signal.SIGTERM, signal.SIGKILL]


def test_a_role_that_was_ready_and_goes_silent_is_killed_and_started_again() -> None:
    """Ready at once; signs of life for five seconds; then none, and after ten more it is hung."""
    world = World(ManualClock(), rounds=40)

    def live(_round: int) -> None:
        if world.clock.monotonic_s() <= 5:
            world.notifiers[0].ready()
            world.notifiers[0].watchdog()

    world.each_round = live
    assert supervise(world, ["score"], watchdog_s=10) == EXIT_GOOD
    first, second = world.started
    assert first[1].signals == [signal.SIGKILL]
    assert 15 < second[0] <= 17
    assert second[1].signals == [signal.SIGTERM], "the second was never ready: whoever waits for a broker is not hung"


def reloading(world: World, *, ready_again_at_s: float) -> None:
    """The first is ready at once, begins to reload after two seconds, and is ready and alive again some time later."""

    def live(_round: int) -> None:
        first, now_s = world.notifiers[0], world.clock.monotonic_s()
        if now_s == 1:
            first.ready()
        if now_s == 2:
            first.reloading(2)
        if now_s == ready_again_at_s:
            first.ready()
        if now_s > ready_again_at_s:
            first.watchdog()

    world.each_round = live


def test_a_role_that_reloads_is_not_hung_before_its_time_is_over() -> None:
    """Ten times as long as a silent role is suffered: a model that is loaded gives no signs of life."""
    world = World(ManualClock(), rounds=100)
    reloading(world, ready_again_at_s=20)
    assert supervise(world, ["score"], watchdog_s=2) == EXIT_GOOD
    assert len(world.started) == 1


def test_a_reload_that_does_not_end_is_killed_and_started_again() -> None:
    world = World(ManualClock(), rounds=100)
    reloading(world, ready_again_at_s=1_000)
    assert supervise(world, ["score"], watchdog_s=2) == EXIT_GOOD
    first, second = world.started
    assert first[1].signals == [signal.SIGKILL]
    assert 22 < second[0] <= 24.5
    assert second[1].signals == [signal.SIGTERM], "it was killed once, for one reload"


def test_our_own_manager_hears_that_all_are_ready_and_that_we_live(tmp_path: Path) -> None:
    manager = NotifyListener(tmp_path / "manager")
    world = World(ManualClock(), rounds=40)
    heard: list[tuple[float, set[str]]] = []

    def live(_round: int) -> None:
        now_s = world.clock.monotonic_s()
        for number, notifier in enumerate(world.notifiers):
            if now_s >= 3 * (number + 1):
                notifier.ready()
        heard.append((now_s, manager.received()))

    world.each_round = live
    notifier = Notifier.of(manager.environ(8.0), pid=1)
    assert supervise(world, ["score", "watch"], watchdog_s=60, notifier=notifier) == EXIT_GOOD
    ready = [at_s for at_s, told in heard if "READY" in told]
    assert len(ready) == 1
    assert ready[0] > 6, "not before the last of them is"
    alive = [at_s for at_s, told in heard if "WATCHDOG" in told]
    assert max(later - earlier for earlier, later in pairwise([0.0, *alive])) <= 4
    assert "STOPPING" in manager.received()
    manager.close()


def test_a_child_does_not_speak_to_our_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    told = tmp_path / "told"
    code = f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(str({{k: v for k, v in os.environ.items() if k in ('NOTIFY_SOCKET', 'WATCHDOG_PID', 'X')}}))"
    child = spawn([sys.executable, "-c", code], {"X": "1"})
    while child.poll() is None:
        threading.Event().wait(0.01)
    assert told.read_text() == "{'X': '1'}"
