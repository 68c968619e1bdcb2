"""The small port of every role: /metrics for Prometheus, /healthz (alive) and /readyz (working) with reasons."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from monitor.clock import Clock, WallSteps
from monitor.errors import Fatal
from monitor.telemetry.health import Health
from monitor.telemetry.metrics import Metrics


class TelemetryServer:
    """Serves on a thread until `close`. Port 0 takes any free one; `port` says which."""

    def __init__(self, *, host: str, port: int, key: str, metrics: Metrics, health: Health, clock: Clock) -> None:
        """`key` names the setting, for the error when the port is taken."""
        steps = WallSteps(clock)
        routes: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", metrics.exposition()),
            "/healthz": lambda: _answer(health, clock, steps, alive_only=True),
            "/readyz": lambda: _answer(health, clock, steps, alive_only=False),
        }
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(routes))
        except OSError as err:
            raise Fatal(f"{key} = {port}: can't listen on {host}:{port} ({err.strerror}); choose another port") from err
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(health: Health, clock: Clock, steps: WallSteps, *, alive_only: bool) -> tuple[int, str, bytes]:
    now_s, step_s = clock.monotonic_s(), steps.step_s()
    faults = health.faults(now_s, alive_only=alive_only)
    if step_s and not alive_only:
        faults.append(
            f"clock: the wall clock was set by {step_s:+.0f} s while we run; if that is right, it is believed in an hour"
        )
    body = {
        "ok": not faults,
        "faults": faults,
        "degraded": health.degraded,
        "seconds_since": health.ages_s(now_s),
    }
    return (503 if faults else 200), "application/json", json.dumps(body).encode()


def _handler(routes: dict[str, Callable[[], tuple[int, str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            route = routes.get(self.path.split("?")[0])
            status, kind, body = route() if route else (404, "text/plain", b"/metrics /healthz /readyz\n")
            with suppress(ConnectionError):  # who asked did not wait for the answer: no news either
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """Scrapes are not news."""

    return Handler
