"""Promise: a step is repeated only if that helps, and repeats only what has no answer yet."""

import json
from datetime import timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_patterns.partitions import range_tags
from ml_patterns.retry.assets import build_assets
from ml_patterns.retry.settings import RetrySettings
from ml_patterns.retry.steps import step_wait
from ml_patterns.sandbox.upstream import serve_upstream
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.retry.test_external import SELECT
from ml_patterns_tests.retry.virtual import highest

KEY = dg.AssetKey(["deliveries", "external", "weather"])

# Dagster calls backfill policies beta; we need them, and the lock file pins what they do.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def settings_for(url: str, attempts: int = 2) -> PipelineSettings:
    template = "/v1/archive?start_date={start}&end_date={end}&daily=rain_sum"
    return PipelineSettings.model_validate(
        {
            "name": "deliveries",
            "events": {
                "path": "none",
                "id": "id",
                "time": "time",
                "version": "version",
                "region": "region",
                "start": "2026-06-01",
                "end": "2026-06-08",
            },
            "external": [{"name": "weather", "url": url + template, "select": SELECT}],
            "retry": {
                "attempts": attempts,
                "min_wait": "0s",
                "max_wait": "0s",
                "step_retries": 2,
                "step_wait": "0s",
                "step_max_wait": "1s",
            },
        }
    )


def materialize(
    settings: PipelineSettings, folder: Path, instance: dg.DagsterInstance
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        build_assets(settings),
        instance=instance,
        tags=range_tags("2026-06-01", "2026-06-03"),
        resources={
            "warehouse": WarehouseResource(database=str(folder / "w.duckdb")),
            "operational": OperationalResource(url=f"sqlite:///{folder / 'state.sqlite'}"),
        },
        raise_on_error=False,
    )


def days(folder: Path) -> list[str]:
    with duckdb.connect(str(folder / "w.duckdb")) as connection:
        rows = connection.execute("SELECT date FROM deliveries.external_weather ORDER BY 1")
        return [day.isoformat() for (day,) in rows.fetchall()]


def test_a_step_retry_asks_only_for_the_days_without_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    # The first day fails once and is answered; the second is out of attempts.
    script = [{"status": 503}, {"hang": 0}, {"status": 503}, {"status": 503}]
    with dg.DagsterInstance.ephemeral() as instance, serve_upstream(script) as upstream:
        result = materialize(settings_for(upstream.url), tmp_path, instance)
        assert result.success
        assert upstream.requests == 2 + 2 + 2
        records = instance.fetch_materializations(KEY, limit=100).records
    assert days(tmp_path) == ["2026-06-01", "2026-06-02", "2026-06-03"]
    events = [record.asset_materialization for record in records]
    told = {
        event.partition: event.metadata
        for event in events
        if event and "attempts" in event.metadata
    }
    assert [told[day]["attempts"].value for day in sorted(told)] == [2, 3, 1], "all layers"
    assert [told[day]["step_retry"].value for day in sorted(told)] == [0, 1, 1]


def test_ci_does_not_sleep_inside_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    with (
        dg.DagsterInstance.ephemeral() as instance,
        serve_upstream([{"status": 503}] * 9) as upstream,
    ):
        result = materialize(settings_for(upstream.url), tmp_path, instance)
        assert not result.success
        assert upstream.requests == 2


def test_a_refused_day_costs_no_other_day_and_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with dg.DagsterInstance.ephemeral() as instance, serve_upstream([{"status": 404}]) as upstream:
        result = materialize(settings_for(upstream.url), tmp_path, instance)
        assert upstream.requests == 3
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert "2026-06-01" in json.dumps(failure.event_specific_data.error.message, default=str)
    assert days(tmp_path) == ["2026-06-02", "2026-06-03"]


def test_without_external_tables_there_are_no_assets() -> None:
    settings = settings_for("http://x").model_copy(update={"external": ()})
    assert build_assets(settings) == []


def test_step_waits_are_the_missions() -> None:
    waits = [step_wait(RetrySettings(), number, uniform=highest) for number in range(8)]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


@given(st.integers(0, 100), st.none() | st.floats(0, 1e6), st.randoms())
def test_a_step_never_waits_longer_than_the_cap(
    number: int, retry_after: float | None, random: object
) -> None:
    settings = RetrySettings(step_max_wait=timedelta(hours=1))
    uniform = random.uniform  # type: ignore[attr-defined]
    wait = step_wait(settings, number, retry_after=retry_after, uniform=uniform)
    assert min(3600.0, max(30.0, retry_after or 0)) <= wait <= 3600
