"""A stream on disk into Kafka: the same bytes, in the file's order, at the speed that was asked for.

Lines are sent as they are; one that is no message goes to the dead letters like any other, where it belongs. Each tells its
`published_at` in a header, so that partitions can be read in the order of time.
"""

from __future__ import annotations

import gzip
import heapq
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

import msgspec

from monitor.clock import Clock
from monitor.errors import Fatal
from monitor.records import UNDECODABLE

LINE_BYTES_MAX = 4_194_304


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPolicy:
    """`speed` 1.0 is real time, 60 an hour a minute, None as fast as the broker takes it."""

    speed: float | None = None
    flush_every: int = 5_000
    pause_max_s: float = 3_600.0


class Sink(Protocol):
    """Where the lines go."""

    def send(self, topic: str, *, key: bytes | None, value: bytes | None, event_ms: int | None = None) -> None: ...
    def flush(self) -> None: ...


class _Stamp(msgspec.Struct):
    published_at: str | None = None


def replay(
    files: Sequence[Path],
    *,
    topic: str,
    sink: Sink,
    clock: Clock,
    policy: ReplayPolicy,
    progress: Callable[[int], None] = lambda _bytes: None,
    stop: threading.Event | None = None,
) -> int:
    """Send every line; several files are merged by time. Returns how many were sent, all of them acknowledged."""
    sent, started_s, first_ms = 0, clock.monotonic_s(), None
    stop = stop or threading.Event()
    for at_ms, line in heapq.merge(*(lines(path, progress) for path in files), key=lambda item: item[0]):
        if stop.is_set():
            break
        first_ms = at_ms if first_ms is None and at_ms else first_ms
        if policy.speed is not None and first_ms is not None and at_ms:
            due_s = started_s + (at_ms - first_ms) / 1000 / policy.speed
            while (wait_s := due_s - clock.monotonic_s()) > 0 and not stop.is_set():
                sink.flush()
                clock.sleep(min(wait_s, 0.5))
        sink.send(topic, key=None, value=line, event_ms=max(0, at_ms) or None)
        sent += 1
        if sent % policy.flush_every == 0:
            sink.flush()
    sink.flush()
    return sent


def lines(path: Path, progress: Callable[[int], None] = lambda _bytes: None) -> Iterator[tuple[int, bytes]]:
    """(published_at in epoch ms, line) of a .jsonl or .jsonl.gz file; a line without a time takes the one before it.

    Raises Fatal for a file that can't be read to its end; `progress` is told bytes of the file itself.
    """
    at_ms = told = number = 0
    try:
        with path.open("rb") as raw, _unpacked(path, raw) as stream:
            while line := stream.readline(LINE_BYTES_MAX):
                number += 1
                if raw.tell() > told:
                    progress(raw.tell() - told)
                    told = raw.tell()
                line = line.rstrip(b"\r\n")
                if line:
                    at_ms = _published_at_ms(line) or at_ms
                    yield at_ms, line
    except FileNotFoundError as err:
        raise Fatal(f"{path}: no such file") from err
    except (OSError, EOFError, zlib.error) as err:
        raise Fatal(f"{path}: line {number + 1} can't be read: {err}") from err


def _unpacked(path: Path, raw: IO[bytes]) -> IO[bytes]:
    return gzip.open(raw, "rb") if path.suffix == ".gz" else raw  # type: ignore[return-value]  # GzipFile is close enough


def _published_at_ms(line: bytes) -> int | None:
    try:
        stamp = msgspec.json.decode(line, type=_Stamp).published_at
        return round(datetime.fromisoformat(stamp).timestamp() * 1000) if stamp else None
    except (*UNDECODABLE, ValueError, OverflowError):
        return None
