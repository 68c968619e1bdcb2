"""What the simulation is worth: each deliberate breakage of a promise must be found by it."""

from __future__ import annotations

import pytest

from tests.simulation.breakages import BREAKAGES
from tests.simulation.run import STEPS, simulate


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_deliberate_breakage_is_found(name: str) -> None:
    """Each breaks one promise; the run with the same seeds must see it."""
    for seed in range(60):
        if simulate(seed, STEPS, build=BREAKAGES[name]).problems:
            return
    pytest.fail(f"60 seeds did not find that {name}")
