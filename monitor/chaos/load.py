"""The load: the sample stream round after round, each with ids of its own and later times."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import msgspec

from monitor.clock import to_rfc3339
from monitor.demo.stream import DemoMessage, demo_messages
from monitor.records import UNDECODABLE

START_MS = 1_780_272_000_000  # 2026-06-01: the stream's own calendar
ROUND_MS = 48 * 3_600_000


def endless(seed: int) -> Iterator[DemoMessage]:
    """Never the same document twice: what arrives twice was sent twice by us, not by the stream."""
    number = 0
    while True:
        for place, message in enumerate(demo_messages(seed + number, start_ms=START_MS + number * ROUND_MS)):
            yield DemoMessage(
                topic=message.topic,
                # What is no document has no id: its key tells it apart, should the sender have to send it again.
                key=b"malformed-%d-%d" % (number, place) if message.kind == "malformed" else message.key,
                value=_renamed(message.value, number),
                at_ms=message.at_ms,
                kind=message.kind,
            )
        number += 1


def opening(partition: str) -> bytes:
    """A document that names no company. Event time runs a thousand times faster here than any clock: that a partition
    speaks must be known before it says something that counts."""
    told = {
        "id": f"opening-{partition}",
        "source": "load",
        "published_at": to_rfc3339(START_MS),
        "title": "Good morning",
    }
    return msgspec.json.encode(told)


def own_names(what: str) -> dict[str, str]:
    """Environment for topics and groups that nobody else uses, so that a broker in use is not disturbed."""
    mark = f"{what}-{secrets.token_hex(3)}"
    topics = {name: f"{mark}-{name.replace('_', '-')}" for name in ("news", "social", "mentions", "dead_letters")}
    names = {f"TAPEWATCH_KAFKA__TOPIC_{name.upper()}": topic for name, topic in topics.items()}
    return names | {"TAPEWATCH_KAFKA__GROUP_PREFIX": mark}


def _renamed(value: bytes, number: int) -> bytes:
    """Each round's documents are documents of their own; what is no JSON object stays as it is."""
    try:
        body = msgspec.json.decode(value)
    except UNDECODABLE:
        return value
    if not isinstance(body, dict) or not isinstance(body.get("id"), str):
        return value
    return msgspec.json.encode(body | {"id": f"{number}-{body['id']}"})
