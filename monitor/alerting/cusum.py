"""A bank of CUSUMs that together see a small shift late and a large one soon, each almost as fast as the best for it.

The log-likelihood ratio of "the mean has moved by δ standard deviations since some moment" over standard normal steps z:

    W⁺ ← max(0, W⁺ + δz − δ²/2)        W⁻ ← max(0, W⁻ − δz − δ²/2)

(Page 1954; optimal for its δ: Moustakides 1986). Which δ comes isn't known, so three run side by side and the highest
counts, a GLR over a grid (Lorden 1971, § 4). A step crosses the height h with a probability of about e^−h each
(Lorden 1971, theorem 2: mean time between false alarms ≥ e^h for one of them).
"""

from __future__ import annotations

SHIFTS = (0.5, 1.0, 2.0)
EMPTY = (0.0,) * (2 * len(SHIFTS))
Z_MAX = 4.0  # one block of voices is worth at most this much


def step_bank(bank: list[float], z: float) -> None:
    """Take one standardised reading: `bank` is (W⁺, W⁻) of each shift."""
    z = min(max(z, -Z_MAX), Z_MAX)
    for index, shift in enumerate(SHIFTS):
        gain, cost = shift * z, shift * shift / 2.0
        up, down = 2 * index, 2 * index + 1
        bank[up] = max(0.0, bank[up] + gain - cost)
        bank[down] = max(0.0, bank[down] - gain - cost)


def heights(bank: list[float]) -> tuple[float, float]:
    """The highest of the upper and of the lower sides, in nats."""
    return max(bank[0::2]), max(bank[1::2])
