"""The same world with Hypothesis at the wheel: it chooses who acts when, and makes what fails short."""

from __future__ import annotations

import structlog
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.simulation.run import HOUR_S, ROLES, Simulation, quiet_logs


class Life(RuleBasedStateMachine):
    """Rules are what an operator, the network or time may do; the faults inside a turn are the seed's."""

    def __init__(self) -> None:
        super().__init__()
        self._logs = quiet_logs()
        self._logs.__enter__()
        self.simulation: Simulation | None = None

    @property
    def run(self) -> Simulation:
        assert self.simulation is not None, "initialize comes first"
        return self.simulation

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        note(f"seed {seed}")
        self.simulation = Simulation(seed)

    @rule(role=st.sampled_from(ROLES), times=st.integers(1, 4))
    def work(self, role: str, times: int) -> None:
        for _ in range(times):
            self.run.turn(role)

    @rule()
    def publish(self) -> None:
        self.run.produce()

    @rule(seconds=st.sampled_from((0.3, 5.0, 30.0, 120.0)))
    def wait(self, seconds: float) -> None:
        self.run.world.clock.advance(seconds)

    @rule(hours=st.sampled_from((-1, 0, 1)))
    def set_the_clock(self, hours: int) -> None:
        self.run.world.clock.offset_ms = hours * HOUR_S * 1_000

    @rule(role=st.sampled_from(ROLES))
    def start(self, role: str) -> None:
        self.run.start(role)

    @precondition(lambda self: self.simulation is not None and len(self.simulation.processes) > 2)
    @rule(gently=st.booleans())
    def end_one(self, gently: bool) -> None:
        (self.run.stop_any if gently else self.run.kill_any)()

    @rule()
    def rebalance(self) -> None:
        self.run.deal()

    @invariant()
    def offsets_only_go_forward(self) -> None:
        if self.simulation is not None:
            self.run.check()
            assert not self.run.problems, self.run.problems

    def teardown(self) -> None:
        try:
            if self.simulation is not None:
                report = self.run.finish(0)
                assert not report.problems, report.told()
        finally:
            self._logs.__exit__(None, None, None)


Life.TestCase.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLife = Life.TestCase


def test_logs_are_as_they_were() -> None:
    """The runs above silence the logs; nobody else should notice."""
    before = structlog.get_config()
    with quiet_logs():
        assert structlog.get_config()["wrapper_class"] is not before["wrapper_class"]
    assert structlog.get_config() == before
