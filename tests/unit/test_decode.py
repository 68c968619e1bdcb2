"""Decoding: a message is usable or it is refused with a reason; nothing in between."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import Rejectable
from monitor.intake import DecodeLimits, decode, encode
from monitor.records import Document, Place

PLACE = Place(topic="news", partition=3, offset=41)
GOOD: dict[str, Any] = {
    "id": "1",
    "source": "wire",
    "channel": "news",
    "published_at": "2026-01-02T03:04:05.678Z",
    "title": "Acme raises outlook",
}


def read(value: bytes | None, headers: list[tuple[str, bytes]] | None = None) -> Document:
    return decode(value, headers or [], channel="news", place=PLACE, limits=DecodeLimits())


def refused(value: bytes | None) -> str:
    with pytest.raises(Rejectable, match=r"news/3@41") as caught:
        read(value)
    return caught.value.reason


def test_a_good_message_keeps_what_we_do_not_know() -> None:
    document = read(json.dumps({**GOOD, "symbols": ["ACM"], "desk": {"id": 7}}).encode())
    assert document.published_at_ms == 1_767_323_045_678
    assert document.symbols == ("ACM",)
    assert document.extra == {"desk": {"id": 7}}
    assert read(encode(document)) == document


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"x" * 300_000, "too_large"),
        (b"\xff{}", "not_utf8"),
        (b"\xed\xa0\x80", "not_utf8"),
        (b"{", "not_json"),
        (b"NaN", "not_json"),
        (b"[1]", "not_an_object"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "too_deep"),
    ],
)
def test_bytes_that_are_no_message_are_refused(value: bytes | None, reason: str) -> None:
    assert refused(value) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "missing_field"),
        ({"id": " "}, "missing_field"),
        ({"id": 5}, "wrong_type"),
        ({"title": ["x"]}, "wrong_type"),
        ({"title": "  "}, "blank"),
        ({"title": "x" * 20_001}, "text_too_long"),
        ({"channel": "social"}, "wrong_channel"),
        ({"published_at": "2026-01-02T03:04:05"}, "bad_time"),
        ({"published_at": "2026-02-30T03:04:05Z"}, "bad_time"),
        ({"published_at": "0001-01-01T00:00:00+23:59"}, "bad_time"),
        ({"published_at": "yesterday"}, "bad_time"),
        ({"symbols": "ACM"}, "wrong_type"),
        ({"symbols": ["A"] * 101}, "too_large"),
        ({"author_followers": -1}, "wrong_type"),
        ({"author_followers": True}, "wrong_type"),
    ],
)
def test_a_field_that_would_be_believed_wrongly_is_refused(change: dict[str, Any], reason: str) -> None:
    assert refused(json.dumps({**GOOD, **change}).encode()) == reason


def test_cloud_events_headers_fill_what_the_object_lacks() -> None:
    value = json.dumps({"title": "Acme raises outlook"}).encode()
    headers = [("ce_id", b"9"), ("ce_source", b"wire"), ("ce_time", b"2026-01-02T03:04:05Z")]
    document = read(value, headers)
    assert (document.id, document.source, document.published_at_ms) == ("9", "wire", 1_767_323_045_000)


def test_brackets_inside_strings_are_not_nesting() -> None:
    assert read(json.dumps({**GOOD, "title": "[" * 50, "extra": [1]}).encode()).title == "[" * 50


@given(st.binary(max_size=300))
def test_no_bytes_escape_as_anything_but_a_refusal(value: bytes) -> None:
    with pytest.raises(Rejectable):
        read(value)
