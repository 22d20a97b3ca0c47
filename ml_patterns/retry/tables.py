"""Operational tables of this room."""

import sqlalchemy as sa

from ml_patterns.storage.operational import metadata

retry_budget = sa.Table(
    "retry_budget",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("minute", sa.BigInteger, primary_key=True, comment="Minutes since 1970, UTC."),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("retries", sa.BigInteger, nullable=False),
)
"""What the fleet asked for in a minute, and how often it asked again."""
