"""Landed files, aggregates and features as Dagster assets.

Belongs here: thin shells: read partition keys, call the core, report metadata. Does not: deciding
or computing anything (`manifest.py`, `plan.py`, `build.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import dagster as dg
import duckdb

from ml_patterns.base import utc_now
from ml_patterns.dagster_internals import event_log_kept_open
from ml_patterns.errors import MLPatternsError
from ml_patterns.incremental import build, commit, cost, ledger, manifest, plan
from ml_patterns.incremental.checks import (
    check_event_files,
    event_files_specs,
    every_row_accounted_for,
    every_row_accounted_for_spec,
)
from ml_patterns.incremental.column_lineage import layer_lineage
from ml_patterns.incremental.dead_letter import removed
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.plan import Layer
from ml_patterns.incremental.reporting import (
    built_metadata,
    find_regions,
    materialization,
    report_again,
    untold,
)
from ml_patterns.partitions import time_partitions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns.table_metadata import schema_metadata, table_metadata

GROUP = "incremental"
_EVENTS_AT_ONCE = 200


class BuildConfig(dg.Config):
    """What of a range of partitions to compute."""

    only_due: bool = False
    """Skip partitions whose inputs, SQL and settings did not change since they were built."""


def build_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The pipeline's `event_files`, `landed_events`, `event_aggregates` and `event_features`."""
    return [
        _landed_events(settings),
        _event_files(settings),
        _event_aggregates(settings),
        _event_features(settings),
    ]


def _landed_events(settings: PipelineSettings) -> dg.AssetSpec:
    return dg.AssetSpec(
        [settings.name, "landed_events"],
        deps=[dg.AssetKey([settings.name, "event_files"])],
        partitions_def=time_partitions(settings),
        group_name=GROUP,
        owners=list(settings.owners),
        kinds={"file"},
        description="The accepted rows of the landed files, by partition. They stay in the files; "
        "`event_files` reports here which partitions a delivery touched.",
    )


