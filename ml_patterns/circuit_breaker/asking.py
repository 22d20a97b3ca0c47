"""What is asked for: the rows of partitions, and what of them is answered already.

Belongs here: reading rows for prediction, many partitions at a time but never too many rows. Does
not: the answers (`predictions.py`), which partitions are due (`due.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pandas as pd

from ml_patterns.circuit_breaker.predictions import naive
from ml_patterns.storage.features import feature_columns
from ml_patterns.storage.sql import quoted

MOST_ROWS = 50_000
KEYS = ("partition_start", "event_id", "region", "features_hash", "label_known")


@dataclass(frozen=True)
class Asked:
    """Rows of one partition.

    Attributes:
        keys: KEYS, as they go into the table of predictions.
        features: what models see; same index.
        answered: whether the row's newest answer is live and was made for these features.
    """

    keys: pd.DataFrame
    features: pd.DataFrame
    answered: pd.Series

    def at(self, places: np.ndarray) -> "Asked":
        """The rows at these positions."""
        return Asked(self.keys.iloc[places], self.features.iloc[places], self.answered.iloc[places])

    def unanswered(self) -> "Asked":
        """What has no live answer for its present features."""
        return self.at(np.flatnonzero(~self.answered.to_numpy()))

    def by_region(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Each region's features, in the order of the regions."""
        for region, keys in self.keys.groupby("region", sort=True):
            yield str(region), self.features.loc[keys.index]


def in_batches(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    starts: Sequence[datetime],
    most_rows: int = MOST_ROWS,
) -> list[list[datetime]]:
    """The partitions in groups of at most so many rows; a larger partition is a group of its own.

    Args:
        starts: of the partitions (UTC), oldest first.
    """
    counted = dict(
        connection.execute(
            f"SELECT partition_start, count(*) FROM {quoted(pipeline)}.event_features "
            "WHERE partition_start BETWEEN ? AND ? GROUP BY partition_start",
            [naive(starts[0]), naive(starts[-1])],
        ).fetchall()
    )
    batches: list[list[datetime]] = []
    room = -1
    for start in starts:
        rows = counted.get(naive(start), 0)
        room -= rows
        if room < 0:
            batches.append([])
            room = most_rows - rows
        batches[-1].append(start)
    return batches


def read_asked(
    connection: duckdb.DuckDBPyConnection, pipeline: str, starts: Sequence[datetime]
) -> dict[datetime, Asked]:
    """The rows of partitions, by partition start; ordered by region, event time and event id.

    Args:
        starts: of the partitions (UTC), oldest first; each is in the answer.
    """
    features = [column.name for column in feature_columns(connection, pipeline)]
    selected = "".join(f", {quoted(name)}" for name in features)
    packed = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in features)
    # Written out rather than hashed by the engine: its own hash may change with its version.
    written = f"CAST(struct_pack({packed}) AS VARCHAR)" if features else "''"
    frame = connection.execute(
        f"""
        WITH rows AS (
            SELECT *, md5({written}) AS __features_hash
            FROM {quoted(pipeline)}.event_features
            WHERE partition_start BETWEEN $first AND $last
        ), newest AS ({_newest(connection, pipeline)})
        SELECT rows.partition_start AS __partition_start, rows.event_id AS __event_id,
            rows.region AS __region, __features_hash, label IS NOT NULL AS __label_known,
            coalesce(source = 'live' AND features_hash = __features_hash, FALSE) AS __answered
            {selected}
        FROM rows LEFT JOIN newest
            ON newest.partition_start = rows.partition_start AND newest.event_id = rows.event_id
        ORDER BY rows.partition_start, rows.region, event_time, rows.event_id
        """,
        {"first": naive(starts[0]), "last": naive(starts[-1])},
    ).df()
    keys = frame[[f"__{name}" for name in KEYS]].set_axis(list(KEYS), axis="columns")
    whole = Asked(keys, frame[features], frame["__answered"].astype(bool))
    groups = keys.groupby("partition_start", sort=False).indices
    places = {start: np.asarray(rows) for start, rows in groups.items()}
    nothing = np.empty(0, dtype=np.int64)
    return {start: whole.at(places.get(pd.Timestamp(naive(start)), nothing)) for start in starts}


def _newest(connection: duckdb.DuckDBPyConnection, pipeline: str) -> str:
    """A relation: the newest answer of each event and the features that it was made for."""
    known = connection.execute(
        "SELECT 1 FROM information_schema.columns WHERE table_schema = ? "
        "AND table_name = 'predictions' AND column_name = 'features_hash'",
        [pipeline],
    ).fetchone()
    if known is None:
        return (
            "SELECT NULL::TIMESTAMP AS partition_start, NULL::VARCHAR AS event_id, "
            "NULL::VARCHAR AS source, NULL::VARCHAR AS features_hash LIMIT 0"
        )
    return f"""
        SELECT partition_start, event_id, source, features_hash
        FROM {quoted(pipeline)}.predictions WHERE partition_start BETWEEN $first AND $last
        QUALIFY row_number() OVER (
            PARTITION BY partition_start, event_id ORDER BY made_at DESC
        ) = 1
    """
