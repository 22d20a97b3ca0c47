"""A failed run is told to the team: at least once, under one key, whoever started it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from ml_patterns.base import utc_now
from ml_patterns.branching.notify import deliver
from ml_patterns.maintenance.alerts import FailedRun, report_failed_run
from ml_patterns.maintenance.sensors import build_sensors
from ml_patterns.registry.outbox import notifications
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import OperationalResource
from ml_patterns_tests.loopback import serving


@pytest.fixture
def state(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.sqlite'}"


@pytest.fixture
def settings() -> PipelineSettings:
    events = {"path": "e/*.csv", "id": "i", "time": "t", "version": "v", "region": "r"}
    return PipelineSettings.model_validate(
        {"name": "shop", "events": {**events, "start": "2026-01-01"}}
    )


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


@dg.asset(key=["shop", "table"])
def broken_table() -> None:
    raise ValueError("the shelf is empty")


@dg.asset(key=["other", "table"])
def foreign_table() -> None:
    raise ValueError("none of ours")


def fail(instance: dg.DagsterInstance, job: str, asset: dg.AssetsDefinition) -> str:
    """A recorded run of an asset that fails; its id."""
    definitions = dg.Definitions(assets=[asset], jobs=[dg.define_asset_job(job, selection=[asset])])
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False
    )
    assert not result.success
    return result.run_id


def look(
    instance: dg.DagsterInstance, settings: PipelineSettings, state: str, cursor: str | None = None
) -> tuple[str, str | None]:
    """One tick of the sensor: what it says, and its cursor."""
    (sensor,) = build_sensors(settings)
    with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
        said = sensor(context, operational=OperationalResource(url=state))
        assert isinstance(said, dg.SkipReason)
        return str(said.skip_message), context.cursor


def test_it_is_stopped_until_somebody_starts_it(settings: PipelineSettings) -> None:
    (sensor,) = build_sensors(settings)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_a_failed_run_is_told_once_with_its_error(
    instance: dg.DagsterInstance, settings: PipelineSettings, state: str
) -> None:
    run = fail(instance, "shop_build_job", broken_table)
    fail(instance, "other_build_job", foreign_table)
    fail(instance, "shop_eu_build_job", foreign_table)
    said, cursor = look(instance, settings, state)
    assert said == f"1 failed runs reported {run}"
    for again in (cursor, None):
        assert look(instance, settings, state, again)[0] == "0 failed runs reported"
    (told,) = notifications(engine_for(state))
    assert (told.key, told.pipeline, told.kind) == (f"{run}/shop", "shop", "run_failed")
    assert told.payload["reason"] == (
        f"shop_build_job, run {run}: shop__table: ValueError: the shelf is empty"
    )


def test_a_run_that_fails_later_is_found_from_the_cursor(
    instance: dg.DagsterInstance, settings: PipelineSettings, state: str
) -> None:
    fail(instance, "shop_build_job", broken_table)
    _, cursor = look(instance, settings, state)
    run = fail(instance, "shop_training_job", broken_table)
    said, _ = look(instance, settings, state, cursor)
    assert said == f"1 failed runs reported {run}"


def test_an_alert_survives_a_database_that_is_down(
    instance: dg.DagsterInstance, settings: PipelineSettings, state: str, tmp_path: Path
) -> None:
    """A run fails because the database is down: its alert must not be lost with it."""
    _, cursor = look(instance, settings, state)
    run = fail(instance, "shop_build_job", broken_table)
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        look(instance, settings, f"sqlite:///{tmp_path / 'file' / 'state.sqlite'}", cursor)
    said, _ = look(instance, settings, state, cursor)
    assert said == f"1 failed runs reported {run}"


@dataclass
class Webhook:
    """A server that answers 503 as often as it is told to, and remembers what it got."""

    refusals: int
    url: str = ""
    got: list[tuple[str, dict[str, object]]] = field(default_factory=list)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook(refusals=1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.got.append((self.headers["Idempotency-Key"], json.loads(body)))
            hook.refusals -= 1
            self.send_response(503 if hook.refusals >= 0 else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with serving(Handler) as hook.url:
        yield hook


def test_the_webhook_gets_it_until_it_takes_it(state: str, webhook: Webhook) -> None:
    engine = engine_for(state)
    run = FailedRun("4f1c", "shop_build_job", "the process died", retried=True)
    assert report_failed_run(engine, "shop", run)
    assert not report_failed_run(engine, "shop", run)
    assert [deliver(engine, webhook.url).delivered for _ in range(3)] == [0, 1, 0]
    assert {key for key, _ in webhook.got} == {"4f1c/shop"}
    assert len(webhook.got) == 2
    assert webhook.got[1][1]["text"] == (
        "shop run failed: shop_build_job, run 4f1c: the process died; Dagster starts it again"
    )


def test_a_run_of_two_pipelines_is_told_to_both(state: str) -> None:
    engine = engine_for(state)
    for pipeline in ("shop", "depot"):
        assert report_failed_run(engine, pipeline, FailedRun("4f1c", "__ASSET_JOB", "no"))
    with engine.connect() as connection:
        oldest = connection.scalar(sa.text("SELECT min(created_at) FROM registry_outbox"))
    assert oldest is not None
    assert {told.pipeline for told in notifications(engine)} == {"shop", "depot"}
    assert all(utc_now() - told.created_at < timedelta(hours=1) for told in notifications(engine))
