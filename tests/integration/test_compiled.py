"""The code that every mention passes decides the same when it is compiled: outcomes and stored states are the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from tests.unit.test_core import START_MS, history, play
from tests.voices import HOUR_MS, brigade, chatter, stories

ROOT = Path(__file__).resolve().parents[2]
CORE_TESTS = ("test_alerting", "test_bad_input", "test_core", "test_novelty", "test_windows")


def digest() -> str:
    """Of all that is written about four days of talk with a crash, a brigade and a run of bad stories, with restarts."""
    rng = random.Random(11)
    told = [
        *history(),
        *chatter(rng, start_ms=START_MS, days=4, per_day=60),
        *brigade(rng, start_ms=START_MS + 60 * HOUR_MS, hours=2),
        *stories(rng, start_ms=START_MS + 70 * HOUR_MS, minutes=25, sources=["wire", "paper"], entity="CCC"),
    ]
    told.sort(key=lambda m: (m.published_at_ms, m.id))
    written = play(told, cuts=range(0, len(told), 301), stops=True)
    assert any(step.change == "opened" for step in written.transitions), "something has to be decided"
    decided = map(msgspec.json.encode, (written.transitions, written.buckets, written.suppressed))
    states = (written.states[name] for name in sorted(written.states))
    return sha256(b"\n".join([written.state, *states, *decided])).hexdigest()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    for name in ("monitor", "exporters", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    _python(folder, "setup.py", "-q", "build_ext", "--inplace", TAPEWATCH_COMPILE="1")
    return folder


def _python(folder: Path, *arguments: str, **environment: str) -> str:
    """What Python prints in a tree of sources."""
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return done.stdout.strip()


@pytest.mark.timeout(600)
def test_compiled_code_writes_the_same_bytes(compiled: Path) -> None:
    asked = "import monitor.loops.core.partition as p; from tests.integration.test_compiled import digest as d; print(p.__file__, d())"
    file, found = _python(compiled, "-c", asked).split()
    assert file.endswith((".so", ".pyd"))
    assert found == digest()


def test_compiled_code_passes_the_tests_of_the_core(compiled: Path) -> None:
    paths = [f"tests/unit/{name}.py" for name in CORE_TESTS]
    assert "passed" in _python(compiled, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths)
