"""What a run of many regions leaves in Dagster: each region's own state, and one honest end."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

# Where the UI takes the failed partitions from; there is no public way to ask.
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from ml_patterns.branching import assets as branching_assets
from ml_patterns.branching.policy import Policy
from ml_patterns.fan_out.assets import TrainingConfig, regional_model
from ml_patterns.fan_out.pool import Job, Trained, Work, train_job
from ml_patterns.partitions import region_partitions
from ml_patterns.registry.regions import add_regions, retire_region
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import (
    ArtifactsResource,
    OperationalResource,
    WarehouseResource,
)
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for
from ml_patterns_tests.fan_out.test_fleet import kills_asia

# Dagster's own stage of maturity: backfill policies are beta, checks with partitions preview.
pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

SETTINGS = settings_for()
KEY = dg.AssetKey(["parcels", "regional_model"])
CHECK = dg.AssetCheckKey(KEY, "quality_gate")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster that knows four regions."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parcels_region", ["asia", "eu", "tiny", "us"])
        yield instance


def run(
    instance: dg.DagsterInstance,
    house: House,
    first: str,
    last: str | None = None,
    *,
    settings: PipelineSettings = SETTINGS,
    work: Work = train_job,
    followed: bool = False,
    config: dg.RunConfig | None = None,
) -> dg.ExecuteInProcessResult:
    """One run, of one region or of a range; `followed` by the deployment."""
    assets = [regional_model(settings, work)]
    assets += branching_assets.build_assets(settings) if followed else []
    tags = {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last or first,
    }
    return dg.materialize(
        [*assets, dg.AssetSpec(dg.AssetKey(["parcels", "event_features"]))],
        selection=assets,
        instance=instance,
        raise_on_error=False,
        run_config=config,
        tags=tags if last else None,
        partition_key=None if last else first,
        resources={
            "warehouse": WarehouseResource(database=str(house.warehouse.path)),
            "operational": OperationalResource(url=house.state_url),
            "artifacts": ArtifactsResource(root=house.artifacts),
        },
    )


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """The sentence a failed step ends with."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return data.user_failure_data.description or "" if data.user_failure_data else str(data.error)


def check_statuses(instance: dg.DagsterInstance, region: str) -> tuple[bool, str] | None:
    """Whether the region's current gate check passed, and its verdict."""
    history = instance.event_log_storage.get_asset_check_execution_history(
        CHECK, limit=100, partition_filter=None
    )
    for record in history:
        evaluation = record.event.dagster_event.event_specific_data
        if isinstance(evaluation, dg.AssetCheckEvaluation) and evaluation.partition == region:
            target = evaluation.target_materialization_data
            (newest,) = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=KEY, asset_partitions=[region]), limit=1
            ).records
            assert target.storage_id == newest.storage_id, "the check is about the newest model"
            return evaluation.passed, evaluation.metadata["verdict"].value
    return None


def test_a_killed_region_costs_no_other_its_materialization(
    instance: dg.DagsterInstance, house: House
) -> None:
    """The range fails in the end, names the region, and run again trains only that one."""
    house.holds(made_up("asia"), made_up("eu"), made_up("us"), made_up("tiny", 3))

    first = run(instance, house, "asia", "us", work=kills_asia)

    assert not first.success
    assert "1 of 4 regions failed" in failure_of(first)
    assert "asia: its worker was killed by signal 9 twice" in failure_of(first)
    assert instance.get_materialized_partitions(KEY) == {"eu", "us", "tiny"}
    assert check_statuses(instance, "eu") == (True, "deploy")
    assert check_statuses(instance, "tiny") == (False, "review")
    assert check_statuses(instance, "asia") is None
    (observation,) = instance.fetch_observations(KEY, limit=5).records
    assert observation.partition_key == "asia"
    assert "killed" in observation.asset_observation.metadata["reason"].value

    again = run(instance, house, "asia", "us")

    assert again.success
    assert instance.get_materialized_partitions(KEY) == {"asia", "eu", "us", "tiny"}
    statuses = {
        event.partition: event.step_materialization_data.materialization.metadata["status"].value
        for event in again.all_events
        if event.is_step_materialization
    }
    assert statuses == {
        "asia": "trained",
        "eu": "unchanged",
        "us": "unchanged",
        "tiny": "unchanged",
    }
    assert check_statuses(instance, "eu") == (True, "deploy")


def failed_partitions(instance: dg.DagsterInstance) -> set[str]:
    """Regions that the UI shows as failed."""
    partitions = region_partitions(SETTINGS)
    status = get_and_update_asset_status_cache_value(instance, KEY, partitions)
    return set(status.deserialize_failed_partition_subsets(partitions).get_partition_keys())


def opens_the_warehouse(job: Job) -> tuple[Trained, ...]:
    """Writes to the warehouse, which lies beside the artifacts, before it trains."""
    path = Path(job.artifacts).parent / "warehouse.duckdb"
    with Warehouse(path, patience=timedelta(0)).connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS parcels.written (region VARCHAR)")
        connection.execute("INSERT INTO parcels.written VALUES (?)", [job.regions[0]])
    return train_job(job)


def test_the_warehouse_is_free_while_models_are_trained(
    instance: dg.DagsterInstance, house: House
) -> None:
    """Ingest does not wait for a training: a worker, in another process, can write meanwhile."""
    house.holds(made_up("eu"), made_up("us"))
    assert run(instance, house, "eu", "us", work=opens_the_warehouse).success
    with house.warehouse.connect(read_only=True) as connection:
        written = connection.execute("SELECT region FROM parcels.written").fetchall()
    assert sorted(written) == [("eu",), ("us",)]


