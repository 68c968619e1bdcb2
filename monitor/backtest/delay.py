"""How soon a lasting shift is seen, against the best that is possible at the same rate of false alarms.

For a shift of known size δ in standard normal steps the CUSUM with reference value δ/2 has the least delay at a given mean
time between false alarms (Moustakides 1986). The size isn't known in service; the ratio says what that costs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from monitor.alerting.cusum import EMPTY, SHIFTS, heights, step_bank

Detector = Callable[[float], float]
_GRID_PER_NAT = 10


def delay_against_optimum(*, runs: int, false_alarm_every: int, seed: int) -> dict[str, Any]:
    """Mean steps from the shift to the alarm, ours and the optimum's, two-sided, both at one false alarm in so many steps."""
    ours = _height_for(_bank, false_alarm_every, runs, seed)
    shifts = []
    for shift in SHIFTS:
        best = _known(shift)
        optimum = _delay(best, _height_for(best, false_alarm_every, runs, seed), shift, runs, seed + 1)
        delay = _delay(_bank, ours, shift, runs, seed + 1)
        shifts.append(
            {"sigma": shift, "delay": round(delay, 2), "optimum": round(optimum, 2), "ratio": round(delay / optimum, 3)}
        )
    return {
        "false_alarm_every": false_alarm_every,
        "runs": runs,
        "shifts": shifts,
        "worst_ratio": max(each["ratio"] for each in shifts),
    }


def _bank() -> Detector:
    bank = list(EMPTY)

    def step(z: float) -> float:
        step_bank(bank, z)
        return max(heights(bank))

    return step


def _known(shift: float) -> Callable[[], Detector]:
    """The CUSUM that knows the size of the shift, in nats as the bank's."""

    def make() -> Detector:
        sides = [0.0, 0.0]

        def step(z: float) -> float:
            cost = shift * shift / 2.0
            sides[0] = max(0.0, sides[0] + shift * z - cost)
            sides[1] = max(0.0, sides[1] - shift * z - cost)
            return max(sides)

        return step

    return make


def _height_for(make: Callable[[], Detector], every: int, runs: int, seed: int) -> float:
    """The height that is reached once in `every` steps while nothing happens, by interpolation on a grid."""
    grid = [index / _GRID_PER_NAT for index in range(_GRID_PER_NAT, round((math.log(every) + 2.0) * _GRID_PER_NAT))]
    means = _first_passages(make, grid, 0.0, runs, seed, steps_max=5 * every)
    above = next(index for index, mean in enumerate(means) if mean >= every)
    low, high = math.log(means[above - 1]), math.log(means[above])
    return grid[above - 1] + (math.log(every) - low) / (high - low) / _GRID_PER_NAT


def _delay(make: Callable[[], Detector], height: float, shift: float, runs: int, seed: int) -> float:
    return _first_passages(make, [height], shift, runs, seed, steps_max=100_000)[0]


def _first_passages(
    make: Callable[[], Detector], grid: Sequence[float], shift: float, runs: int, seed: int, *, steps_max: int
) -> list[float]:
    """Mean steps until each height of the grid is reached. Every detector sees the same steps."""
    rng = random.Random(seed)  # noqa: S311 - a simulation that can be repeated, not a secret
    totals = [0] * len(grid)
    for _ in range(runs):
        step, reached, at = make(), 0, 0
        while reached < len(grid) and at < steps_max:
            at += 1
            height = step(rng.gauss(shift, 1.0))
            while reached < len(grid) and height >= grid[reached]:
                totals[reached] += at
                reached += 1
        for index in range(reached, len(grid)):
            totals[index] += steps_max
    return [total / runs for total in totals]
