"""The first schema: registry, shared circuit, prediction cache, retry budget.

It creates what is missing, so that a database made before there were revisions is taken over as it
is.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "1"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_APPEND_ONLY = "the audit log is append-only"
_TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER IF NOT EXISTS registry_audit_no_{verb.lower()} BEFORE {verb} "
        f"ON registry_audit BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION registry_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$",
        "DROP TRIGGER IF EXISTS registry_audit_no_change ON registry_audit",
        "CREATE TRIGGER registry_audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE "
        "ON registry_audit FOR EACH STATEMENT EXECUTE FUNCTION registry_audit_refuse()",
    ],
}


def upgrade() -> None:
    """Creates tables, indices, and the triggers that keep the audit log append-only."""
    op.create_table(
        "breaker_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("from_state", sa.String(), nullable=False),
        sa.Column("to_state", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index(op.f("ix_breaker_events_name"), "breaker_events", ["name"], if_not_exists=True)
    op.create_table(
        "breakers",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False, comment="Grows with every transition."),
        sa.Column("failures", sa.Integer(), nullable=False, comment="Consecutive."),
        sa.Column(
            "counting_since", _TIME, nullable=True, comment="First of the consecutive failures."
        ),
        sa.Column("opened_at", _TIME, nullable=True),
        sa.Column("retry_at", _TIME, nullable=True, comment="When a probe is due."),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", _TIME, nullable=True),
        sa.Column(
            "forced", sa.Boolean(), nullable=False, comment="Set by hand; no probe changes it."
        ),
        sa.Column("forced_until", _TIME, nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        if_not_exists=True,
    )
    op.create_table(
        "degraded_partitions",
        sa.Column("pipeline", sa.String(), nullable=False),
        sa.Column("partition_start", _TIME, nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("healed_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("pipeline", "partition_start"),
        if_not_exists=True,
    )
    op.create_table(
        "prediction_cache",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("features_hash", sa.String(length=32), nullable=False),
        sa.Column("prediction", sa.Float(), nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", "features_hash"),
        if_not_exists=True,
    )
    op.create_index(
        op.f("ix_prediction_cache_made_at"), "prediction_cache", ["made_at"], if_not_exists=True
    )
    op.create_table(
        "registry_audit",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index(
        "registry_audit_of_a_region",
        "registry_audit",
        ["pipeline", "region", "id"],
        if_not_exists=True,
    )
    op.create_table(
        "registry_champions",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("artifact", sa.Text(), nullable=True),
        sa.Column("promoted_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("pipeline", "region"),
        if_not_exists=True,
    )
    op.create_table(
        "registry_decisions",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", _JSON, nullable=False),
        sa.Column("policy", _JSON, nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("test_fingerprint", sa.Text(), nullable=False),
        sa.Column("champion_generation", sa.Integer(), nullable=False),
        sa.Column("decided_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index(
        "registry_decisions_of_a_version",
        "registry_decisions",
        ["pipeline", "region", "version"],
        if_not_exists=True,
    )
    op.create_table(
        "registry_outbox",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", _JSON, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("delivered_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
        if_not_exists=True,
    )
    op.create_index(
        "registry_outbox_pending", "registry_outbox", ["delivered_at", "id"], if_not_exists=True
    )
    op.create_table(
        "registry_regions",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.Column("retired_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("pipeline", "region"),
        if_not_exists=True,
    )
    op.create_table(
        "registry_versions",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("training_key", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "region", "number"),
        sa.UniqueConstraint("pipeline", "region", "artifact"),
        if_not_exists=True,
    )
    op.create_table(
        "retry_budget",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False, comment="Minutes since 1970, UTC."),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("retries", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "minute"),
        if_not_exists=True,
    )
    op.create_table(
        "registry_generations",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("decision_id", _ID, nullable=True),
        sa.Column(
            "restores",
            sa.Integer(),
            nullable=True,
            comment="The generation that a rollback brought back.",
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("promoted_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["decision_id"], ["registry_decisions.id"]),
        sa.PrimaryKeyConstraint("pipeline", "region", "generation"),
        if_not_exists=True,
    )
    op.create_table(
        "registry_reviews",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("decision_id", _ID, nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("policy_hash", sa.Text(), nullable=False),
        sa.Column("test_fingerprint", sa.Text(), nullable=False),
        sa.Column("champion_generation", sa.Integer(), nullable=False),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("decided_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["decision_id"], ["registry_decisions.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("decision_id"),
        if_not_exists=True,
    )
    op.create_index(
        "registry_reviews_by_state",
        "registry_reviews",
        ["state", "pipeline", "region"],
        if_not_exists=True,
    )
    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)
