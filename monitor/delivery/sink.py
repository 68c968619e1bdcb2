"""A receiver of our own for the demo and for tests: verifies every signature as a careful user's would."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from monitor.delivery.signing import verify

_BODY_BYTES_MAX = 4_194_304


class WebhookSink:
    """Listens on loopback. `on_message(id, body)` gets what was signed rightly; its status, if any, is the answer."""

    def __init__(
        self, *, secrets: Sequence[str], on_message: Callable[[str, Mapping[str, Any]], int | None], port: int = 0
    ) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(tuple(secrets), on_message))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="sink", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> WebhookSink:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _handler(
    secrets: tuple[str, ...], on_message: Callable[[str, Mapping[str, Any]], int | None]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(min(length, _BODY_BYTES_MAX))
            headers = {name.lower(): value for name, value in self.headers.items()}
            message_id = verify(secrets, headers, body, now_s=int(time.time()))
            status = 401 if message_id is None else on_message(message_id, json.loads(body)) or 204
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            """Quiet: the callback tells."""

    return Handler
