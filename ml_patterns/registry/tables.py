"""Operational tables of the registry.

Belongs here: what is kept about versions, decisions, reviews, champions, notifications and the
audit log. Does not: the transitions between states (`registry.py`, `reviews.py`, `rollback.py`);
how a database gets these tables, and the triggers that keep the log append-only
(`storage/migrations/`).

A region's row in `registry_champions` exists before its first champion (generation 0): it is the
lock that every transition of the region takes first.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from ml_patterns.storage.operational import UtcDateTime, metadata

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def _of_a_region() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("pipeline", sa.Text, nullable=False), sa.Column(
        "region", sa.Text, nullable=False
    )


regions = sa.Table(
    "registry_regions",
    metadata,
    sa.Column("pipeline", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("first_seen_at", UtcDateTime, nullable=False),
    sa.Column("retired_at", UtcDateTime),
)

versions = sa.Table(
    "registry_versions",
    metadata,
    sa.Column("pipeline", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("artifact", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("training_key", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("pipeline", "region", "artifact"),
)

decisions = sa.Table(
    "registry_decisions",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    *_of_a_region(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", _JSON, nullable=False),
    sa.Column("policy", _JSON, nullable=False),
    sa.Column("policy_hash", sa.Text, nullable=False),
    sa.Column("test_fingerprint", sa.Text, nullable=False),
    sa.Column("champion_generation", sa.Integer, nullable=False),
    sa.Column("decided_at", UtcDateTime, nullable=False),
    sa.Index("registry_decisions_of_a_version", "pipeline", "region", "version"),
)

reviews = sa.Table(
    "registry_reviews",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("decision_id", sa.ForeignKey(decisions.c.id), nullable=False, unique=True),
    *_of_a_region(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("artifact", sa.Text, nullable=False),
    sa.Column("policy_hash", sa.Text, nullable=False),
    sa.Column("test_fingerprint", sa.Text, nullable=False),
    sa.Column("champion_generation", sa.Integer, nullable=False),
    sa.Column("requested_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("reviewer", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("decided_at", UtcDateTime),
    sa.Index("registry_reviews_by_state", "state", "pipeline", "region"),
)

champions = sa.Table(
    "registry_champions",
    metadata,
    sa.Column("pipeline", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("artifact", sa.Text),
    sa.Column("promoted_at", UtcDateTime),
)

generations = sa.Table(
    "registry_generations",
    metadata,
    sa.Column("pipeline", sa.Text, primary_key=True),
    sa.Column("region", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("artifact", sa.Text, nullable=False),
    sa.Column("decision_id", sa.ForeignKey(decisions.c.id)),
    sa.Column("restores", sa.Integer, comment="The generation that a rollback brought back."),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("promoted_at", UtcDateTime, nullable=False),
)

outbox = sa.Table(
    "registry_outbox",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    *_of_a_region(),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("payload", _JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("error", sa.Text),
    sa.Column("delivered_at", UtcDateTime),
    sa.Index("registry_outbox_pending", "delivered_at", "id"),
)

audit = sa.Table(
    "registry_audit",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False),
    *_of_a_region(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("from_state", sa.Text),
    sa.Column("to_state", sa.Text),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("registry_audit_of_a_region", "pipeline", "region", "id"),
)

reviewer_tokens = sa.Table(
    "registry_reviewer_tokens",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("token_hash", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime),
    sa.Index("registry_reviewer_tokens_of_a_reviewer", "reviewer"),
)

outbox_deliveries = sa.Table(
    "registry_outbox_deliveries",
    metadata,
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("notification_id", sa.ForeignKey(outbox.c.id), primary_key=True),
    sa.Column("claimed_until", UtcDateTime, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("delivered_at", UtcDateTime),
)
