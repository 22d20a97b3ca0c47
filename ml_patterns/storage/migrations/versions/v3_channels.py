"""What each channel was told of the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates the table of deliveries per channel."""
    op.create_table(
        "registry_outbox_deliveries",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("notification_id", _ID, nullable=False),
        sa.Column("claimed_until", _TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("delivered_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["notification_id"], ["registry_outbox.id"]),
        sa.PrimaryKeyConstraint("channel", "notification_id"),
        if_not_exists=True,
    )
