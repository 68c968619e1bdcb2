"""A message that kills the process is quarantined after it killed the process four times, twice with it alone in hand; the line goes on."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from monitor.clock import SystemClock
from monitor.store import Store
from monitor.supervisor import EXIT_GOOD, RestartPolicy, Supervisor
from tests.dying_score import EACH, PARTITIONS, POISON, messages


def test_what_kills_the_process_is_quarantined_and_everything_else_is_scored(tmp_path: Path) -> None:
    """SIGKILL from inside, in the model or in the reader, under the real supervisor with the real marks."""
    supervisor = Supervisor(
        {"score": [sys.executable, "-m", "tests.dying_score", str(tmp_path)]},
        clock=SystemClock(),
        drain_s=10,
        policy=RestartPolicy(pause_s=0.01, pause_max_s=0.01),
    )
    stop = threading.Event()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(supervisor.run(stop)))
    thread.start()
    try:
        positions, clock = tmp_path / "positions.json", SystemClock()
        give_up_s = clock.monotonic_s() + 120
        while _read(positions) != {str(p): EACH for p in range(PARTITIONS)}:
            assert clock.monotonic_s() < give_up_s, f"stuck at {_read(positions)}"
            clock.sleep(0.05)
    finally:
        stop.set()
        thread.join()
    assert codes == [EXIT_GOOD]
    letters = [tuple(json.loads(line)) for line in (tmp_path / "letters").read_text().splitlines()]
    poisons = [m for m in messages() if m.place in POISON]
    assert letters == [(str(m.place), "kills_the_process", (m.value or b"").decode()) for m in poisons]
    scored = set((tmp_path / "mentions").read_text().splitlines())
    assert len(scored) == PARTITIONS * EACH - len(POISON)
    starts = (tmp_path / "starts").read_text().split()
    assert len(starts) == 2 + 2 + 2 + 1, "two deaths find no culprit; then two starts die with each of them alone"
    store = Store.open(f"sqlite:///{tmp_path / 'marks.db'}")
    assert [store.note_attempt(place) for place in POISON] == [1, 1], "committed, so their counts are gone"
    store.close()


def _read(positions: Path) -> dict[str, int]:
    return dict(json.loads(positions.read_text())) if positions.exists() else {}
