"""The database: SQLite (WAL) or PostgreSQL, one schema, every write idempotent, every driver's error one of ours."""

from monitor.store.rows import (
    AttemptMark,
    ClaimedDelivery,
    Counts,
    ReceiverState,
    StoredAnchor,
    StoredBucket,
    StoredDeadLetter,
    StoredDecision,
    StoredDelivery,
    StoredFeedHour,
    StoredMark,
    StoredOperatorAlert,
    StoredPartition,
    StoredShares,
    StoredSilence,
    StoredTransition,
    WaitingStep,
)
from monitor.store.store import Store
from monitor.store.watching import PAGER, WATCHKEEPER, WatchTransaction, delivery_id

__all__ = [
    "PAGER",
    "WATCHKEEPER",
    "AttemptMark",
    "ClaimedDelivery",
    "Counts",
    "ReceiverState",
    "Store",
    "StoredAnchor",
    "StoredBucket",
    "StoredDeadLetter",
    "StoredDecision",
    "StoredDelivery",
    "StoredFeedHour",
    "StoredMark",
    "StoredOperatorAlert",
    "StoredPartition",
    "StoredShares",
    "StoredSilence",
    "StoredTransition",
    "WaitingStep",
    "WatchTransaction",
    "delivery_id",
]
