"""The three fates of a failure; everything tapewatch raises on purpose is one of them.

`Retryable`: the world is not ready (broker, database, receiver): log, wait longer each time, try again.
`Rejectable`: this one input can't be used: quarantine it with bytes, place and reason, and go on.
`Fatal`: the call or the configuration is wrong: one clear line, exit code 2.
"""

from __future__ import annotations


class TapewatchError(Exception):
    """Base of all; its text is one line that names file, key or message and says what to do."""


class Retryable(TapewatchError):
    """The same attempt may work later."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Rejectable(TapewatchError):
    """This input will never work. `reason` is a short stable code, safe as a metric label."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Fatal(TapewatchError):
    """Nobody but the operator can help; `faults` lists every fault found, one line each."""

    def __init__(self, message: str, *, faults: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults or (message,)


class NotNow(Retryable):
    """Nothing is wrong with what was done: only this must be said again a little later."""


class Fenced(Retryable):
    """Another process owns this partition now: drop what is in flight, write nothing."""
