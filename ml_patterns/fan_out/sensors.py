"""What starts the fan-out by itself between two schedules, and the fan-in after it.

Belongs here: the sensors' shells. Does not: how far features moved (`movement.py`), which regions a
run gets (`batch.py`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from ml_patterns.automation import pipeline_sensor, under_way
from ml_patterns.base import utc_now
from ml_patterns.fan_out.movement import movement
from ml_patterns.fan_out.runs import batches
from ml_patterns.partitions import range_tags, trained_regions
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The sensors that train the fleet when its features have moved, and rank it afterwards."""
    return [_moved_features_sensor(settings), _leaderboard_sensor(settings)]


def _moved_features_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    pipeline, asked = settings.name, settings.training.retrain_share

    @pipeline_sensor(
        pipeline,
        "moved_features",
        job="training",
        seconds=60,
        description=(
            f"Trains the fleet when {asked:.0%} of its feature rows or more were rebuilt since it "
            "was last trained (training.retrain_share); regions in which nothing changed are "
            "skipped by the training."
        ),
    )
    def moved_features_sensor(
        context: dg.SensorEvaluationContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> dg.SensorResult | dg.SkipReason:
        running = under_way(context.instance, pipeline, "training", "build")
        if running:
            return dg.SkipReason(f"a run of {running} is under way")
        if not warehouse.warehouse().path.exists():
            return dg.SkipReason("there are no features yet")
        regions = trained_regions(context.instance, settings, operational.engine())
        if not regions:
            return dg.SkipReason("no region is known yet")
        since = trained_since(context.instance, dg.AssetKey([pipeline, "regional_model"]), regions)
        with warehouse.reading() as connection:
            found = movement(connection, pipeline, since)
        told = f"{found.share:.0%} of the feature rows were rebuilt since {since or 'ever'}"
        if found.share < asked:
            return dg.SkipReason(f"{told}; training.retrain_share asks for {asked:.0%}")
        context.log.info(told)
        # A training that ends before it reports anything is asked for again, once an hour.
        key = f"{found.fingerprint}-{utc_now():%Y%m%d%H}"
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=f"{key}-{number}", tags=range_tags(batch[0], batch[-1]))
                for number, batch in enumerate(batches(regions, settings.training))
            ]
        )

    return moved_features_sensor


def _leaderboard_sensor(settings: PipelineSettings) -> dg.SensorDefinition:
    pipeline = settings.name

    @pipeline_sensor(
        pipeline,
        "leaderboard",
        job="leaderboard",
        seconds=60,
        description="Ranks the fleet anew when a version was judged, deployed, reviewed or rolled "
        "back, or a training gave a region no model.",
    )
    def leaderboard_sensor(
        context: dg.SensorEvaluationContext, operational: OperationalResource
    ) -> dg.RunRequest | dg.SkipReason:
        running = under_way(context.instance, pipeline, "training", "deployment")
        if running:
            return dg.SkipReason(f"a run of {running} is under way")
        transition = Registry(operational.engine()).newest_transition(pipeline)
        without_model = context.instance.fetch_observations(
            dg.AssetKey([pipeline, "regional_model"]), limit=1
        ).records
        if transition is None and not without_model:
            return dg.SkipReason("no region was trained yet")
        newest = f"{transition}-{without_model[0].storage_id if without_model else None}"
        if newest == context.cursor:
            return dg.SkipReason("nothing was judged, deployed or rolled back since the last look")
        context.update_cursor(newest)
        return dg.RunRequest(run_key=newest)

    return leaderboard_sensor


def trained_since(
    instance: dg.DagsterInstance, model_key: dg.AssetKey, regions: Sequence[str]
) -> datetime | None:
    """When the run started that is the newest training of the region trained longest ago (UTC).

    What was built after it, no training of the whole fleet has seen; a region trained by itself
    in between changes nothing about that. Regions that were never trained do not count: their rows
    are new, and count as moved.

    Returns:
        None where no region was ever trained.
    """
    newest: dict[str, int] = {}
    for type_ in (
        dg.DagsterEventType.ASSET_MATERIALIZATION,
        dg.DagsterEventType.ASSET_OBSERVATION,  # a training that gave no model
    ):
        for region, event in instance.get_latest_storage_id_by_partition(model_key, type_).items():
            newest[region] = max(event, newest.get(region, -1))
    trained = [region for region in regions if region in newest]
    if not trained:
        return None
    oldest = min(trained, key=lambda region: newest[region])
    asked = dg.AssetRecordsFilter(asset_key=model_key, asset_partitions=[oldest])
    records = [
        *instance.fetch_materializations(asked, limit=1).records,
        *instance.fetch_observations(asked, limit=1).records,
    ]
    record = max(records, key=lambda record: record.storage_id)
    run = instance.get_run_record_by_id(record.run_id)
    started = run.start_time if run and run.start_time else record.timestamp
    return datetime.fromtimestamp(started, UTC)
