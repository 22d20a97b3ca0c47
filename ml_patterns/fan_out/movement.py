"""How far the features have moved since the fleet was trained.

Belongs here: the share of the feature table that was rebuilt since. Does not: asking for a training
(`sensors.py`), whether a region's rows changed at all (`unchanged.py`, at training).
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from ml_patterns.incremental import ledger
from ml_patterns.storage.features import feature_columns
from ml_patterns.storage.sql import quoted


@dataclass(frozen=True)
class Movement:
    """What was built since a training.

    Attributes:
        rows: of the feature table; an empty partition counts as one row, so that emptying one is a
            movement, too.
        moved: those of them that lie in partitions built since.
        fingerprint: says which builds those were (hex); the same builds, the same text.
    """

    rows: int
    moved: int
    fingerprint: str

    @property
    def share(self) -> float:
        """Share of the rows that were built since, 0 to 1; 0 where there are none."""
        return self.moved / self.rows if self.rows else 0.0


def movement(
    connection: duckdb.DuckDBPyConnection, pipeline: str, since: datetime | None
) -> Movement:
    """How much of a pipeline's features was built since an instant.

    Rows that were built again to the same values count: this is the most that can have changed,
    and training skips the regions in which nothing did.

    Args:
        since: start of the newest training of the fleet (aware); None: it was never trained.
    """
    if not ledger.exists(connection, pipeline) or not feature_columns(connection, pipeline):
        return Movement(0, 0, "")
    schema = quoted(pipeline)
    instant = None if since is None else since.astimezone(UTC).replace(tzinfo=None)
    found = connection.execute(
        f"""
        WITH built AS (
            SELECT partition_start, max(computed_at) AS built_at, max(generation) AS generation
            FROM {schema}.run_cost WHERE layer = 'features' GROUP BY partition_start
        ), held AS (
            SELECT partition_start, count(*) AS rows
            FROM {schema}.event_features GROUP BY partition_start
        )
        SELECT greatest(coalesce(held.rows, 0), 1), coalesce(built_at >= ?, TRUE),
            partition_start::VARCHAR, generation
        FROM built LEFT JOIN held USING (partition_start) ORDER BY partition_start
        """,
        [instant],
    ).fetchall()
    moved = [row for row in found if row[1]]
    builds = "|".join(f"{start}:{generation}" for _, _, start, generation in moved)
    return Movement(
        rows=sum(row[0] for row in found),
        moved=sum(row[0] for row in moved),
        fingerprint=hashlib.sha256(builds.encode()).hexdigest()[:16],
    )
