"""How a process is: memory, descriptors, threads and lag, sampled while it works, and whether they grow."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from monitor.records import Record

SETTLED_SHARE = 0.25  # the first part of a run may warm up: caches, arenas, baselines


class Sample(Record, frozen=True, kw_only=True):
    """One line of the file: each role's resident memory (MB), open descriptors, threads, and messages not yet read."""

    at_s: float
    idle: bool
    memory_mb: Mapping[str, float]
    descriptors: Mapping[str, int]
    threads: Mapping[str, int]
    lag: Mapping[str, int]
    pids: Mapping[str, int]


def sample_of(at_s: float, idle: bool, pids: Mapping[str, int], lag: Mapping[str, int]) -> Sample:
    memory, files, threads = {}, {}, {}
    for role, pid in pids.items():
        status = Path(f"/proc/{pid}/status").read_text()
        memory[role] = round(int(_found(r"VmRSS:\s+(\d+)", status)) / 1024, 1)
        threads[role] = int(_found(r"Threads:\s+(\d+)", status))
        files[role] = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(
        at_s=round(at_s, 1), idle=idle, memory_mb=memory, descriptors=files, threads=threads, lag=lag, pids=dict(pids)
    )


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Without the first part of the run."""
    return [sample for sample in samples if sample.at_s >= samples[-1].at_s * SETTLED_SHARE]


def growth(
    samples: Sequence[Sample], roles: Sequence[str], of: Callable[[Sample], Mapping[str, float]]
) -> dict[str, float]:
    """Each role's slope, an hour."""
    return {role: slope([(s.at_s, of(s)[role]) for s in samples if role in of(s)]) for role in roles}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Change an hour (x in seconds): Theil and Sen's median of all pairs' slopes, which no single spike moves."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(points)
        for later in points[number + 1 :]
        if later[0] > earlier[0]
    ]
    return 3_600 * median(slopes) if slopes else 0.0


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"nothing like {pattern} in the kernel's answer"
    return match[1]


def metrics_of(port: int, name: str) -> dict[str, float]:
    """Label → value, as the role tells them itself; "" for what has no label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.finditer(rf'^{name}(?:\{{\w+="([^"]*)"\}})? (\S+)$', text, re.MULTILINE)
    return {m[1] or "": float(m[2]) for m in found}


def lag_of(port: int) -> int:
    return round(sum(metrics_of(port, "tapewatch_lag_messages").values()))
