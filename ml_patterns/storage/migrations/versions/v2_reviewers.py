"""Reviewers' tokens, for the review pages."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates the table of tokens."""
    op.create_table(
        "registry_reviewer_tokens",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token_hash"),
        if_not_exists=True,
    )
    op.create_index(
        "registry_reviewer_tokens_of_a_reviewer",
        "registry_reviewer_tokens",
        ["reviewer"],
        if_not_exists=True,
    )
