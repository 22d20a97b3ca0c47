"""Operational tables of this room."""

import sqlalchemy as sa

from ml_patterns.storage.operational import UtcDateTime, metadata

breakers = sa.Table(
    "breakers",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False, comment="Grows with every transition."),
    sa.Column("failures", sa.Integer, nullable=False, comment="Consecutive."),
    sa.Column("counting_since", UtcDateTime, comment="First of the consecutive failures."),
    sa.Column("opened_at", UtcDateTime),
    sa.Column("retry_at", UtcDateTime, comment="When a probe is due."),
    sa.Column("lease_owner", sa.String),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("forced", sa.Boolean, nullable=False, comment="Set by hand; no probe changes it."),
    sa.Column("forced_until", UtcDateTime),
    sa.Column("reason", sa.String, nullable=False),
)

breaker_events = sa.Table(
    "breaker_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String, nullable=False, index=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("from_state", sa.String, nullable=False),
    sa.Column("to_state", sa.String, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
)

prediction_cache = sa.Table(
    "prediction_cache",
    metadata,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("version", sa.String, primary_key=True),
    sa.Column("features_hash", sa.String(32), primary_key=True),
    sa.Column("prediction", sa.Float, nullable=False),
    sa.Column("made_at", UtcDateTime, nullable=False, index=True),
)

degraded_partitions = sa.Table(
    "degraded_partitions",
    metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("partition_start", UtcDateTime, primary_key=True),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("healed_at", UtcDateTime),
)
