"""Every metric there is: name, kind, unit and meaning in one place. Label values come from closed sets, never from input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_LABEL_VALUES_MAX = 64
_LABEL_CHARS_MAX = 120
M = TypeVar("M", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the catalogue; the unit is the last part of the name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    label: str | None = None
    buckets: tuple[float, ...] = ()


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CATALOGUE: tuple[Metric, ...] = (
    Metric(name="score_documents_total", kind="counter", meaning="Messages read from the raw topics."),
    Metric(name="score_unlinked_total", kind="counter", meaning="Documents that name no company of the watchlist."),
    Metric(name="score_mentions_total", kind="counter", meaning="Mentions judged and published."),
    Metric(name="score_dead_letters_total", kind="counter", meaning="Messages quarantined.", label="reason"),
    Metric(name="score_batch_seconds", kind="histogram", meaning="Time of the model for one batch.", buckets=_SECONDS),
    Metric(name="score_queue_documents", kind="gauge", meaning="Documents that wait for the model."),
    Metric(name="score_paused", kind="gauge", meaning="1 while the source is paused because the queue is full."),
    Metric(
        name="watch_mentions_total",
        kind="counter",
        meaning="Mentions written, by their fate in event time.",
        label="fate",
    ),
    Metric(name="watch_duplicates_total", kind="counter", meaning="Mentions delivered again and ignored."),
    Metric(name="watch_dead_letters_total", kind="counter", meaning="Dead letters written to their table."),
    Metric(name="watch_transitions_total", kind="counter", meaning="Steps of alerts' lives.", label="change"),
    Metric(
        name="watch_brigades_total",
        kind="counter",
        meaning="Brigades that began: many new accounts saying nearly the same.",
    ),
    Metric(name="watch_brigade_accounts_total", kind="counter", meaning="Accounts that took part in brigades."),
    Metric(
        name="watch_transaction_seconds",
        kind="histogram",
        meaning="Time of one database transaction.",
        buckets=_SECONDS,
    ),
    Metric(
        name="watch_watermark_seconds", kind="gauge", meaning="Event time reached, epoch seconds.", label="partition"
    ),
    Metric(name="paging_messages_total", kind="counter", meaning="Messages decided on, by why.", label="reason"),
    Metric(name="paging_silent_total", kind="counter", meaning="Steps of alerts not told, by why.", label="reason"),
    Metric(
        name="operator_troubles",
        kind="gauge",
        meaning="Dead feeds, lag and degraded scoring that operators were told of and that last.",
        label="trouble",
    ),
    Metric(name="deliver_attempts_total", kind="counter", meaning="Webhook tries, by outcome.", label="outcome"),
    Metric(name="deliver_oldest_pending_seconds", kind="gauge", meaning="Age of the oldest delivery that waits."),
    Metric(name="lag_messages", kind="gauge", meaning="Messages between our position and the end.", label="partition"),
    Metric(
        name="held_partitions",
        kind="gauge",
        meaning="Partitions that are not read until an operator acts: tapewatch offsets list.",
        label="reason",
    ),
    Metric(name="retries_total", kind="counter", meaning="Times a loop waited because the world was not ready."),
    Metric(
        name="heartbeat_seconds", kind="gauge", meaning="When a part was last seen alive, epoch seconds.", label="part"
    ),
)


class Metrics:
    """The catalogue as Prometheus metrics, with a registry of its own. Unknown names are our bug."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._metrics = {metric.name: (metric, _make(metric, self._registry)) for metric in CATALOGUE}
        self._values: dict[str, set[str]] = {}

    def count(self, name: str, amount: float = 1.0, label: str | None = None) -> None:
        self._child(name, label, Counter).inc(amount)

    def gauge(self, name: str, value: float, label: str | None = None) -> None:
        self._child(name, label, Gauge).set(value)

    def observe(self, name: str, value: float) -> None:
        self._child(name, None, Histogram).observe(value)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

    def _child(self, name: str, label: str | None, kind: type[M]) -> M:
        metric, made = self._metrics[name]
        assert isinstance(made, kind), f"{name} is a {metric.kind}"
        assert (metric.label is None) == (label is None), f"{name}: label {metric.label!r} and value {label!r}"
        if label is None:
            return made
        label = label[:_LABEL_CHARS_MAX]
        seen = self._values.setdefault(name, set())
        if label not in seen and len(seen) >= _LABEL_VALUES_MAX:
            label = "other"  # input can't blow up the number of series
        seen.add(label)
        return made.labels(label)


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    labels = [metric.label] if metric.label else []
    name = f"tapewatch_{metric.name}"
    if metric.kind == "counter":
        return Counter(name, metric.meaning, labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(name, metric.meaning, labels, registry=registry)
    return Histogram(name, metric.meaning, labels, registry=registry, buckets=metric.buckets)
