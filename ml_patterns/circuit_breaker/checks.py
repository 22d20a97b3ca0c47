"""Promises of the circuit breaker's room as Dagster asset checks.

Belongs here: thin shells around questions to the tables. Does not: the questions
(`predictions.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg
import duckdb

from ml_patterns.base import format_duration
from ml_patterns.circuit_breaker.assets import predictions_key
from ml_patterns.circuit_breaker.predictions import (
    fallbacks,
    has_predictions,
    oldest_answer,
    predicted_partitions,
    unanswered_rows,
)
from ml_patterns.circuit_breaker.quality import (
    champion_versions,
    judged_live,
    live_records,
    to_retrain,
)
from ml_patterns.partitions import day_partitions, time_partitions
from ml_patterns.registry.regions import retired_regions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource

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

    @dg.asset_check(
        asset=key,
        description="No newest answer of these partitions is older than "
        f"{format_duration(settings.predictions.stale_after)}.",
    )
    def staleness(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
    ) -> dg.AssetCheckResult:
        with _asked(context, settings, warehouse) as (connection, starts):
            age = oldest_answer(connection, settings.name, starts) if starts else 0.0
        return dg.AssetCheckResult(
            passed=age <= settings.predictions.stale_after.total_seconds(),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"oldest_answer_s": age},
        )

    checks = [every_row_answered, fallback_rate, staleness]
    return [*checks, _live_accuracy(settings)] if judged_live(settings) else checks


def _live_accuracy(settings: PipelineSettings) -> dg.AssetChecksDefinition:
    days, threshold = day_partitions(settings), settings.gate.review_at
    window = settings.predictions.quality_window

    @dg.asset_check(
        asset=dg.AssetKey([settings.name, "prediction_quality"]),
        description=(
            "Of the live answers that each region's champion gave before the label was known, over "
            f"{format_duration(window)} up to this day, the lower bound of the accuracy reaches "
            f"the review threshold {threshold:g}; where it does not, training is requested."
        ),
    )
    def live_accuracy(
        context: dg.AssetCheckExecutionContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> dg.AssetCheckResult:
        _, last = _range_of(context)
        engine = operational.engine()
        versions = champion_versions(engine, settings.name)
        with warehouse.reading() as connection:
            records = live_records(
                connection,
                settings.name,
                versions,
                window,
                days.start_time_for_partition_key(last) if last else None,
            )
        low = [record for record in records if record.lower_bound < threshold]
        retired = retired_regions(engine, settings.name)
        retrained = [record.region for record in to_retrain(records, threshold, retired)]
        return dg.AssetCheckResult(
            passed=not low,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "regions_below": ", ".join(record.region for record in low) or "none",
                "training_requested": ", ".join(retrained) or "none",
                "lower_bounds": dg.MetadataValue.json(
                    {record.region: round(record.lower_bound, 4) for record in records}
                ),
                "rows": dg.MetadataValue.json({record.region: record.rows for record in records}),
            },
        )

    return live_accuracy


def _range_of(context: dg.AssetCheckExecutionContext) -> tuple[str | None, str | None]:
    """First and last partition key of this run; None outside a partitioned run."""
    tags = context.run.tags
    first, last = (tags.get(tag, tags.get(_PARTITION_TAG)) for tag in _RANGE_TAGS)
    return first, last


@contextmanager
def _asked(
    context: dg.AssetCheckExecutionContext, settings: PipelineSettings, warehouse: WarehouseResource
) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[datetime]]]:
    """The warehouse, and the partitions of this run; outside a partitioned run, all predicted."""
    partitions, (first, last) = time_partitions(settings), _range_of(context)
    with warehouse.reading() as connection:
        if first and last:
            keys = partitions.get_partition_keys_in_range(dg.PartitionKeyRange(first, last))
            starts = [partitions.start_time_for_partition_key(key) for key in keys]
        elif has_predictions(connection, settings.name):
            starts = predicted_partitions(connection, settings.name)
        else:
            starts = []
        yield connection, [start.astimezone(UTC) for start in starts]
