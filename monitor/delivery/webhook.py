"""One HTTP try: to the checked address, within limits of time and size, without redirects."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from monitor.delivery.guard import Lookup, Target, resolve, system_lookup
from monitor.delivery.receivers import Receiver
from monitor.delivery.signing import signed_headers
from monitor.errors import Rejectable, Retryable

_BODY_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a try. `status` None: no HTTP answer; `refused`: we may not go there at all."""

    status: int | None
    detail: str
    retry_after: str | None = None
    refused: bool = False


class WebhookReceiver:
    """Sends to one receiver. The body that comes back is counted and thrown away."""

    def __init__(self, receiver: Receiver, *, lookup: Lookup = system_lookup) -> None:
        self.receiver = receiver
        self._lookup = lookup

    @property
    def name(self) -> str:
        return self.receiver.name

    def send(self, message_id: str, body: bytes, *, now_s: int) -> Answer:
        """Never raises for what the world does; the answer says it."""
        receiver = self.receiver
        try:
            target = resolve(
                receiver.url, allow_http=receiver.allow_http, allow_private=receiver.allow_private, lookup=self._lookup
            )
        except Rejectable as err:
            return Answer(status=None, detail=str(err), refused=True)
        except Retryable as err:
            return Answer(status=None, detail=str(err))
        headers = {
            "content-type": "application/json",
            "user-agent": "tapewatch",
            **signed_headers(receiver.secrets, message_id=message_id, timestamp_s=now_s, body=body),
        }
        try:
            return self._post(target, headers, body)
        except httpx2.HTTPError as err:
            return Answer(status=None, detail=f"{target.host}: {type(err).__name__}")

    def _post(self, target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
        host = f"[{target.address}]" if ":" in target.address else target.address
        standard = {"https": 443, "http": 80}[target.scheme] == target.port
        give_up_s = time.monotonic() + self.receiver.timeout_s
        with (
            httpx2.Client(timeout=self.receiver.timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "POST",
                f"{target.scheme}://{host}:{target.port}{target.path}",
                content=body,
                headers={**headers, "host": target.host if standard else f"{target.host}:{target.port}"},
                extensions={"sni_hostname": target.host},
            ) as answer,
        ):
            read = 0
            for chunk in answer.iter_raw():
                read += len(chunk)
                if read > _BODY_BYTES_MAX or time.monotonic() > give_up_s:
                    break  # the status is known; a flood or a drip is not worth waiting for
            return Answer(
                status=answer.status_code,
                detail=f"{target.host}: HTTP {answer.status_code}",
                retry_after=answer.headers.get("retry-after"),
            )
