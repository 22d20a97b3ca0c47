"""Promises of the circuit breaker's room as Dagster asset checks.

Belongs here: thin shells around questions to the tables. Does not: the questions
(`predictions.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
import duckdb

from ml_patterns.circuit_breaker.assets import predictions_key
from ml_patterns.circuit_breaker.predictions import (
    fallbacks,
    has_predictions,
    predicted_partitions,
    unanswered_rows,
)
from ml_patterns.partitions import time_partitions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import WarehouseResource

WARN_AT = 0.05
ERROR_AT = 0.25
_PARTITION_TAG = "dagster/partition"
_RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def build_checks(settings: PipelineSettings) -> list[dg.AssetChecksDefinition]:
    """The checks on `predictions`."""
    key = predictions_key(settings)

    @dg.asset_check(
        asset=key,
        blocking=True,
        description="Every row of the features of these partitions has at least one answer.",
    )
    def every_row_answered(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
    ) -> dg.AssetCheckResult:
        with _asked(context, settings, warehouse) as (connection, starts):
            missing = unanswered_rows(connection, settings.name, starts) if starts else 0
        return dg.AssetCheckResult(
            passed=missing == 0, metadata={"unanswered": missing, "partitions": len(starts)}
        )

    @dg.asset_check(
        asset=key,
        description=(
            f"Of the newest answers for regions with a model, at most {WARN_AT:.0%} are not live "
            f"(warning), at most {ERROR_AT:.0%} (error)."
        ),
    )
    def fallback_rate(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
    ) -> dg.AssetCheckResult:
        with _asked(context, settings, warehouse) as (connection, starts):
            fell_back, rows = fallbacks(connection, settings.name, starts) if starts else (0, 0)
        rate = fell_back / rows if rows else 0.0
        error = rate > ERROR_AT
        return dg.AssetCheckResult(
            passed=rate <= WARN_AT,
            severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
            metadata={"fallback_rate": rate, "fallbacks": fell_back, "rows": rows},
        )

    return [every_row_answered, fallback_rate]


@contextmanager
def _asked(
    context: dg.AssetCheckExecutionContext, settings: PipelineSettings, warehouse: WarehouseResource
) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[datetime]]]:
    """The warehouse, and the partitions of this run; outside a partitioned run, all predicted."""
    tags, partitions = context.run.tags, time_partitions(settings)
    first, last = (tags.get(tag, tags.get(_PARTITION_TAG)) for tag in _RANGE_TAGS)
    with warehouse.reading() as connection:
        if first and last:
            keys = partitions.get_partition_keys_in_range(dg.PartitionKeyRange(first, last))
            starts = [partitions.start_time_for_partition_key(key) for key in keys]
        elif has_predictions(connection, settings.name):
            starts = predicted_partitions(connection, settings.name)
        else:
            starts = []
        yield connection, [start.astimezone(UTC) for start in starts]
