"""Paging: messages carry their own type and data; decisions, silences, acknowledgements, suppressions.

What waits in the outbox goes on as it is. Alerts that were open before are not told again: their steps count as decided.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0001"
branch_labels = None
depends_on = None

_STEPS = ["alert_id", "sequence"]
_DATA = """
UPDATE outbox SET event = 'alert.' || change,
  at_ms = (SELECT s.at_ms FROM alert_transitions s WHERE s.alert_id = outbox.alert_id AND s.sequence = outbox.sequence),
  payload = (SELECT s.payload FROM alert_transitions s WHERE s.alert_id = outbox.alert_id AND s.sequence = outbox.sequence)
"""
_DECIDED = """
INSERT INTO paging_decisions (alert_id, sequence, at_ms, verdict, reason, page_id)
SELECT s.alert_id, s.sequence, s.at_ms, 'told', s.change, s.alert_id FROM alert_transitions s
"""


def upgrade() -> None:
    op.add_column("outbox", sa.Column("event", sa.Text()))
    op.add_column("outbox", sa.Column("at_ms", sa.BigInteger()))
    op.add_column("outbox", sa.Column("payload", sa.LargeBinary()))
    op.execute(_DATA)
    with op.batch_alter_table("outbox") as outbox:
        outbox.alter_column("event", existing_type=sa.Text(), nullable=False)
        outbox.alter_column("at_ms", existing_type=sa.BigInteger(), nullable=False)
        outbox.alter_column("payload", existing_type=sa.LargeBinary(), nullable=False)
        outbox.drop_constraint("fk_outbox_alert_transitions", type_="foreignkey")
    op.create_table(
        "paging_decisions",
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("page_id", sa.Text()),
        sa.Column("silence_id", sa.BigInteger()),
        sa.Column("decided_at_ms", sa.BigInteger()),
        sa.CheckConstraint(
            "verdict IN ('waiting', 'pending', 'told', 'digested', 'silent')", name=op.f("ck_paging_decisions_verdict")
        ),
        sa.ForeignKeyConstraint(
            _STEPS,
            [f"alert_transitions.{column}" for column in _STEPS],
            name=op.f("fk_paging_decisions_alert_transitions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(*_STEPS, name=op.f("pk_paging_decisions")),
    )
    op.create_index(op.f("ix_paging_decisions_verdict_at_ms"), "paging_decisions", ["verdict", "at_ms"])
    op.execute(_DECIDED)
    op.create_table(
        "paging_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_paging_state")),
    )
    op.create_table(
        "silences",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("starts_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expired_at_ms", sa.BigInteger()),
        sa.Column("expired_by", sa.Text()),
        sa.Column("entity", sa.Text()),
        sa.Column("sector", sa.Text()),
        sa.Column("kind", sa.Text()),
        sa.Column("direction", sa.Text()),
        sa.Column("severity_max", sa.Text(), nullable=False),
        sa.Column("days", sa.Text()),
        sa.Column("start_minute", sa.Integer()),
        sa.Column("until_minute", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silences")),
    )
    op.create_index(op.f("ix_silences_ends_at_ms"), "silences", ["ends_at_ms"])
    op.create_table(
        "acknowledgements",
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alert_id"], ["alerts.id"], name=op.f("fk_acknowledgements_alerts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("alert_id", name=op.f("pk_acknowledgements")),
    )
    op.create_table(
        "suppressions",
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("needed", sa.Float(), nullable=False),
        sa.Column("voices", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("entity", "direction", "reason", "at_ms", name=op.f("pk_suppressions")),
    )
    op.create_index(op.f("ix_suppressions_at_ms"), "suppressions", ["at_ms"])
