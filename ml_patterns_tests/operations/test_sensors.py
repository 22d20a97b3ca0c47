"""What a sensor asks for where nothing is wrong cannot show it: failures, and today."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ml_patterns import automation
from ml_patterns.automation import GIVEN_UP_AFTER, under_way
from ml_patterns.base import utc_now
from ml_patterns.incremental.manifest import ingest
from ml_patterns.incremental.sensors import build_sensors as incremental_sensors
from ml_patterns.retry import sensors as retry_sensors
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import WarehouseResource
from ml_patterns_tests.operations.shop import DEFS, Shop

NOON = datetime(2025, 1, 8, 12, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Three days have landed, the last of them is today."""
    shop = Shop.build(tmp_path / "shop")
    for day in range(3):
        shop.land(day)
    return shop


@pytest.fixture
def settings(shop: Shop) -> PipelineSettings:
    attributes = yaml.safe_load(DEFS)["attributes"]
    folder = shop.root / "shop_project" / "defs" / "shop"
    return PipelineSettings.model_validate(attributes).located(folder, shop.root)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def registration(instance: dg.DagsterInstance, *, fails: bool) -> None:
    """A run under the name of the registration."""

    @dg.op
    def register() -> None:
        if fails:
            raise dg.Failure("the disk was full", allow_retries=False)

    @dg.job(name="shop_ingest_job")
    def job() -> None:
        register()

    job.execute_in_process(instance=instance, raise_on_error=False)


def test_files_are_asked_for_once_and_again_when_their_registration_failed(
    settings: PipelineSettings, shop: Shop, instance: dg.DagsterInstance
) -> None:
    files, _ = incremental_sensors(settings)
    cursor: str | None = None

    def asked() -> str | None:
        nonlocal cursor
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            found = files(context)
            cursor = context.cursor
        return found.run_key if isinstance(found, dg.RunRequest) else None

    first = asked()
    assert first
    assert asked() is None
    registration(instance, fails=True)
    again = asked()
    assert again
    assert again.split("-")[0] == first.split("-")[0], "the same files; one run key an hour"
    registration(instance, fails=False)
    assert asked() is None
    shop.land(3)
    assert asked() not in (None, first)


def test_a_day_that_has_not_ended_is_not_asked_for_yet(
    settings: PipelineSettings,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dagster has no such partition: the run would never start."""
    warehouse = WarehouseResource(database=str(tmp_path / "warehouse.duckdb"))
    with warehouse.get_connection() as connection:
        ingest(connection, settings, lambda: NOON)
    monkeypatch.setattr(retry_sensors, "utc_now", lambda: NOON)
    (external,) = retry_sensors.build_sensors(settings)
    with dg.build_sensor_context(instance=instance, resources={"warehouse": warehouse}) as context:
        (request,) = external(context)
    assert {name.rsplit("_", 1)[-1]: day for name, day in request.tags.items()} == {
        "start": "2025-01-06",
        "end": "2025-01-07",
    }


def test_a_run_whose_machine_died_holds_its_sensor_back_for_a_day(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays `started` in Dagster's eyes, for ever: nobody is left who could say otherwise."""
    started = dg.DagsterRun(job_name="shop_build_job", status=dg.DagsterRunStatus.STARTED)
    instance.add_run(started)
    assert under_way(instance, "shop", "training", "build") == "shop_build_job"
    assert under_way(instance, "shop", "training") is None
    for later, holds in ((-timedelta(minutes=1), True), (timedelta(minutes=1), False)):
        now = utc_now() + GIVEN_UP_AFTER + later
        monkeypatch.setattr(automation, "utc_now", lambda now=now: now)
        assert bool(under_way(instance, "shop", "build")) is holds
