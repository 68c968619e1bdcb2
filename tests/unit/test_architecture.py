"""Rooms do not import each other, pure files ask nobody, exporters know nothing of the monitor."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "alerting",
    "broker",
    "delivery",
    "intake",
    "learning",
    "linking",
    "registry",
    "scoring",
    "store",
    "telemetry",
    "windows",
)
COMMON = {"records", "errors", "clock", "toml_files"}
# What a room may know beside the common ground, and why.
ALLOWED = {
    "alerting": {"windows"},  # detectors are functions of its sums
    "learning": {"intake"},  # training texts are cleaned exactly as in service
    "store": {"telemetry"},
}
PURE = (
    "intake/decode.py",
    "intake/cleaning.py",
    "intake/membership.py",
    "intake/merge.py",
    "linking/linker.py",
    "linking/folding.py",
    "linking/words.py",
    "scoring/batching.py",
    "scoring/calibration.py",
    "scoring/evidence.py",
    "windows/watermark.py",
    "windows/novelty.py",
    "windows/sums.py",
    "windows/buckets.py",
    "windows/records.py",
    "alerting/baselines.py",
    "alerting/market.py",
    "alerting/records.py",
    "alerting/budget.py",
    "alerting/detectors.py",
    "alerting/evidence.py",
    "alerting/lifecycle.py",
    "alerting/rescoring.py",
    "delivery/circuit.py",
    "delivery/outbox.py",
    "alerting/levels.py",
    "alerting/paging.py",
    "alerting/silence_states.py",
    "alerting/silences.py",
    "alerting/sources.py",
    "alerting/brief.py",
    "delivery/signing.py",
    "learning/metrics.py",
    "learning/evaluate.py",
    "learning/findings.py",
    "learning/report.py",
    "loops/core/contract.py",
    "loops/core/hearing.py",
    "loops/core/life.py",
    "loops/core/memory.py",
    "loops/core/partition.py",
    "loops/core/records.py",
    "loops/core/signals.py",
    "loops/core/telling.py",
    "loops/offsets.py",
)
WORLD = {
    "time",
    "socket",
    "subprocess",
    "threading",
    "sqlalchemy",
    "structlog",
    "kafka",
    "torch",
    "onnxruntime",
    "httpcore2",
    "os",
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_itself_and_the_common_ground(room: str) -> None:
    allowed = COMMON | {room} | ALLOWED.get(room, set())
    for path in (ROOT / "monitor" / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("monitor.")}
        assert rooms <= allowed, f"{path.name} imports {sorted(rooms - allowed)}"


def test_exporters_know_nothing_of_the_monitor() -> None:
    for path in (ROOT / "exporters").rglob("*.py"):
        assert not any(name.split(".")[0] == "monitor" for name in imports(path)), path.name


@pytest.mark.parametrize("name", PURE)
def test_a_pure_file_does_not_ask_the_world(name: str) -> None:
    found = {module.split(".")[0] for module in imports(ROOT / "monitor" / name)}
    assert not found & WORLD, f"{name} imports {sorted(found & WORLD)}"


def test_only_the_clock_asks_what_time_it_is() -> None:
    """Intervals at the edges (sockets, processes, benchmarks) are named here; anything else takes `now` as an argument."""
    edges = {"clock.py", "offline.py", "embedded.py", "webhook.py", "sink.py"}
    asking = {
        path.name
        for path in (ROOT / "monitor").rglob("*.py")
        if "migrations" not in path.parts and imports(path) & {"time", "datetime"} and _calls_now(path)
    }
    assert asking <= edges, sorted(asking - edges)


def _calls_now(path: Path) -> bool:
    names = {"time", "monotonic", "perf_counter", "now", "utcnow", "time_ns", "sleep"}
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"time", "datetime"}
        and node.func.attr in names
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    )


def test_a_compiled_build_sees_the_types_of_all_that_the_code_imports() -> None:
    """An isolated build has nothing but what setup.py asks for, and mypyc refuses what it can't see."""
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NEEDED"
    )
    needed = {re.split(r"[<>=]", each)[0] for each in listed}
    files = [path for room in ("alerting", "windows", "loops/core") for path in (ROOT / "monitor" / room).glob("*.py")]
    files += [ROOT / "monitor" / f"{name}.py" for name in COMMON]
    imported = {
        name.partition(".")[0]
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in (
            [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names - {"monitor"} <= needed
