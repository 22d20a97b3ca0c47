"""What a run would cost, and what a grace period costs in rows that come too late.

Belongs here: forecasts from the ledger alone. Does not: what is due (`plan.py`), measuring
(`build.py` writes `run_cost`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb

from ml_patterns.base import format_duration
from ml_patterns.errors import UserError
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.plan import Layer
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted

_RECENT = 1_000
_GRACES = (1, 2, 3, 6, 12, 24, 48, 72, 168)


@dataclass(frozen=True)
class CostModel:
    """Seconds = fixed + per_row x rows, fitted to the last partitions that were built."""

    fixed: float
    per_row: float

    def seconds(self, rows: int) -> float:
        """Predicted for one partition."""
        return self.fixed + self.per_row * rows


def measured_cost(
    connection: duckdb.DuckDBPyConnection, pipeline: str, layer: Layer
) -> CostModel | None:
    """The cost of a layer's partitions as it was lately; None where nothing was measured."""
    row = connection.execute(
        f"""
        SELECT count(*), avg(seconds), avg(accepted), regr_slope(seconds, accepted)
        FROM (
            FROM {quoted(pipeline)}.run_cost WHERE layer = ?
            ORDER BY computed_at DESC LIMIT {_RECENT}
        )
        """,
        [layer],
    ).fetchone()
    if row is None or not row[0]:
        return None
    _, seconds, rows, slope = row
    if slope is None or slope != slope or slope <= 0:  # one size only: nothing to fit
        return CostModel(fixed=seconds, per_row=0.0)
    if seconds < slope * rows:
        return CostModel(fixed=0.0, per_row=seconds / rows)
    return CostModel(fixed=seconds - slope * rows, per_row=slope)


def check_budget(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
    partitions: Sequence[datetime],
) -> None:
    """Stops a run before it starts.

    Raises:
        UserError: its partitions hold more accepted rows than `events.max_rows_per_run`.
    """
    budget = settings.events.max_rows_per_run
    if budget is None or not partitions:
        return
    row = connection.execute(
        f"SELECT coalesce(sum(rows), 0)::BIGINT FROM {quoted(settings.name)}.entries "
        "WHERE counts AND list_contains(?::TIMESTAMP[], partition_start)",
        [list(partitions)],
    ).fetchone()
    rows = row[0] if row else 0
    if rows > budget:
        grain = Grain(settings.events.grain)
        first, last = grain.key(min(partitions)), grain.key(max(partitions))
        raise UserError(
            f"{layer} of pipeline {settings.name} would read {rows:,} rows in {len(partitions)} "
            f"partitions from {first} to {last}, more than events.max_rows_per_run {budget:,}; "
            "materialize fewer partitions at once or raise the setting"
        )


@dataclass(frozen=True)
class GraceCost:
    """What a grace period would cost.

    Attributes:
        rows: rows that this grace admits and the next shorter one does not.
        too_late: rows that would come too late with it.
        share: of all rows that have a partition.
        current: whether it is the pipeline's setting.
    """

    grace: timedelta
    rows: int
    too_late: int
    share: float
    current: bool

    @property
    def text(self) -> str:
        """The grace period as settings write it."""
        return format_duration(self.grace)


def lateness(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> list[GraceCost]:
    """How late rows were, and how many would be too late with each grace period.

    A row needs a grace longer than the time from its partition's end to the newest event that was
    known before its file's first listing. The first load is never late.
    """
    schema, grain = quoted(settings.name), Grain(settings.events.grain)
    rows = connection.execute(
        f"""
        WITH newest AS (
            SELECT listing, max(newest) AS newest FROM {schema}.partition_manifest
            JOIN {schema}.source_files USING (revision) WHERE class = 'accepted' GROUP BY listing
        ), first AS (
            SELECT path, min(listing) AS listing FROM {schema}.source_files GROUP BY path
        ), before AS (
            SELECT path, max(newest) AS known
            FROM first LEFT JOIN newest ON newest.listing < first.listing GROUP BY path
        )
        SELECT known - (partition_start + {grain.interval}) AS needed, sum(rows)::BIGINT
        FROM {schema}.entries JOIN before USING (path)
        WHERE class IN ('accepted', 'too_late') GROUP BY needed
        """
    ).fetchall()
    total = sum(count for _, count in rows)
    graces = sorted({settings.events.grace, *(grain.length * factor for factor in _GRACES)})
    found, admitted = [], 0
    for grace in graces:
        too_late = sum(n for needed, n in rows if needed is not None and needed >= grace)
        found.append(
            GraceCost(
                grace,
                total - too_late - admitted,
                too_late,
                too_late / total if total else 0.0,
                grace == settings.events.grace,
            )
        )
        admitted = total - too_late
    return found
