"""The fleet is trained again when its features have moved, and not before."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pandas as pd
import pytest

from ml_patterns.fan_out.movement import movement
from ml_patterns.fan_out.sensors import build_sensors
from ml_patterns.incremental import ledger
from ml_patterns.jobs import build_schedules
from ml_patterns.registry.regions import add_regions, retire_region
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for

KEY = dg.AssetKey(["parcels", "regional_model"])
LONG_AGO = datetime(2026, 1, 8, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster that knows two regions."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parcels_region", ["eu", "us"])
        yield instance


@pytest.fixture
def stocked(house: House) -> House:
    """Two regions with ten hours of thirty rows, all built long ago."""
    add_regions(house.registry.engine, "parcels", ["eu", "us"])
    hours = pd.Timestamp("2026-01-01") + pd.to_timedelta(range(10), unit="h")
    frame = made_up("eu", 300)
    frame["partition_start"] = hours.repeat(30)
    house.holds(frame)
    with house.warehouse.connect() as connection:
        ledger.ensure_tables(connection, "parcels")
    built(house, range(10), LONG_AGO)
    return house


def built(house: House, hours: range, at: datetime, generation: int = 1) -> None:
    """Notes in the ledger that partitions of features were built."""
    with house.warehouse.connect() as connection:
        connection.executemany(
            "INSERT INTO parcels.run_cost VALUES ('features', ?, ?, ?, 30, 30, 0, 0, 30, 0.1)",
            [[f"2026-01-01 {hour:02}:00", generation, at.replace(tzinfo=None)] for hour in hours],
        )


def look(
    instance: dg.DagsterInstance, house: House, settings: PipelineSettings
) -> list[dg.RunRequest] | str:
    """What the sensor asks for, or why it asks for nothing."""
    sensor, _ = build_sensors(settings)
    context = dg.build_sensor_context(
        instance=instance,
        resources={
            "warehouse": WarehouseResource(database=str(house.warehouse.path)),
            "operational": OperationalResource(url=house.state_url),
        },
    )
    found = sensor(context)
    return str(found.skip_message) if isinstance(found, dg.SkipReason) else found.run_requests


def trained(instance: dg.DagsterInstance, *regions: str, without_model: str = "") -> None:
    """A run that reports these regions, as the training does."""

    @dg.asset(
        key=KEY, partitions_def=dg.DynamicPartitionsDefinition(name="parcels_region"),
        output_required=False, backfill_policy=dg.BackfillPolicy.single_run(),
    )  # fmt: skip
    def report() -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
        for region in regions:
            event = dg.AssetObservation if region == without_model else dg.AssetMaterialization
            yield event(KEY, partition=region)

    assert dg.materialize([report], instance=instance, partition_key=regions[0]).success


def test_the_first_features_train_the_fleet(instance: dg.DagsterInstance, stocked: House) -> None:
    """Nothing was ever trained: everything has moved."""
    (request,) = look(instance, stocked, settings_for())
    assert request.tags["dagster/asset_partition_range_start"] == "eu"
    assert request.tags["dagster/asset_partition_range_end"] == "us"


def test_a_fleet_is_trained_again_once_enough_has_moved(
    instance: dg.DagsterInstance, stocked: House
) -> None:
    """One of ten partitions is not enough for a share of 0.2; two are, and only until trained."""
    settings = settings_for(retrain_share=0.2)
    trained(instance, "eu", "us", without_model="us")
    assert "0% of the feature rows were rebuilt" in look(instance, stocked, settings)

    later = datetime.now(UTC) + timedelta(seconds=1)
    built(stocked, range(1), later, generation=2)
    assert "10% of the feature rows" in look(instance, stocked, settings)
    built(stocked, range(1, 2), later, generation=2)
    assert len(look(instance, stocked, settings)) == 1


def test_a_region_trained_by_itself_does_not_hide_what_the_fleet_has_not_seen(
    instance: dg.DagsterInstance, stocked: House
) -> None:
    """What counts is the training of the region that was trained longest ago."""
    trained(instance, "eu", "us")
    built(stocked, range(5), datetime.now(UTC), generation=2)
    trained(instance, "eu")
    assert len(look(instance, stocked, settings_for())) == 1
    retire_region(stocked.registry.engine, "parcels", "us", actor="ada", reason="closed")
    assert "0% of the feature rows" in look(instance, stocked, settings_for())


def test_a_training_that_gave_no_model_has_seen_the_features_too(
    instance: dg.DagsterInstance, stocked: House
) -> None:
    """Otherwise a region that fails would have the whole fleet trained again and again."""
    trained(instance, "eu", "us")
    built(stocked, range(5), datetime.now(UTC), generation=2)
    trained(instance, "eu", "us", without_model="us")
    assert "0% of the feature rows" in look(instance, stocked, settings_for())


def test_nothing_is_asked_for_twice(instance: dg.DagsterInstance, stocked: House) -> None:
    """Dagster starts one run per key; the key follows what was built."""
    (first,) = look(instance, stocked, settings_for())
    (again,) = look(instance, stocked, settings_for())
    built(stocked, range(1), datetime.now(UTC), generation=2)
    (other,) = look(instance, stocked, settings_for())
    assert first.run_key.split("-")[0] == again.run_key.split("-")[0]
    assert first.run_key.split("-")[0] != other.run_key.split("-")[0]


@pytest.mark.parametrize("step", ["training", "build"])
def test_it_waits_for_what_is_under_way(
    instance: dg.DagsterInstance, stocked: House, step: str
) -> None:
    """A training that runs will see the features; a build that runs would be half seen."""

    @dg.job(name=f"parcels_{step}_job")
    def under_way() -> None: ...

    instance.create_run_for_job(under_way, status=dg.DagsterRunStatus.STARTED)
    assert look(instance, stocked, settings_for()) == (f"a run of parcels_{step}_job is under way")


def test_a_large_fleet_is_asked_for_in_several_runs(
    instance: dg.DagsterInstance, stocked: House
) -> None:
    """As `training.regions_per_run` says."""
    requests = look(instance, stocked, settings_for(regions_per_run=1))
    assert [request.tags["dagster/asset_partition_range_start"] for request in requests] == [
        "eu",
        "us",
    ]
    assert len({request.run_key for request in requests}) == 2


def test_without_features_there_is_nothing_to_train(
    instance: dg.DagsterInstance, house: House
) -> None:
    """Before the first file, and before the first region."""
    assert look(instance, house, settings_for()) == "there are no features yet"
    house.holds(made_up("eu", 3))
    assert look(instance, house, settings_for()) == "no region is known yet"


def test_an_emptied_partition_is_a_movement(stocked: House) -> None:
    """Rows that went away changed the models as much as rows that came."""
    with stocked.warehouse.connect() as connection:
        connection.execute("DELETE FROM parcels.event_features WHERE hour(partition_start) = 3")
    built(stocked, range(3, 4), LONG_AGO + timedelta(days=1), generation=2)
    with stocked.warehouse.connect() as connection:
        found = movement(connection, "parcels", LONG_AGO + timedelta(hours=1))
    assert (found.moved, found.rows) == (1, 271)


def test_the_schedule_leaves_out_what_is_retired(stocked: House) -> None:
    """A run of retired regions alone would do nothing; the partitions stay, with their history."""
    (schedule, *_) = [
        each for each in build_schedules(settings_for()) if each.name.endswith("training_schedule")
    ]

    def asked(instance: dg.DagsterInstance) -> list[str]:
        with dg.build_schedule_context(
            instance=instance,
            resources={"operational": OperationalResource(url=stocked.state_url)},
            scheduled_execution_time=datetime(2026, 1, 5, 6, tzinfo=UTC),
        ) as context:
            found = schedule(context)
        ends = [f"dagster/asset_partition_range_{end}" for end in ("start", "end")]
        requests = found if isinstance(found, list) else []
        return [" to ".join(request.tags[end] for end in ends) for request in requests]

    with dg.instance_for_test() as instance:  # a schedule wants one that lies on a disk
        instance.add_dynamic_partitions("parcels_region", ["eu", "us"])
        assert asked(instance) == ["eu to us"]
        retire_region(stocked.registry.engine, "parcels", "us", actor="ada", reason="closed")
        assert asked(instance) == ["eu to eu"]
        retire_region(stocked.registry.engine, "parcels", "eu", actor="ada", reason="closed")
        assert asked(instance) == []
        assert instance.get_dynamic_partitions("parcels_region") == ["eu", "us"]
