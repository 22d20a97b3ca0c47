"""What we need from Dagster that it does not export.

Belongs here: every import from `dagster._core`, with its reason. Does not: anything else; a test
says at once when an upgrade moves one of them.

`AssetCheckEvaluationTargetMaterializationData`: one run trains many regions and reports a check
evaluation for each. Dagster counts an evaluation as current only if it names the materialization
that it is about, and fills that in by itself only for checks of the partition that a step was
started for. There is no public name for the record.

`JobDefinition.asset_layer`: an asset without a required output must know whether anything else is
to run after it. `DagsterRun.asset_selection` is empty for jobs.

`get_smallest_cron_interval`: a freshness policy refuses a bound that is longer than it.
"""

from datetime import timedelta

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._utils.schedules import get_smallest_cron_interval

__all__ = [
    "AssetCheckEvaluationTargetMaterializationData",
    "latest_target",
    "others_selected",
    "smallest_interval",
]


def latest_target(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The newest materialization of a partition, for a check evaluation to point at."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=[partition]), limit=1
    ).records
    if not records:
        return None
    record = records[0]
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )


def others_selected(context: dg.AssetExecutionContext) -> bool:
    """Whether the run materializes other assets, too."""
    return len(context.job_def.asset_layer.selected_asset_keys) > 1


def smallest_interval(cron: str) -> timedelta:
    """The shortest time between two ticks of a cron expression."""
    return get_smallest_cron_interval(cron)