def test_the_failed_partitions_are_those_without_a_model(
    instance: dg.DagsterInstance, house: House
) -> None:
    """What the UI offers to run again: asia, which failed, and us, which has no rows.

    Dagster goes by the materialization alone, so us is shown as failed until it has a model.
    """
    house.holds(made_up("asia"), made_up("eu"), made_up("tiny", 3))

    first = run(instance, house, "asia", "us", work=kills_asia)
    assert not first.success
    assert failed_partitions(instance) == {"asia", "us"}

    assert run(instance, house, "asia", "us").success
    assert failed_partitions(instance) == {"us"}
    house.holds(made_up("us"))
    assert run(instance, house, "us").success
    assert failed_partitions(instance) == set()


def test_force_in_the_launchpad_trains_what_is_unchanged(
    instance: dg.DagsterInstance, house: House
) -> None:
    """The same rows give the same version again."""
    house.holds(made_up("eu"))
    config = dg.RunConfig({"parcels__regional_model": TrainingConfig(force=True)})
    statuses = [
        event.step_materialization_data.materialization.metadata
        for found in (
            run(instance, house, "eu"),
            run(instance, house, "eu"),
            run(instance, house, "eu", config=config),
        )
        for event in found.all_events
        if event.is_step_materialization
    ]
    assert [each["status"].value for each in statuses] == ["trained", "unchanged", "trained"]
    assert [each["version"].value for each in statuses] == [1, 1, 1]


def test_what_is_selected_after_the_models_runs_in_the_same_run(
    instance: dg.DagsterInstance, house: House
) -> None:
    """Both assets chosen in the launchpad: who passed is deployed, and the checks are current."""
    house.holds(made_up("asia"), made_up("eu"), made_up("us"), made_up("tiny", 3))

    result = run(instance, house, "asia", "us", followed=True)

    assert result.success
    assert instance.get_materialized_partitions(KEY) == {"asia", "eu", "us", "tiny"}
    deployed = dg.AssetKey(["parcels", "deployed_model"])
    assert instance.get_materialized_partitions(deployed) == {"asia", "eu", "us"}
    assert check_statuses(instance, "eu") == (True, "deploy")
    assert check_statuses(instance, "tiny") == (False, "review")
    (newest,) = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=KEY, asset_partitions=["eu"]), limit=1
    ).records
    assert newest.asset_materialization.metadata["verdict"].value == "deploy"


def test_a_region_without_a_model_is_not_said_to_have_one_for_the_sake_of_what_follows(
    instance: dg.DagsterInstance, house: House
) -> None:
    house.holds(made_up("asia"), made_up("eu"), made_up("us"))

    result = run(instance, house, "asia", "us", work=kills_asia, followed=True)

    assert not result.success
    assert instance.get_materialized_partitions(KEY) == {"eu", "us"}
    assert Registry(engine_for(house.state_url)).champions("parcels") == []
    assert run(instance, house, "eu", followed=True).success
    assert [c.region for c in Registry(engine_for(house.state_url)).champions("parcels")] == ["eu"]


def test_a_single_rejected_region_fails_its_run_once_all_is_recorded(
    instance: dg.DagsterInstance, house: House
) -> None:
    """`dagster asset materialize --partition eu` is a gate in CI; a batch is not."""
    house.holds(made_up("eu"), made_up("tiny", 3), made_up("us"))
    strict = SETTINGS.model_copy(update={"gate": Policy(deploy_at=1, review_at=0.999)})

    alone = run(instance, house, "eu", settings=strict)

    assert not alone.success
    assert "region eu version 1 was rejected: reject: accuracy" in failure_of(alone)
    assert instance.get_materialized_partitions(KEY) == {"eu"}
    assert check_statuses(instance, "eu") == (False, "reject")
    assert run(instance, house, "eu", "us", settings=strict).success


def test_a_region_without_features_is_a_sentence(
    instance: dg.DagsterInstance, house: House
) -> None:
    """Nothing to train is a user's mistake: named, with the remedy."""
    house.holds(made_up("eu"))
    result = run(instance, house, "us")
    assert not result.success
    assert "region us of pipeline parcels has no labelled features yet" in failure_of(result)


def test_a_warehouse_that_does_not_exist_yet_is_a_sentence(
    instance: dg.DagsterInstance, house: House
) -> None:
    """A fresh machine that trains first."""
    assert "no labelled features yet" in failure_of(run(instance, house, "us"))


def test_a_region_gone_silent_is_observed_not_failed(
    instance: dg.DagsterInstance, house: House
) -> None:
    """In a batch a region without rows stays without a model, and says so."""
    house.holds(made_up("eu"))
    assert run(instance, house, "asia", "eu").success
    assert instance.get_materialized_partitions(KEY) == {"eu"}
    (observation,) = instance.fetch_observations(KEY, limit=5).records
    assert observation.partition_key == "asia"
    assert observation.asset_observation.metadata["status"].value == "none"


def test_a_retired_region_is_skipped_and_keeps_its_champion(
    instance: dg.DagsterInstance, trained: House
) -> None:
    """A tombstone ends the training of a region, not its service."""
    engine = trained.registry.engine
    add_regions(engine, "parcels", ["asia", "eu"])
    trained.promote_newest("eu")
    trained.holds(made_up("asia"), made_up("eu", 700))
    retire_region(engine, "parcels", "eu", actor="ada", reason="closed")

    assert run(instance, trained, "asia", "eu").success
    assert run(instance, trained, "eu").success

    assert instance.get_materialized_partitions(KEY) == {"asia"}
    assert len(trained.registry.versions("parcels", "eu")) == 1
    assert trained.registry.champion("parcels", "eu").version == 1
