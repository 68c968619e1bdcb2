"""The seed, the clock and the moments at which something may go wrong."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, fields

TRACE_LINES = 400


class Crash(BaseException):
    """The process is gone at this very step, as after SIGKILL: nothing of it runs any more, no `except Exception` sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How likely each thing is, each time it could happen."""

    crash: float = 0.008
    overtaken: float = 0.02
    stalled: float = 0.01
    stalled_before_writing: float = 0.05
    broker_away: float = 0.01
    slow_partition: float = 0.2
    redelivery: float = 0.15
    publish_fails: float = 0.03
    publish_fails_written: float = 0.03
    publish_late: float = 0.03
    offset_commit_fails: float = 0.03
    offset_commit_ambiguous: float = 0.03
    database_away: float = 0.01
    commit_fails: float = 0.04
    commit_ambiguous: float = 0.04
    webhook_fails: float = 0.15
    webhook_fails_accepted: float = 0.1
    webhook_gone: float = 0.01

    @classmethod
    def none(cls) -> Faults:
        return cls(**{field.name: 0.0 for field in fields(cls)})


class SimClock:
    """Wall time may jump, monotonic time only goes forward, and nothing but the world moves either."""

    def __init__(self, start_ms: int) -> None:
        self._elapsed_ms = 0
        self._start_ms, self.offset_ms = start_ms, 0

    def now_ms(self) -> int:
        return self.true_ms() + self.offset_ms

    def true_ms(self) -> int:
        """What a clock that nobody touched would say: documents are published by it."""
        return self._start_ms + self._elapsed_ms

    def monotonic_s(self) -> float:
        return self._elapsed_ms / 1000

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "monotonic time does not run backwards"
        self._elapsed_ms += round(seconds * 1000)


class World:
    """The one source of chance. `meanwhile` is set by the simulation: it lets another process act."""

    def __init__(self, seed: int, *, faults: Faults, start_ms: int) -> None:
        self.rng = random.Random(seed)
        self.clock = SimClock(start_ms)
        self.faults = faults
        self.faulty = True
        self.happened: Counter[str] = Counter()
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self.surprises: list[str] = []
        self.in_transaction = False
        self._nested = False

    def may(self, fault: str) -> bool:
        """Does it happen now? Never once the world is being repaired."""
        if not self.faulty or self.rng.random() >= getattr(self.faults, fault):
            return False
        self.happened[fault] += 1
        self.note(f"    ! {fault}")
        return True

    def step(self, name: str, what: str, *, stalled: str = "stalled") -> None:
        """A process is about to call, or has just called, one of its ports."""
        if not self.faulty:
            return
        if self.may("crash"):
            raise Crash(f"{name}: {what}")
        if self._nested or self.in_transaction:
            return
        if self.may(stalled):
            self._let(lambda: self.stall(name))
        elif self.may("overtaken"):
            self._let(lambda: self.meanwhile(name))

    def note(self, line: str) -> None:
        self.trace.append(line)

    def meanwhile(self, name: str) -> None:
        """Somebody else does something while `name` is in the middle of its turn."""

    def stall(self, name: str) -> None:
        """`name` stands still past its session: others take over and work; then it goes on, and does not know."""

    def _let(self, act) -> None:  # type: ignore[no-untyped-def]
        self._nested = True
        try:
            act()
        finally:
            self._nested = False
