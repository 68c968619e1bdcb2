"""The curves of a run as a picture: losses of the training above, figures of the validation split below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One point an epoch; `history`: entries with `epoch`, `train` (task → mean loss) and `valid` (figure → value)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.set(ylabel="mean loss", title="training")
    below.set(ylabel="figure", xlabel="epoch", title="validation")
    for axes, part in ((above, "train"), (below, "valid")):
        names = sorted({name for entry in history for name in entry.get(part, {})})
        for name in names:
            points = [(entry["epoch"] + 1, entry[part][name]) for entry in history if name in entry.get(part, {})]
            axes.plot(*zip(*points, strict=True), "o-", label=name.replace("_", " "))
        axes.grid(alpha=0.3)
        if names:
            axes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110)
