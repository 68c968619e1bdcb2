"""All roles on one machine: one process each, started again when it dies, stopped together.

A role that ends with exit code 2 says that its call or configuration is wrong: starting it again would not help, so
everything stops and the supervisor says the same. Any other end is answered with a restart after a growing pause.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from monitor.clock import Clock

log = structlog.get_logger()
EXIT_GOOD, EXIT_FAILED, EXIT_WRONG = 0, 1, 2
_PR_SET_PDEATHSIG = 1


class Process(Protocol):
    """What the supervisor needs of a child."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, signal: int, /) -> None: ...
    def kill(self) -> None: ...


class Spawn(Protocol):
    """Starts a child from its command line."""

    def __call__(self, command: Sequence[str], /) -> Process: ...


def _die_with_parent() -> None:
    """Linux: the kernel ends a role when its supervisor dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(command: Sequence[str], *, environ: Mapping[str, str] | None = None) -> Process:
    """A child in a session of its own, so that Ctrl-C reaches the supervisor alone and everything ends in order."""
    return subprocess.Popen(  # noqa: S603 - the caller's own command line
        command,
        env=environ,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call, no locks taken
        start_new_session=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Pauses double from `pause_s` to `pause_max_s`; a child that lived `healthy_s` starts afresh."""

    pause_s: float = 1.0
    pause_max_s: float = 30.0
    healthy_s: float = 60.0
    poll_s: float = 0.2


@dataclass(slots=True, kw_only=True)
class _Child:
    command: Sequence[str]
    process: Process | None = None
    started_s: float = 0.0
    pause_s: float = 0.0
    start_at_s: float = 0.0
    restarts: int = field(default=0)


class Supervisor:
    """`run` returns an exit code when `stop` is set or when a role can't be helped."""

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        clock: Clock,
        drain_s: float,
        policy: RestartPolicy | None = None,
        spawn: Spawn = spawn,
    ) -> None:
        self._policy = policy or RestartPolicy()
        self._clock, self._drain_s, self._spawn = clock, drain_s, spawn
        self._children = {
            name: _Child(command=command, pause_s=self._policy.pause_s) for name, command in commands.items()
        }

    def run(self, stop: threading.Event) -> int:
        """Keep every role running. Drains all of them before it returns, whatever the reason."""
        try:
            while not stop.is_set():
                for name, child in self._children.items():
                    if self._tend(name, child) == EXIT_WRONG:
                        return EXIT_WRONG
                stop.wait(self._policy.poll_s)
            return EXIT_GOOD
        finally:
            self.stop_all()

    def pids(self) -> dict[str, int]:
        """The running roles; the chaos test kills them by this."""
        return {n: c.process.pid for n, c in self._children.items() if c.process and c.process.poll() is None}

    def forward(self, number: signal.Signals) -> None:
        """Pass a signal on to every running role."""
        for child in self._children.values():
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)

    def stop_all(self) -> None:
        """SIGTERM, time to drain, then SIGKILL for what is left."""
        self.forward(signal.SIGTERM)
        give_up_s = self._clock.monotonic_s() + self._drain_s
        while self.pids() and self._clock.monotonic_s() < give_up_s:
            self._clock.sleep(0.05)
        for name, child in self._children.items():
            if child.process is not None and child.process.poll() is None:
                log.error("role.killed", role=name, drain_s=self._drain_s)
                child.process.kill()

    def _tend(self, name: str, child: _Child) -> int | None:
        """Look after one child; returns the exit code it has just ended with."""
        now_s = self._clock.monotonic_s()
        if child.process is None:
            if now_s >= child.start_at_s:
                child.process, child.started_s = self._spawn(child.command), now_s
            return None
        code = child.process.poll()
        if code is None:
            return None
        if now_s - child.started_s >= self._policy.healthy_s:
            child.pause_s = self._policy.pause_s
        child.process = None
        child.start_at_s = now_s + child.pause_s
        child.restarts += 1
        if code == EXIT_WRONG:
            log.error("role.refused", role=name, exit_code=code)
        else:
            log.warning("role.ended", role=name, exit_code=code, restarts=child.restarts, pause_s=child.pause_s)
        child.pause_s = min(child.pause_s * 2, self._policy.pause_max_s)
        return code
