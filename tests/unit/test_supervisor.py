"""Roles are kept running, and stopped together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from monitor.clock import ManualClock
from monitor.supervisor import EXIT_GOOD, EXIT_WRONG, RestartPolicy, Supervisor


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

    def spawn(self, command: Sequence[str], /) -> FakeProcess:
        process = FakeProcess(len(self.started), stubborn=self.stubborn)
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
        if self.world.rounds == 0:
            self.set()
        return self.is_set()


def supervise(world: World, roles: Sequence[str]) -> int:
    supervisor = Supervisor(
        {role: [role] for role in roles},
        clock=world.clock,
        drain_s=5,
        policy=RestartPolicy(pause_s=1, pause_max_s=4, poll_s=0.5),
        spawn=world.spawn,
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
