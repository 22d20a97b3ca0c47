"""Telling Dagster what is committed.

Belongs here: a committed partition as a materialization, regions as partitions, and what a run died
before telling. Does not: committing (`build.py`), the assets (`assets.py`).
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ml_patterns.errors import MLPatternsError
from ml_patterns.incremental import build
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.plan import Layer
from ml_patterns.partitions import region_partitions, time_partitions
from ml_patterns.registry.regions import add_regions, known_regions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns.storage.sql import quoted

_SLACK = timedelta(minutes=1)  # between a commit and the event that reports it
_RECORDS_AT_ONCE = 500


def materialization(
    asset: dg.AssetKey, grain: Grain, done: build.Built, columns: Mapping[str, Any] | None = None
) -> dg.AssetMaterialization:
    """A partition that was built, as Dagster records it."""
    return dg.AssetMaterialization(
        asset,
        partition=grain.key(done.partition),
        metadata={**built_metadata(done), **(columns or {})},
    )


def built_metadata(done: build.Built) -> dict[str, Any]:
    """What the asset page plots."""
    return {
        "dagster/partition_row_count": done.rows,
        "rows_in": done.counts.accepted,
        "kept": done.counts.kept,
        "superseded": done.counts.superseded,
        "duplicate": done.counts.duplicate,
        "scanned": done.scanned,
        "seconds": round(done.seconds, 4),
        "generation": done.generation,
    }


def find_regions(
    instance: dg.DagsterInstance,
    settings: PipelineSettings,
    warehouse: WarehouseResource,
    operational: OperationalResource,
) -> None:
    """Makes the regions of the features known, before the partitions that have them are told.

    What was told is not looked at again: regions that came afterwards would be lost with a run that
    dies in between.

    Raises:
        UserError: a region's name cannot be a partition; the others are known then.
    """
    table = f"{quoted(settings.name)}.event_features"
    with warehouse.reading() as connection:
        found = connection.execute(f"SELECT DISTINCT region FROM {table}").fetchall()
    try:
        add_regions(operational.engine(), settings.name, [region for (region,) in found])
    finally:
        announce_regions(instance, settings, operational)


def announce_regions(
    instance: dg.DagsterInstance, settings: PipelineSettings, operational: OperationalResource
) -> None:
    """Makes every known region a partition of this Dagster instance, which may be a fresh one."""
    found = known_regions(operational.engine(), settings.name)
    name = region_partitions(settings).name or ""
    present = set(instance.get_dynamic_partitions(name)) if found else set()
    fresh = [region for region in found if region not in present]
    if fresh:
        instance.add_dynamic_partitions(name, fresh)


def untold(
    instance: dg.DagsterInstance, settings: PipelineSettings, landed: Iterable[datetime]
) -> set[datetime]:
    """Of the partitions in which rows landed, those that Dagster was never told of.

    The run that should have told them died after its commit.
    """
    grain = Grain(settings.events.grain)
    told = instance.get_materialized_partitions(dg.AssetKey([settings.name, "landed_events"]))
    return {partition for partition in landed if grain.key(partition) not in told}


def report_again(
    instance: dg.DagsterInstance,
    settings: PipelineSettings,
    layer: Layer,
    warehouse: WarehouseResource,
    operational: OperationalResource,
) -> int:
    """Records partitions that were committed by a run that died before it told Dagster.

    Nothing is computed. A fresh Dagster instance beside an old warehouse learns all of them; the
    regions of the features become known first.

    Returns:
        How many were recorded.
    """
    if not warehouse.warehouse().path.exists():
        return 0
    asset = dg.AssetKey([settings.name, f"event_{layer}"])
    grain, keys = Grain(settings.events.grain), time_partitions(settings)
    told = instance.get_materialized_partitions(asset)
    last = instance.get_latest_materialization_event(asset)
    since = None if last is None else datetime.fromtimestamp(last.timestamp, UTC) - _SLACK
    with warehouse.reading() as connection:
        committed = build.committed(connection, settings, layer)
    recent = [grain.key(done.partition) for done, at in committed if since is None or at >= since]
    generations = _told_generations(instance, asset, told.intersection(recent))
    behind = []
    for done, _ in committed:
        key = grain.key(done.partition)
        late = key not in told or generations.get(key, done.generation) != done.generation
        if late and keys.has_partition_key(key):
            behind.append(done)
    if behind and layer == "features":
        with suppress(MLPatternsError):  # of a name that cannot be: the status names it
            find_regions(instance, settings, warehouse, operational)
    for done in behind:
        instance.report_runless_asset_event(materialization(asset, grain, done))
    return len(behind)


def _told_generations(
    instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Collection[str]
) -> dict[str, object]:
    """The generation that Dagster recorded last for each partition; None where it names none."""
    if not keys:
        return {}
    newest = instance.get_latest_storage_id_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, set(keys)
    )
    ids, found = list(newest.values()), dict[str, object]()
    for start in range(0, len(ids), _RECORDS_AT_ONCE):
        some = ids[start : start + _RECORDS_AT_ONCE]
        chosen = dg.AssetRecordsFilter(asset_key=asset, storage_ids=some)
        for record in instance.fetch_materializations(chosen, limit=len(some)).records:
            event = record.asset_materialization
            generation = event.metadata.get("generation") if event else None
            found[str(record.partition_key)] = generation.value if generation else None
    return found
