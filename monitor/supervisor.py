"""All roles on one machine: one process each, started again when it dies, stopped together.

A role that ends with exit code 2 says that its call or configuration is wrong: starting it again would not help, so
everything stops and the supervisor says the same. Any other end is answered with a restart after a growing pause. A role
that gives no sign of life is killed and started again, as a service manager would: it speaks the same protocol to us.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from monitor.clock import Clock
from monitor.telemetry import Notifier, NotifyListener

log = structlog.get_logger()
EXIT_GOOD, EXIT_FAILED, EXIT_WRONG = 0, 1, 2
_PR_SET_PDEATHSIG = 1
_MANAGER = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}


class Process(Protocol):
    """What the supervisor needs of a child."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, signal: int, /) -> None: ...
    def kill(self) -> None: ...


class Spawn(Protocol):
    """Starts a child from its command line, with `extra` in its environment."""

    def __call__(self, command: Sequence[str], extra: Mapping[str, str], /) -> Process: ...


def _die_with_parent() -> None:
    """Linux: the kernel ends a role when its supervisor dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(
    command: Sequence[str], extra: Mapping[str, str] | None = None, *, environ: Mapping[str, str] | None = None
) -> Process:
    """A child in a session of its own, so that Ctrl-C reaches the supervisor alone and everything ends in order.

    Our own service manager is ours: a child hears of it only what `extra` says.
    """
    inherited = {name: value for name, value in (environ or os.environ).items() if name not in _MANAGER}
    return subprocess.Popen(  # noqa: S603 - the caller's own command line
        command,
        env={**inherited, **(extra or {})},
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call, no locks taken
        start_new_session=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Pauses double from `pause_s` to `pause_max_s`; a child that lived `healthy_s` starts afresh.

    A child that was ready and has given no sign of life for `watchdog_s` is killed; None: nobody watches. One that began
    to reload and is not ready again within `reload_s` is killed as well: while it reloads it gives no signs.
    """

    pause_s: float = 1.0
    pause_max_s: float = 30.0
    healthy_s: float = 60.0
    poll_s: float = 0.2
    watchdog_s: float | None = None
    reload_s: float = 300.0


@dataclass(slots=True, kw_only=True)
class _Child:
    command: Sequence[str]
    process: Process | None = None
    started_s: float = 0.0
    pause_s: float = 0.0
    start_at_s: float = 0.0
    restarts: int = field(default=0)
    listener: NotifyListener | None = None
    ready: bool = False
    alive_s: float = 0.0
    reloading_since_s: float | None = None


class Supervisor:
    """`run` returns an exit code when `stop` is set or when a role can't be helped.

    `notifier` hears READY when every role is ready, and signs of life as long as we tend them.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        clock: Clock,
        drain_s: float,
        policy: RestartPolicy | None = None,
        spawn: Spawn = spawn,
        notifier: Notifier | None = None,
    ) -> None:
        self._policy = policy or RestartPolicy()
        self._clock, self._drain_s, self._spawn = clock, drain_s, spawn
        self._notifier, self._told_ready, self._told_s = notifier or Notifier(None), False, clock.monotonic_s()
        self._folder = tempfile.TemporaryDirectory(prefix="tapewatch-") if self._policy.watchdog_s else None
        self._children = {
            name: _Child(command=command, pause_s=self._policy.pause_s) for name, command in commands.items()
        }

    def run(self, stop: threading.Event, *, between: Callable[[], None] = lambda: None) -> int:
        """Keep every role running; `between` is called at each round. Drains all of them before it returns, whatever the
        reason."""
        try:
            while not stop.is_set():
                for name, child in self._children.items():
                    if self._tend(name, child) == EXIT_WRONG:
                        return EXIT_WRONG
                self._tell()
                between()
                stop.wait(self._policy.poll_s)
            return EXIT_GOOD
        finally:
            self._notifier.stopping()
            self.stop_all()
            for child in self._children.values():
                if child.listener is not None:
                    child.listener.close()
            if self._folder is not None:
                self._folder.cleanup()

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
                child.process, child.started_s = self._spawn(child.command, self._heard(name, child)), now_s
            return None
        code = child.process.poll()
        if code is None:
            self._watch(name, child, now_s)
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

    def _heard(self, name: str, child: _Child) -> dict[str, str]:
        """What a child must know to be heard; each start is heard afresh."""
        child.ready, child.reloading_since_s = False, None
        if self._folder is None or self._policy.watchdog_s is None:
            return {}
        if child.listener is not None:
            child.listener.close()
        child.listener = NotifyListener(Path(self._folder.name) / name)
        return child.listener.environ(self._policy.watchdog_s)

    def _watch(self, name: str, child: _Child, now_s: float) -> None:
        """Kill a child that was ready and has gone silent, or whose reload does not end; its end is then like any other."""
        if child.listener is None or child.process is None or self._policy.watchdog_s is None:
            return
        told = child.listener.received()
        if told:
            child.alive_s = now_s
        if "READY" in told:
            child.ready, child.reloading_since_s = True, None
            log.info("role.ready", role=name)
        elif "RELOADING" in told:
            child.ready, child.reloading_since_s = False, now_s
        if child.ready and now_s - child.alive_s > self._policy.watchdog_s:
            log.error("role.hung", role=name, silent_s=round(now_s - child.alive_s, 1))
            child.process.kill()
        elif child.reloading_since_s is not None and now_s - child.reloading_since_s > self._policy.reload_s:
            log.error("role.hung", role=name, reloading_s=round(now_s - child.reloading_since_s, 1))
            child.process.kill()

    def _tell(self) -> None:
        if not self._told_ready and all(child.ready for child in self._children.values()):
            self._notifier.ready()
            self._told_ready = True
        now_s = self._clock.monotonic_s()
        if self._notifier.watchdog_s is not None and now_s - self._told_s >= self._notifier.watchdog_s / 4:
            self._notifier.watchdog()
            self._told_s = now_s
