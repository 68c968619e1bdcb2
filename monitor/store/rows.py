"""What the store hands out: frozen facts, and the small protocols of what it takes from other rooms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from monitor.records import Alert, AlertKind, AlertTransition, Channel, DeadLetter, Direction, Record

Topic = Literal["alerts", "operator"]
Severity = Literal["low", "medium", "high", "critical"]
DeliveryStatus = Literal["pending", "delivered", "failed", "disabled"]
AlertStatus = Literal["open", "resolved"]


class Bucket(Protocol):
    """Absolute sums of one closed bucket, as the windows room makes them."""

    @property
    def entity(self) -> str: ...
    @property
    def channel(self) -> Channel: ...
    @property
    def start_ms(self) -> int: ...
    @property
    def raw_n(self) -> int: ...
    @property
    def effective_n(self) -> float: ...
    @property
    def negative(self) -> float: ...
    @property
    def neutral(self) -> float: ...
    @property
    def positive(self) -> float: ...
    @property
    def polarity_sum(self) -> float: ...
    @property
    def polarity_sq_sum(self) -> float: ...


class Subscriber(Protocol):
    """A receiver as the store sees it: a name, and which alerts it wants to hear of."""

    @property
    def name(self) -> str: ...
    def wants(self, alert: Alert, /) -> bool: ...
    def hears(self, topic: Topic, severity: Severity, /) -> bool: ...


class PageMessage(Protocol):
    """A message of the pager: `alert` stands for the page, or `body` is a digest's own."""

    @property
    def page(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def event(self) -> str: ...
    @property
    def change(self) -> str: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def severity(self) -> Severity: ...
    @property
    def alert(self) -> Alert | None: ...
    @property
    def body(self) -> Mapping[str, Any] | None: ...


class OperatorAlert(PageMessage, Protocol):
    """A message about a trouble of the service itself."""

    @property
    def trouble(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Decision(Protocol):
    """What became of a step of an alert."""

    @property
    def alert(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def verdict(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def page(self) -> str: ...
    @property
    def silence(self) -> int | None: ...


class StoredAnchor(Record, frozen=True, kw_only=True):
    """One row of `anchors`: `refused_*` while the partition is held, `accepted_next` until the role has gone on there."""

    consumer_group: str
    topic: str
    partition: int
    topic_id: str
    anchored_at_ms: int
    accepted_next: int | None
    refused_reason: str | None
    refused_detail: str | None
    refused_at_ms: int | None


class StoredBucket(Record, frozen=True, kw_only=True):
    """One row of `buckets`."""

    entity: str
    channel: Channel
    start_ms: int
    raw_n: int
    effective_n: float
    negative: float
    neutral: float
    positive: float
    polarity_sum: float
    polarity_sq_sum: float


class StoredPartition(Record, frozen=True, kw_only=True):
    """Where a partition stands: the next offset to read, and the state that its entities share."""

    topic: str
    partition: int
    next: int
    watermark_ms: int | None
    state: bytes


class StoredTransition(Record, frozen=True, kw_only=True):
    """A step of an alert's life and the alert as it was then."""

    sequence: int
    change: str
    reason: str
    at_ms: int
    alert: Alert


class WaitingStep(Record, frozen=True, kw_only=True):
    """A step of an alert's life that nobody has decided about."""

    transition: AlertTransition
    sequence: int


class StoredMark(Record, frozen=True, kw_only=True):
    """How far a partition has come."""

    partition: int
    next: int
    watermark_ms: int | None


class StoredFeedHour(Record, frozen=True, kw_only=True):
    """Mentions of one source in one hour of event time; the newest of them, and when that was heard."""

    channel: Channel
    source: str
    hour: int
    mentions: int
    newest_ms: int
    seen_at_ms: int


class StoredShares(Record, frozen=True, kw_only=True):
    """Sums over a stretch of wall time."""

    mentions: int
    abstained: int
    other_engine: int
    dead_letters: int


class StoredOperatorAlert(Record, frozen=True, kw_only=True):
    """A step of a trouble of the service itself."""

    id: str
    sequence: int
    trouble: str
    subject: str
    change: str
    reason: str
    at_ms: int


class StoredDecision(Record, frozen=True, kw_only=True):
    """What became of a step of an alert: told or not, and why."""

    alert_id: str
    sequence: int
    at_ms: int
    verdict: str
    reason: str
    page_id: str | None
    silence_id: int | None
    decided_at_ms: int | None


class StoredSilence(Record, frozen=True, kw_only=True):
    """One row of `silences`; `days` and minutes (UTC) make it a mute time."""

    id: int
    author: str
    reason: str
    created_at_ms: int
    starts_at_ms: int
    ends_at_ms: int
    expired_at_ms: int | None
    expired_by: str | None
    entity: str | None
    sector: str | None
    kind: AlertKind | None
    direction: Direction | None
    severity_max: Severity
    days: str | None
    start_minute: int | None
    until_minute: int | None


class StoredDeadLetter(Record, frozen=True, kw_only=True):
    """A quarantined message and its number for `tapewatch dead-letters replay`."""

    id: int
    letter: DeadLetter
    replayed_at_ms: int | None


class ReceiverState(Record, frozen=True, kw_only=True):
    """What is remembered of a receiver between tries."""

    name: str
    disabled_at_ms: int | None = None
    disabled_reason: str | None = None
    open_until_ms: int | None = None
    consecutive_failures: int = 0


class ClaimedDelivery(Record, frozen=True, kw_only=True):
    """A message that this worker alone may send until its lease ends. `event` is its type, `alert_json` its data.

    `lease_until_ms` is told by the database's clock, which is nobody else's.
    """

    id: str
    alert_id: str
    sequence: int
    receiver: str
    event: str
    change: str
    at_ms: int
    alert_json: bytes
    attempts: int
    first_attempt_at_ms: int | None
    lease_until_ms: int


class StoredDelivery(Record, frozen=True, kw_only=True):
    """One row of the outbox as people see it."""

    id: str
    alert_id: str
    sequence: int
    receiver: str
    change: str
    status: DeliveryStatus
    attempts: int
    created_at_ms: int
    next_attempt_at_ms: int
    delivered_at_ms: int | None
    last_error: str | None


class Counts(Record, frozen=True, kw_only=True):
    """Rows by kind, for summaries."""

    mentions: int
    alerts: int
    open_alerts: int
    deliveries: int
    pending_deliveries: int
    failed_deliveries: int
    dead_letters: int


def storable(text: str) -> str:
    """Text that both databases can hold: PostgreSQL knows no NUL, UTF-8 no lone surrogate."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


class AttemptMark(NamedTuple):
    """Everything before offset `reach` may be in hand; so many processes in a row died before they had passed such a mark."""

    reach: int
    deaths: int = 0
