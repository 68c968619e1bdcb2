"""What crosses rooms: frozen, keyword-only structs. Facts in the past tense, times in epoch milliseconds UTC.

Offsets always count Unicode code points of `Document.text`, the original text, never of the cleaned one.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal

import msgspec

Channel = Literal["news", "social"]
Direction = Literal["negative", "positive"]
AlertKind = Literal["tone", "burst", "drift", "divergence"]
LABELS: tuple[str, str, str] = ("negative", "neutral", "positive")

# What the decoder raises for bytes that are no such record; RecursionError for JSON that is nested too deeply.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all records. None can refer to itself, so the collector of cycles need not look at millions of them."""


class Place(Record, frozen=True, kw_only=True):
    """Where in Kafka a message lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


class Progress(Record, frozen=True, kw_only=True):
    """How far `score` is in the raw topics. Times in milliseconds of the monotonic clock.

    `settled`: raw partition ("news/2") → until when all that was sent to it is worked off, 0 while that is not known.
    `spoken`: those that hold or held a message. `since_ms`: from when on the broker has answered without a break; while it
    does not answer, that is now. `asked_ms`: when the newest answer was asked for; None: there was none yet.
    """

    settled: Mapping[str, int] = {}
    spoken: frozenset[str] = frozenset()
    since_ms: int = 0
    asked_ms: int | None = None


class Document(Record, frozen=True, kw_only=True):
    """One decoded message of topic `news` or `social`. `id` is unique per source."""

    id: str
    source: str
    channel: Channel
    published_at_ms: int
    title: str
    body: str | None = None
    url: str | None = None
    lang: str | None = None
    author: str | None = None
    author_followers: int | None = None
    symbols: tuple[str, ...] = ()
    extra: Mapping[str, Any] = {}

    @property
    def key(self) -> str:
        """Unique over all sources."""
        return f"{self.source}:{self.id}"

    @property
    def text(self) -> str:
        """The original text that offsets refer to: title, then body on a line of its own."""
        return f"{self.title}\n{self.body}" if self.body else self.title


class Span(Record, frozen=True, kw_only=True):
    """Half-open range of code points in the original text."""

    start: int
    end: int


class LinkedEntity(Record, frozen=True, kw_only=True):
    """An entity that a document mentions. `spans` is empty when only the source's `symbols` name it.

    `cue` is the strongest reason: cashtag | ticker | name | alias | symbol.
    """

    entity: str
    spans: tuple[Span, ...]
    cue: str


class Evidence(Record, frozen=True, kw_only=True):
    """The words that carry a judgement."""

    start: int
    end: int
    quote: str


class ScoredMention(Record, frozen=True, kw_only=True):
    """One judged mention, the value of topic `mentions` (JSON, key = entity)."""

    id: str
    entity: str
    document: str
    source: str
    channel: Channel
    published_at_ms: int
    text: str
    author: str | None = None
    author_followers: int | None = None
    url: str | None = None
    spans: tuple[Span, ...] = ()
    cue: str = "name"
    probabilities: tuple[float, float, float]
    polarity: float
    evidence: tuple[Evidence, ...] = ()
    topic: str | None = None
    events: tuple[str, ...] = ()
    abstained: bool = False
    model: str
    scored_at_ms: int

    @property
    def label(self) -> str:
        best = max(range(3), key=self.probabilities.__getitem__)
        return LABELS[best]


def mention_id(document_key: str, entity: str) -> str:
    """Deterministic: the same document and entity give the same id on every delivery."""
    return sha256(f"{document_key}\x1f{entity}".encode()).hexdigest()[:32]


class DeadLetter(Record, frozen=True, kw_only=True):
    """A message that could not be used, with everything needed to understand and to replay it."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    reason: str
    detail: str
    failed_at_ms: int


class AlertEvidence(Record, frozen=True, kw_only=True):
    """One story for or against an alert."""

    document: str
    quote: str
    polarity: float
    weight: float
    source: str
    published_at: str
    url: str | None = None
    copies: int = 1


class Alert(Record, frozen=True, kw_only=True):
    """The alert line of alerts.jsonl and the `data` of a webhook. Times are RFC 3339; the contract of design.md."""

    id: str
    entity: str
    kind: AlertKind
    direction: Direction
    opened_at: str
    resolved_at: str | None
    severity: Literal["low", "medium", "high", "critical"]
    p_value: float
    polarity: float
    effective_n: float
    raw_n: int
    baseline: Mapping[str, Any]
    evidence: tuple[AlertEvidence, ...]
    counter_evidence: tuple[AlertEvidence, ...]
    flip_margin: float
    model: str
    rule: str
    name: str | None = None
    brief: str = ""
    details: Mapping[str, Any] = {}


class Voices(Record, frozen=True, kw_only=True):
    """Sums of a window, in units of one voice; `polarity` is the sum of weight × polarity."""

    total: float
    negative: float
    positive: float
    polarity: float


class Notice(Record, frozen=True, kw_only=True):
    """Something about an entity that the operator is told and that is no alert. One per kind, entity, channel and `since_ms`;
    a later one replaces it. So many
    accounts, the voices that they were worth, and the first post."""

    kind: Literal["brigade"]
    entity: str
    channel: Channel
    since_ms: int
    last_ms: int
    accounts: int
    voices: float
    document: str
    text: str


class AlertTransition(Record, frozen=True, kw_only=True):
    """A step of an alert's life, kept for ever and sent to receivers: `change` and the reason enum's value."""

    alert: Alert
    change: Literal["opened", "updated", "resolved"]
    reason: str
    at_ms: int


class Suppression(Record, frozen=True, kw_only=True):
    """A signal that was loud enough and opened no alert: kept, so that it can be shown why it stayed silent."""

    entity: str
    kind: AlertKind
    direction: Direction
    reason: str
    at_ms: int
    score: float
    needed: float
    voices: float