def _event_files(settings: PipelineSettings) -> dg.AssetsDefinition:
    landed = dg.AssetKey([settings.name, "landed_events"])
    grain = Grain(settings.events.grain)

    @dg.asset(
        key=[settings.name, "event_files"],
        deps=[dg.AssetKey([settings.name, "database_rows"])] if settings.source else None,
        check_specs=event_files_specs(settings),
        group_name=GROUP,
        owners=list(settings.owners),
        kinds={"duckdb", "file"},
        pool="warehouse",
        description="Numbers every new or changed file and judges its rows once: accepted, too "
        "late, future or invalid. Every delivered row is accounted for; a bad file is named, kept "
        "apart and read again when it changes.",
    )
    def event_files(
        context: dg.AssetExecutionContext, warehouse: WarehouseResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        with warehouse.get_connection() as connection:
            done = manifest.ingest(connection, settings, utc_now)
            accounts = ledger.accounts(connection, settings.name)
            columns = schema_metadata(ledger.stream_columns(connection, settings.name))
            checks = check_event_files(connection, settings, accounts, done.missing)
            accepted = manifest.accepted_partitions(connection, settings.name)
        known = time_partitions(settings)
        news = {*done.changed, *untold(context.instance, settings, accepted)}
        keys = [grain.key(partition) for partition in sorted(news)]
        keys = [key for key in keys if known.has_partition_key(key)]
        with event_log_kept_open(context.instance):
            for key in keys:
                metadata = columns if key == keys[-1] else None
                context.log_event(dg.AssetMaterialization(landed, partition=key, metadata=metadata))
            for file in done.unreadable:
                context.log.warning(file.error)
            for path in done.missing:
                context.log.warning(removed(path, settings.name))
            yield dg.MaterializeResult(
                metadata={
                    "files": done.files,
                    "rows": done.rows,
                    "partitions_changed": len(done.changed),
                    "watermark": str(done.watermark or "none yet"),
                    "accepted_total": accounts.accepted,
                    "too_late_total": accounts.too_late,
                    "too_late_share": accounts.too_late / max(accounts.delivered, 1),
                    "future_total": accounts.future,
                    "invalid_total": accounts.invalid,
                    "unreadable_files": dg.MetadataValue.json([f.error for f in done.unreadable]),
                    "missing_files": dg.MetadataValue.json(list(done.missing)),
                },
                check_results=checks,
            )

    return event_files


def _event_aggregates(settings: PipelineSettings) -> dg.AssetsDefinition:
    @dg.asset(
        key=[settings.name, "event_aggregates"],
        partitions_def=time_partitions(settings),
        deps=[dg.AssetKey([settings.name, "landed_events"])],
        check_specs=[every_row_accounted_for_spec(settings)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
        group_name=GROUP,
        owners=list(settings.owners),
        kinds={"duckdb", "sql"},
        pool="warehouse",
        description=f"`{settings.aggregates.sql}` over the events of one {settings.events.grain}, "
        "newest version of each. A partition equals a full recompute, bit for bit, and is "
        "committed exactly once.",
    )
    def event_aggregates(
        context: dg.AssetExecutionContext,
        config: BuildConfig,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult | dg.MaterializeResult[None]]:
        with event_log_kept_open(context.instance):
            yield from _build(context, settings, "aggregates", config, warehouse, operational)
            yield every_row_accounted_for(settings, warehouse)

    return event_aggregates


def _event_features(settings: PipelineSettings) -> dg.AssetsDefinition:
    back = dg.TimeWindowPartitionMapping(
        start_offset=-settings.aggregates.window,
        end_offset=-1,
        allow_nonexistent_upstream_partitions=True,
    )

    @dg.asset(
        key=[settings.name, "event_features"],
        partitions_def=time_partitions(settings),
        deps=[
            dg.AssetKey([settings.name, "landed_events"]),
            dg.AssetDep([settings.name, "event_aggregates"], partition_mapping=back),
            *(dg.AssetDep([settings.name, "external", table.name]) for table in settings.external),
        ],
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
        group_name=GROUP,
        owners=list(settings.owners),
        kinds={"duckdb", "sql"},
        pool="warehouse",
        description=f"`{settings.features.sql}`: one row per event, from the event and from the "
        f"aggregates of the {settings.aggregates.window} partitions strictly before it. Labels are "
        "used only where they were known. Regions found here become partitions.",
    )
    def event_features(
        context: dg.AssetExecutionContext,
        config: BuildConfig,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
        with event_log_kept_open(context.instance):
            yield from _build(context, settings, "features", config, warehouse, operational)
        try:
            find_regions(context.instance, settings, warehouse, operational)
        except MLPatternsError as error:  # the others are known: they are trained all the same
            raise dg.Failure(str(error), allow_retries=False) from error

    return event_features


def _build(
    context: dg.AssetExecutionContext,
    settings: PipelineSettings,
    layer: Layer,
    config: BuildConfig,
    warehouse: WarehouseResource,
    operational: OperationalResource,
) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
    """Builds the run's partitions; the warehouse is let go while Dagster records them.

    A run of all its partitions ends with an output, as any asset's does, so that what follows in
    the same run is not skipped. A run of those that are due materializes each of them by itself:
    an output would claim the whole range.
    """
    grain = Grain(settings.events.grain)
    partitions = [grain.parse(key) for key in context.partition_keys]
    healed = report_again(context.instance, settings, layer, warehouse, operational)
    if healed:
        context.log.info(f"{layer}: {healed} partitions of a run that died are recorded now")
    wants: Mapping[datetime, plan.Wanted] | None = None
    with warehouse.get_connection() as connection:
        ledger.ensure_tables(connection, settings.name)
        if config.only_due:
            due = plan.plan(connection, settings, layer, utc_now())
            wants = {entry.partition: entry.want for entry in due}
            partitions = [partition for partition in partitions if partition in wants]
        try:
            cost.check_budget(connection, settings, layer, partitions)
        except MLPatternsError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
    built: list[build.Built] = []
    columns: dict[str, Any] = {}
    try:
        while partitions:
            batch, partitions = partitions[:_EVENTS_AT_ONCE], partitions[_EVENTS_AT_ONCE:]
            done: list[build.Built] = []
            try:
                with warehouse.get_connection() as connection:
                    for one in build.build(
                        connection, settings, layer, batch, utc_now, wants=wants
                    ):
                        done.append(one)
                    if not partitions:
                        columns = _columns(context, connection, settings, layer)
            finally:
                if done and layer == "features":
                    with suppress(MLPatternsError):  # of a name that cannot be: at the asset's end
                        find_regions(context.instance, settings, warehouse, operational)
                if config.only_due:
                    yield from (
                        materialization(
                            context.asset_key, grain, one, columns if one is done[-1] else {}
                        )
                        for one in done
                    )
                built += done
            context.log.info(f"{layer}: {len(done)} partitions built")
    except MLPatternsError as error:
        if not config.only_due:  # what was committed before the failure stays built
            yield from (materialization(context.asset_key, grain, one) for one in built)
        raise dg.Failure(str(error), allow_retries=False) from error
    if not config.only_due:
        for one in built:
            context.add_asset_metadata(
                {**built_metadata(one), **(columns if one is built[-1] else {})},
                partition_key=grain.key(one.partition),
            )
        yield dg.MaterializeResult()


def _columns(
    context: dg.AssetExecutionContext,
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    layer: Layer,
) -> dict[str, Any]:
    """Schema and lineage of a layer's table, for the newest of its materializations."""
    lineage = None
    try:
        lineage = layer_lineage(connection, settings, layer)
    except duckdb.Error as error:  # a drawing is no reason to fail what is committed
        context.log.warning(f"{layer}: no column lineage, the planner says: {error}")
    return table_metadata(connection, settings.name, commit.TABLES[layer], lineage)
