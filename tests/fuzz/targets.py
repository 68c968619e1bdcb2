"""One function a room: bytes in, promises checked, nothing else raised. Shared by both fuzzers."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache

from monitor.delivery import Answer, DeliveryPolicy, Outcome, decide
from monitor.errors import Rejectable
from monitor.intake import DecodeLimits, clean, decode, encode
from monitor.linking import Linker, Watchlist
from monitor.linking.watchlist import Company
from monitor.records import Document, Place

PLACE = Place(topic="news", partition=0, offset=0)
LIMITS = DecodeLimits()
REASONS = {
    "empty",
    "too_large",
    "not_utf8",
    "not_json",
    "too_deep",
    "not_an_object",
    "missing_field",
    "wrong_type",
    "bad_time",
    "wrong_channel",
    "text_too_long",
    "blank",
}
DETAIL_CHARS_MAX = 1_000
CLEAN_CHARS_MAX = 4_000
# NFKC makes at most eighteen characters of one (U+FDFA); an entity is longer than what it stands for.
GROWTH_MAX = 18


def decoder(data: bytes) -> None:
    """A document within the limits that survives encoding, or a refusal with a known reason and a short text."""
    headers = tuple((name, data[-8:]) for name in ("ce_id", "ce_source", "ce_time"))
    document = _decoded(data, headers)
    if isinstance(document, Rejectable):
        assert document.reason in REASONS, document.reason
        assert len(str(document)) <= DETAIL_CHARS_MAX, "a refusal must not carry the message"
        return
    assert len(document.text) <= 2 * LIMITS.text_chars_max + 1
    assert len(document.id) <= LIMITS.identifier_chars_max
    assert len(document.symbols) <= LIMITS.symbols_max
    encoded = encode(document)
    if len(encoded) <= LIMITS.message_bytes_max and not document.extra:
        assert decode(encoded, (), channel="news", place=PLACE, limits=LIMITS) == document


def cleaner(data: bytes) -> None:
    """Bounded, idempotent, and every character leads back to the original."""
    text = data.decode("utf-8", "surrogatepass" if data[:1] == b"s" else "replace") if _decodes(data) else ""
    cleaned = clean(text, chars_max=CLEAN_CHARS_MAX)
    assert len(cleaned.text) <= GROWTH_MAX * min(len(text), CLEAN_CHARS_MAX)
    assert len(cleaned.starts) == len(cleaned.ends) == len(cleaned.text)
    assert list(cleaned.starts) == sorted(cleaned.starts)
    assert all(0 <= start < end <= len(text) for start, end in zip(cleaned.starts, cleaned.ends, strict=True))
    again = clean(cleaned.text, chars_max=GROWTH_MAX * CLEAN_CHARS_MAX)
    assert again.text == cleaned.text, (text, cleaned.text, again.text)


def linker(data: bytes) -> None:
    """At most 32 companies, each span inside the text and of the words it names."""
    text = data.decode("utf-8", "replace")
    symbols = tuple(text.split()[:3])
    entities = _linker().link(text, symbols=symbols, channel="social" if data[:1] == b"$" else "news")
    assert len(entities) <= 32
    for entity in entities:
        assert entity.spans or entity.cue == "symbol", entity
        assert all(0 <= span.start < span.end <= len(text) for span in entity.spans), entity


def whole_way(data: bytes) -> None:
    """Decoder, linker and cleaner one after the other, as score does it."""
    document = _decoded(data, ())
    if isinstance(document, Rejectable):
        return
    _linker().link(document.text, symbols=document.symbols, channel=document.channel)
    clean(document.text)


def answers(data: bytes) -> None:
    """Whatever a receiver answers, the next try has a time within a day, or there is none for a stated reason."""
    policy = DeliveryPolicy()
    status = int.from_bytes(data[:2], "big") % 1_000
    retry_after = data[2:].decode("latin-1")
    now_ms = 1_800_000_000_000
    decision = decide(
        Answer(status=status, detail="fuzz", retry_after=retry_after),
        attempts=1 + len(data),
        first_attempt_at_ms=now_ms,
        now_ms=now_ms,
        policy=policy,
        rng=random.Random(0),
    )
    assert decision.outcome in Outcome
    if decision.retry_at_ms is not None:
        longest_s = max(policy.pause_max_s, policy.retry_after_max_s)
        assert now_ms < decision.retry_at_ms <= now_ms + 1000 * longest_s, (status, retry_after)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder,
    "cleaner": cleaner,
    "linker": linker,
    "whole_way": whole_way,
    "answers": answers,
}


def _decoded(data: bytes, headers: tuple[tuple[str, bytes], ...]) -> Document | Rejectable:
    try:
        return decode(data, headers, channel="news", place=PLACE, limits=LIMITS)
    except Rejectable as err:
        return err


def _decodes(data: bytes) -> bool:
    if data[:1] != b"s":
        return True
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


@lru_cache
def _linker() -> Linker:
    companies = (
        Company(symbol="AAPL", name="Apple Inc.", aliases=("Apple",)),
        Company(symbol="T", name="AT&T Inc.", aliases=("AT&T",)),
        Company(symbol="AIG", name="American International Group", aliases=("AIG",)),
        Company(symbol="F", name="Ford Motor Company", aliases=("Ford",)),
        Company(symbol="BRK.B", name="Berkshire Hathaway Inc. (Class B)", aliases=("Berkshire",)),
        Company(symbol="GPS", name="Gap Inc.", aliases=("The Gap",)),
        Company(symbol="SAN", name="Señor Straße AG"),
    )
    return Linker(Watchlist(companies=companies, fingerprint="fuzz"))
