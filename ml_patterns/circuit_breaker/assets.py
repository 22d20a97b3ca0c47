"""Pattern 5 in Dagster: predictions that are always answered, and how good they were.

Belongs here: the assets, thin. Does not: what is asked (`asking.py`), predicting (`answering.py`),
the tables (`predictions.py`, `quality.py`), which partitions are asked again (`degraded.py`).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy as sa

from ml_patterns.base import utc_now
from ml_patterns.circuit_breaker.degraded import degraded_partitions, remember
from ml_patterns.circuit_breaker.predictions import base_rates
from ml_patterns.circuit_breaker.quality import as_markdown, judge_day
from ml_patterns.circuit_breaker.resources import ModelClientResource
from ml_patterns.partitions import day_partitions, time_partitions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns.storage.warehouse import has_table
from ml_patterns.table_metadata import table_metadata

if TYPE_CHECKING:
    from ml_patterns.circuit_breaker.answering import Served

GROUP = "circuit_breaker"
_KEYS = ("partition_start", "event_id", "region")
_SOURCES = {name: [("event_features", name)] for name in _KEYS} | {
    "label_known": [("event_features", "label")]
}
"""Columns of the predictions that come from the features' table; answers come from a model."""
_QUALITY_SOURCES = {
    "day": [("predictions", "partition_start")],
    **{name: [("predictions", name)] for name in ("region", "source", "model_version")},
    "in_time": [("predictions", "label_known")],
    **{
        name: [("predictions", "prediction"), ("event_features", "label")]
        for name in ("correct", "accuracy", "lower_bound")
    },
}


def predictions_key(settings: PipelineSettings) -> dg.AssetKey:
    """The asset key of the predictions."""
    return dg.AssetKey([settings.name, "predictions"])


def build_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """`predictions` and `prediction_quality`."""
    return [_predictions(settings), _prediction_quality(settings)]


def _predictions(settings: PipelineSettings) -> dg.AssetsDefinition:
    key, partitions = predictions_key(settings), time_partitions(settings)

    @dg.asset(
        key=key,
        group_name=GROUP,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=list(settings.owners),
        kinds={"duckdb", "http"},
        deps=[
            dg.AssetDep(dg.AssetKey([settings.name, "event_features"])),
            dg.AssetDep(
                dg.AssetKey([settings.name, "deployed_model"]),
                partition_mapping=dg.AllPartitionMapping(),
            ),
        ],
        description=(
            "One answer per event, always, labelled with where it came from: the model server, its "
            "cached answer, the champion scored here, or the region's base rate. Answers are only "
            "ever added; a partition that healed asks again for what was not answered live."
        ),
    )
    def predictions(
        context: dg.AssetExecutionContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
        model_client: ModelClientResource,
    ) -> None:
        from ml_patterns.circuit_breaker.answering import serve
        from ml_patterns.circuit_breaker.asking import in_batches, read_asked

        engine, client = operational.engine(), model_client.client(settings)
        degraded = set(degraded_partitions(engine, settings.name))
        names = {_bounds(partitions, name)[0]: name for name in context.partition_keys}
        with warehouse.reading() as connection:
            if not has_table(connection, settings.name, "event_features"):
                raise dg.Failure(
                    f"pipeline {settings.name} has no features yet; materialize "
                    f"{settings.name}/event_features first",
                    allow_retries=False,
                )
            rates = base_rates(connection, settings.name)
            batches = in_batches(connection, settings.name, sorted(names))
        for starts in batches:
            # The warehouse is held to read and to write, never while the server is asked.
            with warehouse.reading() as connection:
                asked = read_asked(connection, settings.name, starts)
            served = {
                start: serve(client, settings.name, rows, rates, healing=start in degraded)
                for start, rows in asked.items()
            }
            healed, columns = _keep(warehouse, engine, settings.name, served)
            for start, one in served.items():
                metadata = one.metadata | {"healed": start in healed}
                context.log.info(f"predictions {names[start]}: {metadata}")
                newest = names[start] == context.partition_keys[-1]
                context.add_asset_metadata(
                    metadata | (columns if newest else {}), partition_key=names[start]
                )

    return predictions


def _keep(
    warehouse: WarehouseResource,
    engine: sa.Engine,
    pipeline: str,
    served: "Mapping[datetime, Served]",
) -> tuple[set[datetime], dict[str, Any]]:
    """Writes the answers in one transaction; returns what has healed, and the table's columns.

    Degraded partitions are remembered before and healed ones after: whoever dies in between leaves
    too much to be asked again, never too little.
    """
    from ml_patterns.circuit_breaker.answering import keep

    bad = {start: True for start, one in served.items() if one.degraded}
    remember(engine, pipeline, bad, utc_now())
    with warehouse.get_connection() as connection:
        keep(connection, pipeline, served.values())
        columns = table_metadata(connection, pipeline, "predictions", _SOURCES)
    good = {start: False for start, one in served.items() if not one.degraded}
    return set(remember(engine, pipeline, good, utc_now())), columns


def _bounds(
    partitions: dg.TimeWindowPartitionsDefinition, partition_key: str
) -> tuple[datetime, datetime]:
    window = partitions.time_window_for_partition_key(partition_key)
    return window.start, window.end


def _prediction_quality(settings: PipelineSettings) -> dg.AssetsDefinition:
    key, partitions = dg.AssetKey([settings.name, "prediction_quality"]), day_partitions(settings)

    @dg.asset(
        key=key,
        group_name=GROUP,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=list(settings.owners),
        kinds={"duckdb"},
        deps=[predictions_key(settings)],
        description=(
            "How good the answers of a day turned out to be, per region, source and model version, "
            "once labels are known: accuracy, and its one-sided 95 % lower bound. Judged is the "
            "last answer before the label was known; where all came later, apart, the first."
        ),
    )
    def prediction_quality(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> None:
        for partition_key in context.partition_keys:
            start, end = _bounds(partitions, partition_key)
            with warehouse.get_connection() as connection:
                judged = judge_day(connection, settings.name, start, end)
                columns = table_metadata(
                    connection, settings.name, "prediction_quality", _QUALITY_SOURCES
                )
            in_time = judged[judged["in_time"]]
            rows, correct = int(in_time["rows"].sum()), int(in_time["correct"].sum())
            metadata: dict[str, Any] = {
                "rows_judged": rows,
                "rows_in_hindsight": int(judged["rows"].sum()) - rows,
                "by_region_and_source": dg.MetadataValue.md(as_markdown(judged)),
            }
            if rows:
                metadata["accuracy"] = correct / rows
            if partition_key == context.partition_keys[-1]:
                metadata |= columns
            context.add_asset_metadata(metadata, partition_key=partition_key)

    return prediction_quality
