"""Signatures after Standard Webhooks (standardwebhooks.com, specification 1.0): HMAC-SHA256 over id.timestamp.body. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256

from monitor.errors import Fatal

_PREFIX = "whsec_"


def sign(secret: str, *, message_id: str, timestamp_s: int, body: bytes) -> str:
    """`v1,` and the signature in base64. Raises Fatal when the secret is not one."""
    mac = hmac.new(_key(secret), f"{message_id}.{timestamp_s}.".encode() + body, sha256)
    return f"v1,{base64.b64encode(mac.digest()).decode()}"


def signed_headers(secrets: Sequence[str], *, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers of one try; one signature a secret, so that a receiver may change over at its leisure."""
    signatures = (sign(secret, message_id=message_id, timestamp_s=timestamp_s, body=body) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join(signatures),
    }


def verify(
    secrets: Sequence[str], headers: dict[str, str], body: bytes, *, now_s: int, tolerance_s: int = 300
) -> str | None:
    """The message id when a signature holds and the try is fresh; None otherwise."""
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (stamp.isascii() and stamp.isdigit()) or abs(now_s - int(stamp)) > tolerance_s or not message_id:
        return None
    wanted = [sign(secret, message_id=message_id, timestamp_s=int(stamp), body=body) for secret in secrets]
    given = headers.get("webhook-signature", "").split()
    held = any(hmac.compare_digest(one, other) for one in wanted for other in given)
    return message_id if held else None


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as err:
        raise Fatal("receiver secret: not base64 after whsec_; make one with 24 to 64 random bytes") from err
    if len(key) < 16:
        raise Fatal("receiver secret: shorter than 16 bytes; make one with 24 to 64 random bytes")
    return key
