"""A score process whose reader or model kills it, for the test that starts it again and again: python -m tests.dying_score.

The loop, the guard and the database are the real ones; the broker is a folder, so that what was committed outlives us.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from monitor.clock import SystemClock
from monitor.loops.attempts import AttemptGuard
from monitor.loops.score import ScoreLoop, ScorePolicy
from monitor.records import DeadLetter, Document, LinkedEntity, Place, ScoredMention
from monitor.store import Store
from tests.unit.test_score_loop import FakeJudge, FakeReader, Raw

PARTITIONS, EACH = 2, 30
POISON = {
    Place(topic="news", partition=0, offset=17): "kills the reader",
    Place(topic="news", partition=1, offset=23): "kills the model",
}


def messages() -> list[Raw]:
    """Two partitions, in turns, with a poison in each."""
    places = [Place(topic="news", partition=p, offset=n) for n in range(EACH) for p in range(PARTITIONS)]
    return [Raw(place, f"$A {POISON.get(place, 'is fine')} {place}".encode()) for place in places]


class Folder:
    """Source and sink: positions are replaced atomically, results are appended line by line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._positions = folder / "positions.json"
        self._queue: list[Raw] | None = None

    def poll(self, messages_max: int, timeout_ms: int) -> Sequence[Raw]:
        if self._queue is None:
            start = self._committed()
            self._queue = [m for m in messages() if m.place.offset >= start.get(str(m.place.partition), 0)]
        batch, self._queue = self._queue[:8], self._queue[8:]
        if not batch:
            threading.Event().wait(0.01)
        return batch

    def commit(self, positions: dict[tuple[str, int], int]) -> None:
        half = self._folder / "half"
        half.write_text(json.dumps(self._committed() | {str(p): offset for (_, p), offset in positions.items()}))
        half.replace(self._positions)

    def _committed(self) -> dict[str, int]:
        return dict(json.loads(self._positions.read_text())) if self._positions.exists() else {}

    def send_mention(self, mention: ScoredMention, *, origin: str) -> None:
        self._append("mentions", mention.document)

    def send_dead_letter(self, letter: DeadLetter) -> None:
        self._append("letters", json.dumps([str(letter.place), letter.reason, (letter.value or b"").decode()]))

    def _append(self, name: str, line: str) -> None:
        with (self._folder / name).open("a") as out:
            out.write(line + "\n")

    def flush(self) -> None:
        """Written as they are sent."""

    def lost(self) -> list[tuple[str, int]]:
        return []

    def assignment(self) -> list[tuple[str, int]]:
        return [("news", p) for p in range(PARTITIONS)]

    def restart(self, partitions: Sequence[tuple[str, int]]) -> None:
        self._queue = None

    def pause(self) -> None:
        """Small enough to hold."""

    def resume(self) -> None:
        """Never paused."""

    def lag(self) -> dict[tuple[str, int], int]:
        return {}


def die_of(poison: str, text: str) -> None:
    if poison in text:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingJudge(FakeJudge):
    """As a model whose runtime is killed, by a fault of its own or for want of memory."""

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]:
        for document, _ in documents:
            die_of("kills the model", document.text)
        return super().judge(documents, now_ms=now_ms)


class DyingReader(FakeReader):
    """As a decoder or linker in C that crashes."""

    def read(self, message: Raw) -> tuple[Document, tuple[LinkedEntity, ...]]:
        die_of("kills the reader", (message.value or b"").decode())
        return super().read(message)


def main(folder: Path) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    broker = Folder(folder)
    broker._append("starts", str(os.getpid()))
    with closing(Store.open(f"sqlite:///{folder / 'marks.db'}")) as store:
        ScoreLoop(
            source=broker,
            sink=broker,
            reader=DyingReader(),
            judge=DyingJudge(),
            clock=SystemClock(),
            policy=ScorePolicy(commit_ms=0, deadline_ms=10),
            attempts=AttemptGuard(store, owner=f"process-{os.getpid()}", clock=SystemClock()),
        ).run(stop, drain_s=5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
