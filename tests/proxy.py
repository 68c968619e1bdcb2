"""A TCP proxy on loopback that breaks connections as networks do: reset, half-open, slow, or cut at a COMMIT."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from enum import StrEnum

_COMMIT = b"COMMIT\x00"  # as PostgreSQL's simple query protocol has it


class Cut(StrEnum):
    """Where a connection is cut when COMMIT goes through it."""

    BEFORE = "before"  # the database never hears of it: it rolls back
    AFTER = "after"  # the database commits, and its answer is lost: the ambiguous commit


class FaultProxy:
    """Forwards until told otherwise. What was cut or silenced stays so; new connections work again."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._cuts: list[Cut] = []
        self.delay_s = 0.0
        self.counts: Counter[str] = Counter()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def reset(self) -> int:
        """Every connection ends at once with RST."""
        return self._each("reset", _Pair.reset)

    def half_open(self) -> int:
        """Every connection stays open and nothing goes through it any more, as after a cable was pulled."""
        return self._each("half_open", _Pair.silence)

    def cut_commits(self, cuts: list[Cut]) -> None:
        """The next COMMITs, whoever sends them, are cut in this order."""
        with self._lock:
            self._cuts += cuts

    @property
    def cuts_left(self) -> int:
        with self._lock:
            return len(self._cuts)

    def close(self) -> None:
        self._listener.close()
        self.reset()

    def next_cut(self, data: bytes) -> Cut | None:
        if _COMMIT not in data:
            return None
        with self._lock:
            cut = self._cuts.pop(0) if self._cuts else None
        if cut is not None:
            self.counts[f"commit_cut_{cut}"] += 1
        return cut

    def _each(self, what: str, act: object) -> int:
        assert callable(act)
        with self._lock:
            pairs, self._pairs = self._pairs, []
        alive = [pair for pair in pairs if not pair.dead]
        for pair in alive:
            act(pair)
        self.counts[what] += len(alive)
        return len(alive)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = _Pair(self, client, server)
            with self._lock:
                self._pairs = [known for known in self._pairs if not known.dead]
                self._pairs.append(pair)
            pair.start()


class _Pair:
    """One client's connection and ours to the server, a thread for each direction."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._silent = False
        self._lose_answer = False
        self.dead = False

    def start(self) -> None:
        for act in (self._forth, self._back):
            threading.Thread(target=self._pump, args=(act,), daemon=True).start()

    def reset(self) -> None:
        self.dead = True
        for end in (self._client, self._server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def silence(self) -> None:
        """The server's end is closed, as its keepalive would in time; the client is told nothing."""
        self._silent = self.dead = True
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)

    def _pump(self, act: object) -> None:
        assert callable(act)
        try:
            while act():
                pass
        except OSError:
            pass
        if not self._silent:
            self.dead = True
            for end in (self._client, self._server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _forth(self) -> bool:
        data = self._client.recv(65_536)
        if not data:
            return False
        if self._silent:
            return True
        if self._proxy.delay_s:
            time.sleep(self._proxy.delay_s)
        cut = self._proxy.next_cut(data)
        if cut is Cut.BEFORE:
            self.reset()
            return False
        self._lose_answer = cut is Cut.AFTER
        self._server.sendall(data)
        return True

    def _back(self) -> bool:
        data = self._server.recv(65_536)
        if not data or self._silent:
            return False
        if self._lose_answer:  # the answer is here, so the database has done it
            self.reset()
            return False
        self._client.sendall(data)
        return True
