"""The service manager's protocol (sd_notify(3)): datagrams to a socket that the environment names. Without one, silence.

Written here, since it is a line of text to a socket: READY when everything has started, WATCHDOG only while every part is
fresh, RELOADING and STOPPING as they begin. `NotifyListener` is the other side, for a supervisor of our own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from monitor.clock import Clock
from monitor.telemetry.health import Health

_DATAGRAM_BYTES_MAX = 4_096


class Notifier:
    """`watchdog_s`: how long the manager waits for a sign of life; None when it does not watch."""

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        self._address, self.watchdog_s = address, watchdog_s

    @classmethod
    def of(cls, environ: Mapping[str, str], *, pid: int) -> Notifier:
        """As the environment of process `pid` says."""
        address = environ.get("NOTIFY_SOCKET")
        microseconds, watched = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(pid))
        watchdog_s = int(microseconds) / 1e6 if microseconds.isdigit() and watched == str(pid) else None
        return cls(address, watchdog_s=watchdog_s or None)

    def ready(self) -> None:
        self._tell("READY=1")

    def watchdog(self) -> None:
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def reloading(self, now_s: float) -> None:
        """`now_s` of the monotonic clock: the manager tells by it which READY belongs to this reload."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={round(now_s * 1e6)}")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        # An abstract socket is written with @ and meant with NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A manager that does not listen any more is no reason to stop working.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.settimeout(1.0)
            out.sendto(text.encode(), address)


class Caretaker:
    """Tells the manager of a role's health: READY once, then a sign of life as long as no part is stuck."""

    def __init__(self, notifier: Notifier, health: Health, clock: Clock) -> None:
        self._notifier, self._health, self._clock = notifier, health, clock
        self._every_s = min(1.0, (notifier.watchdog_s or 4.0) / 4)
        self._told_ready = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def tend(self) -> None:
        """One look. A part that has not started yet keeps back READY; one that is stuck keeps back the sign of life."""
        now_s = self._clock.monotonic_s()
        if not self._told_ready and not self._health.faults(now_s):
            self._notifier.ready()
            self._told_ready = True
        if self._told_ready and not self._health.faults(now_s, alive_only=True):
            self._notifier.watchdog()

    def start(self) -> Caretaker:
        self._thread.start()
        return self

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.tend()


class NotifyListener:
    """Receives what one child tells; `received` never waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def environ(self, watchdog_s: float) -> dict[str, str]:
        """What the child's environment must say to be heard here."""
        return {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": str(round(watchdog_s * 1e6))}

    def received(self) -> set[str]:
        """The names that were told since the last call: READY, WATCHDOG, …"""
        told: set[str] = set()
        with suppress(BlockingIOError):
            while True:
                text = self._socket.recv(_DATAGRAM_BYTES_MAX).decode("utf-8", "replace")
                told |= {line.partition("=")[0] for line in text.splitlines()}
        return told

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)
