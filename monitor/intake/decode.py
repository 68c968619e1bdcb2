"""One Kafka message to one `Document`, or a `Rejectable` that says what is wrong with it. Pure.

Strict where a mistake would be believed (encoding, types, time), lenient where nothing can go wrong (null optional
fields, fields we don't know, which are kept).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec

from monitor.clock import to_rfc3339
from monitor.errors import Rejectable
from monitor.records import UNDECODABLE, Channel, Document, Place

Headers = Sequence[tuple[str, bytes]]

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_OPTIONAL_TEXTS = ("body", "url", "lang", "author")
_KNOWN = {"id", "source", "channel", "published_at", "title", "author_followers", "symbols", *_OPTIONAL_TEXTS}
_EARLIEST_MS = -2_208_988_800_000  # 1900-01-01: older is a broken clock, not news


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What a message may cost us before it is refused."""

    message_bytes_max: int = 262_144
    depth_max: int = 16
    text_chars_max: int = 20_000
    identifier_chars_max: int = 512
    symbols_max: int = 100


def decode(value: bytes | None, headers: Headers, *, channel: Channel, place: Place, limits: DecodeLimits) -> Document:
    """Decode a message of the topic that carries `channel`.

    CloudEvents headers in binary mode (`ce_id`, `ce_source`, `ce_time`) fill what the JSON lacks. Raises Rejectable;
    its reason: empty | too_large | not_utf8 | not_json | too_deep | not_an_object | missing_field | wrong_type |
    bad_time | wrong_channel | text_too_long | blank.
    """
    return _Fields(_parse(value, place, limits), headers, place, limits).document(channel)


def encode(document: Document) -> bytes:
    """The message that `decode` reads back to an equal document."""
    fields: dict[str, Any] = dict(document.extra)
    fields |= {
        "id": document.id,
        "source": document.source,
        "channel": document.channel,
        "published_at": to_rfc3339(document.published_at_ms),
        "title": document.title,
    }
    optional = {name: getattr(document, name) for name in (*_OPTIONAL_TEXTS, "author_followers")}
    fields |= {name: value for name, value in optional.items() if value is not None}
    if document.symbols:
        fields["symbols"] = document.symbols
    return msgspec.json.encode(fields)


def _parse(value: bytes | None, place: Place, limits: DecodeLimits) -> dict[str, Any]:
    if not value:
        _refuse(place, "empty", "the message has no value")
    if len(value) > limits.message_bytes_max:
        _refuse(place, "too_large", f"{len(value)} bytes, at most {limits.message_bytes_max} are read")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as err:
        _refuse(place, "not_utf8", f"byte {err.start} is not UTF-8")
    if _depth(value) > limits.depth_max:
        _refuse(place, "too_deep", f"nested deeper than {limits.depth_max}")
    try:
        fields = msgspec.json.decode(text)
    except UNDECODABLE as err:
        _refuse(place, "not_json", f"not JSON: {str(err)[:120]}")
    if not isinstance(fields, dict):
        _refuse(place, "not_an_object", f"a JSON {type(fields).__name__} where an object is expected")
    return fields


def _depth(value: bytes) -> int:
    """Deepest nesting of brackets outside strings, without recursion; the fast path is a count."""
    opened = value.count(b"[") + value.count(b"{")
    if opened <= 2:
        return opened
    depth = deepest = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', value, re.DOTALL):
        first = token.group()[0]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def _refuse(place: Place, reason: str, detail: str) -> NoReturn:
    raise Rejectable(f"{place}: {detail}", reason=reason)


class _Fields:
    """The object's fields, taken one by one with their checks."""

    def __init__(self, fields: dict[str, Any], headers: Headers, place: Place, limits: DecodeLimits) -> None:
        self._fields, self._place, self._limits = fields, place, limits
        self._cloud_event = {name.lower(): value for name, value in headers if name.lower().startswith("ce_")}

    def document(self, channel: Channel) -> Document:
        limits = self._limits
        said = self._fields.get("channel")
        if said is not None and said != channel:
            _refuse(self._place, "wrong_channel", f"channel is {str(said)[:40]!r} on a topic of {channel!r}")
        title = self._text("title", limits.text_chars_max)
        body = self._optional("body", limits.text_chars_max)
        if not title.strip() and not (body and body.strip()):
            _refuse(self._place, "blank", "field 'title' is blank and there is no body")
        optional = {name: self._optional(name, limits.text_chars_max) for name in _OPTIONAL_TEXTS if name != "body"}
        return Document(
            id=self._identifier("id", "ce_id"),
            source=self._identifier("source", "ce_source"),
            channel=channel,
            published_at_ms=self._time(),
            title=title,
            body=body,
            author_followers=self._followers(),
            symbols=self._symbols(),
            extra={name: value for name, value in self._fields.items() if name not in _KNOWN},
            **optional,
        )

    def _identifier(self, name: str, header: str) -> str:
        if self._fields.get(name) is None and header in self._cloud_event:
            self._fields[name] = self._header(header)
        value = self._text(name, self._limits.identifier_chars_max)
        if not value.strip():
            _refuse(self._place, "missing_field", f"field {name!r} is blank")
        return value

    def _header(self, header: str) -> str:
        try:
            return self._cloud_event[header].decode("utf-8")
        except UnicodeDecodeError:
            _refuse(self._place, "not_utf8", f"header {header!r} is not UTF-8")

    def _text(self, name: str, chars_max: int) -> str:
        value = self._fields.get(name)
        if value is None:
            _refuse(self._place, "missing_field", f"field {name!r} is missing")
        if not isinstance(value, str):
            _refuse(self._place, "wrong_type", f"field {name!r} is a {type(value).__name__}, not a string")
        if len(value) > chars_max:
            _refuse(self._place, "text_too_long", f"field {name!r} has {len(value)} characters, at most {chars_max}")
        return value

    def _optional(self, name: str, chars_max: int) -> str | None:
        return None if self._fields.get(name) is None else self._text(name, chars_max)

    def _followers(self) -> int | None:
        value = self._fields.get("author_followers")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            _refuse(self._place, "wrong_type", "field 'author_followers' is not a count")
        return int(value)

    def _symbols(self) -> tuple[str, ...]:
        value = self._fields.get("symbols")
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            _refuse(self._place, "wrong_type", "field 'symbols' is not a list of strings")
        if len(value) > self._limits.symbols_max:
            _refuse(self._place, "too_large", f"field 'symbols' has {len(value)} entries")
        return tuple(value)

    def _time(self) -> int:
        if self._fields.get("published_at") is None and "ce_time" in self._cloud_event:
            self._fields["published_at"] = self._header("ce_time")
        text = self._text("published_at", 64)
        if not _RFC3339.fullmatch(text):
            _refuse(self._place, "bad_time", f"field 'published_at' is not RFC 3339 with an offset: {text[:40]!r}")
        try:
            moment = datetime.fromisoformat(text.upper().replace("Z", "+00:00")).astimezone(UTC)
        except (ValueError, OverflowError):
            _refuse(self._place, "bad_time", f"field 'published_at' is no such time: {text[:40]!r}")
        epoch_ms = _epoch_ms(moment)
        if epoch_ms < _EARLIEST_MS:
            _refuse(self._place, "bad_time", f"field 'published_at' is before 1900: {text[:40]!r}")
        return epoch_ms


def _epoch_ms(moment: datetime) -> int:
    """Whole milliseconds by integer arithmetic; a float would lose some."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000
