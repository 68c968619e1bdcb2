"""One HTTP try: to the checked addresses, within limits of time and size, without redirects.

httpcore2 does HTTP and TLS; where to connect and for how long is decided here, below it. A limit on each read would let a
receiver that sends a byte now and then hold a try for ever, so everything from the name's lookup to the last byte shares
one deadline. Proxies that the environment names are not used: they would go wherever they like.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpcore2

from monitor.delivery.guard import Lookup, Target, resolve, system_lookup
from monitor.delivery.receivers import Receiver
from monitor.delivery.signing import signed_headers
from monitor.errors import Fatal, Rejectable, Retryable

_BODY_BYTES_MAX = 65_536
_TOO_SLOW = (httpcore2.TimeoutException, TimeoutError)
_BROKEN = (httpcore2.NetworkError, httpcore2.ProtocolError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a try. `status` None: no HTTP answer; `refused`: we may not go there at all."""

    status: int | None
    detail: str
    retry_after: str | None = None
    refused: bool = False


class WebhookReceiver:
    """Sends to one receiver. The body that comes back is counted and thrown away. Raises Fatal for a bad `ca_file`."""

    def __init__(self, receiver: Receiver, *, lookup: Lookup = system_lookup) -> None:
        self.receiver = receiver
        self._lookup = lookup
        self._trust = _trust(receiver.ca_file)

    @property
    def name(self) -> str:
        return self.receiver.name

    @property
    def timeout_s(self) -> float:
        return self.receiver.timeout_s

    def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
        """Never raises for what the world does; the answer says it."""
        receiver = self.receiver
        deadline = Deadline(receiver.timeout_s)
        try:
            target = resolve(
                receiver.url,
                allow_http=receiver.allow_http,
                allow_private=receiver.allow_private,
                allow_networks=receiver.allow_networks,
                lookup=lambda host, port: _in_time(self._lookup, host, port, deadline),
            )
        except Rejectable as err:
            return Answer(status=None, detail=str(err), refused=True)
        except Retryable as err:
            return Answer(status=None, detail=str(err))
        headers = {
            "host": target.authority,
            "content-type": "application/json",
            "user-agent": "tapewatch",
            **signed_headers(receiver.secrets, message_id=message_id, timestamp_s=now_s, body=body),
        }
        try:
            return self._post(target, headers, body, deadline)
        except _TOO_SLOW:
            return Answer(status=None, detail=f"{target.host}: no answer within {receiver.timeout_s:g} s")
        except _BROKEN as err:
            return Answer(status=None, detail=f"{target.host}: {_named(err)}")

    def _post(self, target: Target, headers: Mapping[str, str], body: bytes, deadline: Deadline) -> Answer:
        pool = httpcore2.ConnectionPool(
            ssl_context=self._trust, network_backend=_Pinned(target.addresses, deadline), max_connections=1
        )
        url = httpcore2.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        with pool, pool.stream("POST", url, headers=list(headers.items()), content=body) as answer:
            told = {name.lower(): value for name, value in answer.headers}
            try:
                read = 0
                for chunk in answer.iter_stream():
                    read += len(chunk)
                    if read > _BODY_BYTES_MAX:
                        break
            except (*_TOO_SLOW, *_BROKEN):
                pass  # the status is known; a flood, a drip or a torn body takes nothing from it
            return Answer(
                status=answer.status,
                detail=f"{target.host}: HTTP {answer.status}",
                retry_after=told.get(b"retry-after", b"").decode("latin-1") or None,
            )


class Deadline:
    """One budget of seconds for everything that a try does."""

    def __init__(self, seconds: float) -> None:
        self._give_up_s = time.monotonic() + seconds

    def left_s(self) -> float:
        """Raises TimeoutError when nothing is left."""
        left = self._give_up_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the checked addresses, whichever answers first in their order, whatever name is asked for."""

    def __init__(self, addresses: tuple[str, ...], deadline: Deadline) -> None:
        self._addresses, self._deadline = addresses, deadline
        self._real = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """A silent address takes its share of the time, not all of it."""
        for number, address in enumerate(self._addresses):
            share_s = self._deadline.left_s() / (len(self._addresses) - number)
            try:
                stream = self._real.connect_tcp(address, port, timeout=share_s, socket_options=socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if number + 1 == len(self._addresses):
                    raise
                continue
            return _Timed(stream, self._deadline)
        raise httpcore2.ConnectError("no address")


class _Timed(httpcore2.NetworkStream):
    """A stream whose every step ends by the deadline, however little each of them takes."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout=self._deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=self._deadline.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _in_time(lookup: Lookup, host: str, port: int, deadline: Deadline) -> Sequence[str]:
    """A resolver can't be told how long to try, so it is left behind. Raises TimeoutError, or what the lookup raised."""
    found: list[Sequence[str] | Exception] = []

    def ask() -> None:
        try:
            found.append(lookup(host, port))
        except Exception as err:  # noqa: BLE001 - raised again below, where somebody waits for it
            found.append(err)

    thread = threading.Thread(target=ask, name="lookup", daemon=True)
    thread.start()
    thread.join(deadline.left_s())
    if not found:
        raise TimeoutError
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _named(err: BaseException) -> str:
    """What broke, without the peer's own words; of a certificate, what is wrong with it."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return type(err).__name__


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities, or only those of `ca_file`."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as err:
        raise Fatal(f"receivers: ca_file {ca_file}: can't be read as PEM certificates ({type(err).__name__})") from err
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
