"""Which topic the offsets of a group belong to."""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('anchors',
    sa.Column('consumer_group', sa.Text(), nullable=False),
    sa.Column('topic', sa.Text(), nullable=False),
    sa.Column('partition', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('topic_id', sa.Text(), nullable=False),
    sa.Column('anchored_at_ms', sa.BigInteger(), nullable=False),
    sa.Column('accepted_next', sa.BigInteger(), nullable=True),
    sa.Column('refused_reason', sa.Text(), nullable=True),
    sa.Column('refused_detail', sa.Text(), nullable=True),
    sa.Column('refused_at_ms', sa.BigInteger(), nullable=True),
    sa.PrimaryKeyConstraint('consumer_group', 'topic', 'partition', name=op.f('pk_anchors'))
    )
