"""`deployed_model` and the sensors on a real Dagster instance."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import lightgbm as lgb
import pandas as pd
import pytest

from ml_patterns.branching.assets import build_assets
from ml_patterns.branching.checks import gate_evaluation, quality_gate_spec
from ml_patterns.branching.deploy import deploy
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.sensors import build_sensors
from ml_patterns.partitions import region_partitions
from ml_patterns.registry.outbox import notifications
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import ModelCard
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import ArtifactsResource, OperationalResource
from ml_patterns_tests.branching.conftest import Shop

# Dagster's names for two features that this project is built on: single-run backfills, and checks
# per partition.
pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

Model = tuple[lgb.Booster, ModelCard]
REGIONS = ["eu", "us_east", "us_west"]
DEPLOYED = dg.AssetKey(["shop", "deployed_model"])

VERDICTS = {
    "eu": Policy(),
    "us_east": Policy(deploy_at=0.999, review_at=0.5),
    "us_west": Policy(deploy_at=0.999, review_at=0.999),
}


@pytest.fixture
def settings() -> PipelineSettings:
    return PipelineSettings.model_validate(
        {
            "name": "shop",
            "events": {
                "path": "events/*.parquet",
                "id": "id",
                "time": "at",
                "version": "known_at",
                "region": "region",
                "grain": "hour",
                "start": "2026-01-05",
            },
        }
    )


@pytest.fixture
def instance(settings: PipelineSettings) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(region_partitions(settings).name), REGIONS)
        yield instance


def pipeline(settings: PipelineSettings, shop: Shop) -> dg.Definitions:
    return dg.Definitions(
        assets=[
            *build_assets(settings),
            dg.AssetSpec(
                dg.AssetKey(["shop", "regional_model"]),
                partitions_def=region_partitions(settings),
            ),
        ],
        sensors=build_sensors(settings),
        resources=resources(shop),
        jobs=[dg.define_asset_job("shop_deployment_job", dg.AssetSelection.assets(DEPLOYED))],
    )


def run(
    settings: PipelineSettings, shop: Shop, instance: dg.DagsterInstance, *regions: str
) -> dg.ExecuteInProcessResult:
    definitions = pipeline(settings, shop)
    job = definitions.resolve_job_def("shop_deployment_job")
    if len(regions) == 1:
        return job.execute_in_process(
            instance=instance, partition_key=regions[0], raise_on_error=False
        )
    return job.execute_in_process(
        instance=instance,
        raise_on_error=False,
        tags={
            "dagster/asset_partition_range_start": regions[0],
            "dagster/asset_partition_range_end": regions[-1],
        },
    )


def resources(shop: Shop) -> dict[str, object]:
    return {
        "operational": OperationalResource(url=shop.url),
        "artifacts": ArtifactsResource(root=shop.root),
    }


def deployed(result: dg.ExecuteInProcessResult) -> list[str | None]:
    return [event.partition for event in result.get_asset_materialization_events()]


def judged_in_all_regions(shop: Shop, honest: Model, test_frame: pd.DataFrame) -> None:
    for region in REGIONS:
        shop.judge(*honest, test_frame, region=region, policy=VERDICTS[region])


def test_a_batch_deploys_exactly_what_passed(
    settings: PipelineSettings,
    shop: Shop,
    instance: dg.DagsterInstance,
    honest: Model,
    test_frame: pd.DataFrame,
) -> None:
    judged_in_all_regions(shop, honest, test_frame)
    result = run(settings, shop, instance, *REGIONS)
    assert result.success
    assert deployed(result) == ["eu"]
    assert [champion.region for champion in shop.registry.champions("shop")] == ["eu"]
    again = run(settings, shop, instance, *REGIONS)
    assert (again.success, deployed(again)) == (True, ["eu"])
    assert shop.registry.generation("shop", "eu") == 1


def promote_and_die(url: str, root: str) -> None:
    """A run that is killed after the promotion and before Dagster hears of it."""
    deploy(Registry(engine_for(url)), ArtifactStore(root), Policy(), "shop", "eu", actor="run 1")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_is_killed_after_the_promotion_reports_it_when_run_again(
    settings: PipelineSettings,
    shop: Shop,
    instance: dg.DagsterInstance,
    honest: Model,
    test_frame: pd.DataFrame,
) -> None:
    shop.judge(*honest, test_frame)
    killed = multiprocessing.get_context("spawn").Process(
        target=promote_and_die, args=(shop.url, shop.root)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert shop.registry.generation("shop", "eu") == 1
    assert deployed(run(settings, shop, instance, "eu")) == ["eu"]
    assert shop.registry.generation("shop", "eu") == 1
    assert [row.action for row in shop.registry.audit("shop", "eu")].count("promoted") == 1
    assert [note.kind for note in notifications(shop.registry.engine)] == ["promoted"]


@pytest.mark.parametrize("region", ["us_east", "us_west"])
def test_a_region_that_may_not_deploy_is_no_failure_and_deploys_nothing(
    settings: PipelineSettings,
    shop: Shop,
    instance: dg.DagsterInstance,
    honest: Model,
    test_frame: pd.DataFrame,
    region: str,
) -> None:
    judged_in_all_regions(shop, honest, test_frame)
    result = run(settings, shop, instance, region)
    assert (result.success, deployed(result)) == (True, [])
    assert shop.registry.champion("shop", region) is None


def test_a_stale_region_fails_and_the_others_go_on(
    settings: PipelineSettings,
    shop: Shop,
    instance: dg.DagsterInstance,
    honest: Model,
    test_frame: pd.DataFrame,
) -> None:
    """us_west passed, but by another policy than the one that holds now."""
    for region, policy in (("eu", Policy()), ("us_west", Policy(deploy_at=0.91))):
        shop.judge(*honest, test_frame, region=region, policy=policy)
    result = run(settings, shop, instance, "eu", "us_west")
    assert not result.success
    assert deployed(result) == ["eu"]
    failure = result.get_step_failure_events()[0].step_failure_data.user_failure_data
    assert failure is not None
    assert failure.description is not None
    assert "us_west version 1 is not deployed: the policy of the gate changed" in (
        failure.description
    )


def test_the_sensor_requests_exactly_what_passed_or_was_approved(
    settings: PipelineSettings,
    shop: Shop,
    instance: dg.DagsterInstance,
    honest: Model,
    test_frame: pd.DataFrame,
) -> None:
    reviewing = settings.model_copy(update={"gate": VERDICTS["us_east"]})
    shop.judge(*honest, test_frame, region="eu", policy=settings.gate)
    shop.judge(*honest, test_frame, region="us_west", policy=VERDICTS["us_west"])
    shop.judge(*honest, test_frame, region="us_east", policy=reviewing.gate)

    def requested(settings: PipelineSettings) -> list[str]:
        definitions = pipeline(settings, shop)
        sensor = definitions.resolve_sensor_def("shop_deployment_sensor")
        with dg.build_sensor_context(
            instance=instance, definitions=definitions, resources=resources(shop)
        ) as context:
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return []
        assert isinstance(result, dg.RunRequest)
        regions: list[str] = result.run_config["ops"]["shop__deployed_model"]["config"]["regions"]
        return regions

    assert requested(settings) == ["eu"]
    assert requested(reviewing) == []
    (review,) = shop.registry.reviews("shop")
    shop.registry.decide_review(review.id, approve=True, reviewer="ada", reason="fine")
    assert requested(reviewing) == ["us_east"]
    run(settings, shop, instance, "eu")
    assert requested(settings) == []


def test_the_outbox_sensor_sends_and_expires(
    settings: PipelineSettings,
    shop: Shop,
    instance: dg.DagsterInstance,
    honest: Model,
    test_frame: pd.DataFrame,
) -> None:
    brief = Policy(deploy_at=0.999, review_at=0.5, review_expires_after=timedelta(0))
    shop.judge(*honest, test_frame, policy=brief)
    definitions = pipeline(settings, shop)
    sensor = definitions.resolve_sensor_def("shop_outbox_sensor")
    with dg.build_sensor_context(
        instance=instance, definitions=definitions, resources=resources(shop)
    ) as context:
        result = sensor(context)
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message == "1 reviews expired, 2 notifications sent, 0 pending"
    assert shop.registry.version("shop", "eu", 1).state == "expired"


@pytest.mark.parametrize(
    ("region", "passed", "severity"),
    [
        ("eu", True, dg.AssetCheckSeverity.WARN),
        ("us_east", False, dg.AssetCheckSeverity.WARN),
        ("us_west", False, dg.AssetCheckSeverity.ERROR),
    ],
)
def test_the_check_says_deploy_review_or_reject(
    settings: PipelineSettings,
    shop: Shop,
    honest: Model,
    test_frame: pd.DataFrame,
    region: str,
    passed: bool,
    severity: dg.AssetCheckSeverity,
) -> None:
    judgement = shop.judge(*honest, test_frame, region=region, policy=VERDICTS[region])
    evaluation = gate_evaluation(settings, region, judgement, None)
    assert (evaluation.passed, evaluation.severity) == (passed, severity)
    assert evaluation.description == judgement.sentence
    assert evaluation.check_name == quality_gate_spec(settings).name
    assert {"evidence", "conditions", "point_verdict", "lower_bound_verdict"} <= set(
        evaluation.metadata
    )
