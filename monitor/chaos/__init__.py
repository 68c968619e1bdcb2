"""Chaos: kill roles at random points under a real stream, then prove that nothing was lost and nothing counted twice."""

from monitor.chaos.oracle import Findings, Told, judge
from monitor.chaos.run import ChaosPlan, run_chaos

__all__ = ["ChaosPlan", "Findings", "Told", "judge", "run_chaos"]
