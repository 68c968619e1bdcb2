"""The schema, once, for SQLite and PostgreSQL. Times are epoch milliseconds; payloads are JSON bytes.

Uniqueness carries the promise "nothing twice": a mention, a transition, a delivery and a dead letter each have a key that
a replay computes again. Change a table here and add a migration; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for INTEGER PRIMARY KEY.
RowId = BigInteger().with_variant(Integer(), "sqlite")

mentions = Table(
    "mentions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("entity", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("author", Text),
    Column("published_at_ms", BigInteger, nullable=False),
    Column("polarity", Float, nullable=False),
    Column("label", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index(None, "entity", "published_at_ms"),
    Index(None, "partition", "published_at_ms"),
    Index(None, "published_at_ms"),
)

buckets = Table(
    "buckets",
    metadata,
    Column("entity", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("raw_n", BigInteger, nullable=False),
    Column("effective_n", Float, nullable=False),
    Column("negative", Float, nullable=False),
    Column("neutral", Float, nullable=False),
    Column("positive", Float, nullable=False),
    Column("polarity_sum", Float, nullable=False),
    Column("polarity_sq_sum", Float, nullable=False),
    Index(None, "start_ms"),
)

entity_states = Table(
    "entity_states",
    metadata,
    Column("entity", Text, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Index(None, "partition"),
)

partition_states = Table(
    "partition_states",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next", BigInteger, nullable=False),
    Column("watermark_ms", BigInteger),
    Column("state", LargeBinary, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("entity", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("resolved_at_ms", BigInteger),
    Column("severity", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    CheckConstraint("status IN ('open', 'resolved')", name="status"),
    Index(None, "entity", "opened_at_ms"),
    Index(None, "opened_at_ms"),
)

alert_transitions = Table(
    "alert_transitions",
    metadata,
    Column("alert_id", Text, ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("change", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    UniqueConstraint("alert_id", "change", "at_ms"),
)

# `alert_id` is the thread that a message belongs to: an alert, a digest or an operator alert. Messages of one thread go out in
# the order of `sequence`, which counts what was told, not the alert's own steps.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("alert_id", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("change", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_attempt_at_ms", BigInteger),
    Column("next_attempt_at_ms", BigInteger, nullable=False),
    Column("last_error", Text),
    Column("delivered_at_ms", BigInteger),
    Column("lease_owner", Text),
    Column("lease_until_ms", BigInteger),
    CheckConstraint("status IN ('pending', 'delivered', 'failed', 'disabled')", name="status"),
    UniqueConstraint("alert_id", "receiver", "sequence"),
    Index(None, "receiver", "status", "next_attempt_at_ms"),
)

# One row a step of an alert, written with the step: `waiting` until the pager has decided.
paging_decisions = Table(
    "paging_decisions",
    metadata,
    Column("alert_id", Text, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("page_id", Text),
    Column("silence_id", BigInteger),
    Column("decided_at_ms", BigInteger),
    ForeignKeyConstraint(
        ["alert_id", "sequence"], ["alert_transitions.alert_id", "alert_transitions.sequence"], ondelete="CASCADE"
    ),
    CheckConstraint("verdict IN ('waiting', 'pending', 'told', 'digested', 'silent')", name="verdict"),
    Index(None, "verdict", "at_ms"),
)

paging_state = Table(
    "paging_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

silences = Table(
    "silences",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("starts_at_ms", BigInteger, nullable=False),
    Column("ends_at_ms", BigInteger, nullable=False),
    Column("expired_at_ms", BigInteger),
    Column("expired_by", Text),
    Column("entity", Text),
    Column("sector", Text),
    Column("kind", Text),
    Column("direction", Text),
    Column("severity_max", Text, nullable=False),
    Column("days", Text),
    Column("start_minute", Integer),
    Column("until_minute", Integer),
    Index(None, "ends_at_ms"),
)

acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("alert_id", Text, ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

suppressions = Table(
    "suppressions",
    metadata,
    Column("entity", Text, primary_key=True),
    Column("direction", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("needed", Float, nullable=False),
    Column("voices", Float, nullable=False),
    Index(None, "at_ms"),
)

notices = Table(
    "notices",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("entity", Text, primary_key=True),
    Column("channel", Text, primary_key=True),
    Column("since_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("last_ms", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index(None, "last_ms"),
)

# What was heard of each source: mentions by hour of event time, and when the newest came. Per partition, so that no two
# processes write the same row.
feed_hours = Table(
    "feed_hours",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("channel", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("mentions", BigInteger, nullable=False),
    Column("newest_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
    Index(None, "hour"),
)

# How results came in, in slots of five minutes of wall time.
intake_slots = Table(
    "intake_slots",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("slot_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("mentions", BigInteger, nullable=False),
    Column("abstained", BigInteger, nullable=False),
    Column("other_engine", BigInteger, nullable=False),
    Column("dead_letters", BigInteger, nullable=False),
    Index(None, "slot_ms"),
)

operator_alerts = Table(
    "operator_alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("trouble", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("change", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index(None, "at_ms"),
)

receivers = Table(
    "receivers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("disabled_at_ms", BigInteger),
    Column("disabled_reason", Text),
    Column("open_until_ms", BigInteger),
    Column("consecutive_failures", Integer, nullable=False),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("failed_at_ms", BigInteger, nullable=False),
    Column("replayed_at_ms", BigInteger),
    UniqueConstraint("topic", "partition", "offset"),
    Index(None, "failed_at_ms"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
)

reaches = Table(
    "reaches",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text, nullable=False),
    Column("reach", BigInteger, nullable=False),
    Column("deaths", Integer, nullable=False),
)

# Which topic (by the broker's id) the offsets of a group belong to, and what is refused until an operator accepts it.
anchors = Table(
    "anchors",
    metadata,
    Column("consumer_group", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("topic_id", Text, nullable=False),
    Column("anchored_at_ms", BigInteger, nullable=False),
    Column("accepted_next", BigInteger),
    Column("refused_reason", Text),
    Column("refused_detail", Text),
    Column("refused_at_ms", BigInteger),
)

# Over how many partitions the entities of a topic are spread: each one's history stays in its own for ever.
spreads = Table(
    "spreads",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partitions", Integer, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
)
