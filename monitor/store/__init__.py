"""The database: SQLite (WAL) or PostgreSQL, one schema, every write idempotent, every driver's error one of ours."""

from monitor.store.rows import (
    ClaimedDelivery,
    Counts,
    ReceiverState,
    StoredAnchor,
    StoredBucket,
    StoredDeadLetter,
    StoredDelivery,
    StoredPartition,
    StoredTransition,
)
from monitor.store.store import Store
from monitor.store.watching import WatchTransaction, delivery_id

__all__ = [
    "ClaimedDelivery",
    "Counts",
    "ReceiverState",
    "Store",
    "StoredAnchor",
    "StoredBucket",
    "StoredDeadLetter",
    "StoredDelivery",
    "StoredPartition",
    "StoredTransition",
    "WatchTransaction",
    "delivery_id",
]
