"""Promise: partitions are answered in an outage too, remembered, and healed by adding answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import pytest

from ml_patterns.circuit_breaker.assets import build_assets
from ml_patterns.circuit_breaker.checks import build_checks
from ml_patterns.circuit_breaker.client import breaker_name
from ml_patterns.circuit_breaker.degraded import degraded_partitions
from ml_patterns.circuit_breaker.resources import ModelClientResource
from ml_patterns.circuit_breaker.sensors import build_sensors
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.partitions import range_tags
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.circuit_breaker.conftest import QUICK, Deployment, parcels
from ml_patterns_tests.circuit_breaker.model_server import ModelServer, always, serve_models
from ml_patterns_tests.circuit_breaker.model_server import healthy as as_it_should

# Dagster calls backfill policies beta; we need them, and the lock file pins what they do.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

HOURS = [datetime(2026, 6, 1, hour, tzinfo=UTC) for hour in range(3)]
KEYS = ["2026-06-01-00:00", "2026-06-01-01:00", "2026-06-01-02:00"]
SETTINGS = PipelineSettings.model_validate(
    {
        "name": "deliveries",
        "events": {
            "path": "none",
            "id": "id",
            "time": "time",
            "version": "version",
            "region": "region",
            "start": "2026-06-01",
            "end": "2026-06-02",
        },
        "predictions": QUICK | {"breaker": QUICK["breaker"] | {"reset_timeout": "0s"}},
    }
)


@dataclass
class Room:
    """The room's assets over three hours of features in two regions, one without a model."""

    deployment: Deployment
    server: ModelServer
    instance: dg.DagsterInstance

    @property
    def warehouse(self) -> Path:
        return self.deployment.house.folder / "w.duckdb"

    @property
    def resources(self) -> dict[str, object]:
        return {
            "warehouse": WarehouseResource(database=str(self.warehouse)),
            "operational": OperationalResource(url=self.deployment.state_url),
            "model_client": ModelClientResource(
                model_url=self.server.url,
                state_url=self.deployment.state_url,
                artifacts_root=str(self.deployment.house.folder / "artifacts"),
            ),
        }

    def predict(
        self, first: int = 0, last: int = 2, **predictions_settings: object
    ) -> dg.ExecuteInProcessResult:
        block = SETTINGS.predictions.model_copy(update=predictions_settings)
        settings = SETTINGS.model_copy(update={"predictions": block})
        (predictions, _quality) = build_assets(settings)
        return dg.materialize(
            [predictions, *checks_on("predictions", settings)],
            instance=self.instance,
            tags=range_tags(KEYS[first], KEYS[last]),
            resources=self.resources,
            raise_on_error=False,
        )

    def heal_tick(self) -> list[dict[str, str]]:
        """The ranges that the healing sensor requests."""
        (sensor,) = build_sensors(SETTINGS)
        context = dg.build_sensor_context(
            instance=self.instance,
            resources=self.resources,
            definitions=dg.Definitions(assets=build_assets(SETTINGS), resources=self.resources),
        )
        tick = sensor.evaluate_tick(context)
        return [
            {name: value for name, value in request.tags.items() if "partition_range" in name}
            for request in tick.run_requests or []
        ]

    def query(self, sql: str) -> list[tuple[object, ...]]:
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def degraded(self) -> list[datetime]:
        return degraded_partitions(self.deployment.engine, "deliveries")


@pytest.fixture
def room(deployment: Deployment) -> Iterator[Room]:
    frames = []
    for number, hour in enumerate(HOURS):
        frame = parcels(8, seed=number).drop(columns="not_a_feature")
        frame["partition_start"] = pd.Timestamp(hour).tz_localize(None)
        frame["event_id"] = [f"{number}-{row}" for row in range(8)]
        frame["event_time"] = frame["partition_start"]
        frame["region"] = ["eu"] * 6 + ["moon"] * 2
        frame["label"] = [True, False] * 4
        frames.append(frame)
    features = pd.concat(frames)
    assert len(features) == 24
    with (
        serve_models() as server,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        made = Room(deployment, server, instance)
        with duckdb.connect(str(made.warehouse)) as connection:
            connection.execute("CREATE SCHEMA deliveries")
            connection.execute("CREATE TABLE deliveries.event_features AS SELECT * FROM features")
        yield made


def checks_on(asset: str, settings: PipelineSettings) -> list[dg.AssetChecksDefinition]:
    key = dg.AssetKey(["deliveries", asset])
    return [
        check for check in build_checks(settings) if next(iter(check.check_keys)).asset_key == key
    ]


def told(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, object]]:
    events = result.asset_materializations_for_node("deliveries__predictions")
    return {
        str(event.partition): {name: value.value for name, value in event.metadata.items()}
        for event in events
    }


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {
        evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()
    }


def test_a_healthy_server_answers_every_partition_live(room: Room) -> None:
    result = room.predict()
    assert result.success
    by_partition = told(result)
    assert sorted(by_partition) == KEYS
    for metadata in by_partition.values():
        assert (metadata["rows_live"], metadata["rows_base_rate"]) == (6, 2)
        assert metadata["rows_without_model"] == 2
        assert metadata["fallback_rate"] == 0
        assert metadata["http_attempts"] == 1
        assert metadata["breaker"] == "closed"
    assert room.degraded() == []
    found = checks(result)
    assert found["every_row_answered"].passed
    assert found["fallback_rate"].passed


def test_an_outage_is_answered_remembered_and_healed(room: Room) -> None:
    assert room.predict(0, 0).success
    room.server.behaviour = always(503)
    outage = room.predict(1, 2)
    assert outage.success, "an outage fails no partition"
    assert room.degraded() == HOURS[1:]
    found = checks(outage)
    assert found["every_row_answered"].passed
    assert not found["fallback_rate"].passed
    assert found["fallback_rate"].severity is dg.AssetCheckSeverity.ERROR

    room.server.behaviour = as_it_should
    healed = room.predict(1, 2)
    assert room.degraded() == []
    assert [metadata["rows_live"] for metadata in told(healed).values()] == [6, 6]
    assert all(metadata["healed"] for metadata in told(healed).values())
    assert checks(healed)["fallback_rate"].passed
    by_answers = room.query(
        "SELECT answers, count(*) FROM (SELECT event_id, count(*) AS answers "
        "FROM deliveries.predictions GROUP BY 1) GROUP BY 1 ORDER BY 1"
    )
    assert by_answers == [(1, 8), (2, 16)], "healing adds answers, it rewrites none"


def test_healing_asks_only_for_rows_without_a_live_answer(room: Room) -> None:
    """Batches of four: the first is answered, the second meets an outage."""
    first_batch_only = iter([None])
    room.server.behaviour = lambda _rows: next(first_batch_only, 503)
    room.predict(0, 0, batch_rows=4)
    assert room.degraded() == HOURS[:1]
    room.server.behaviour = as_it_should
    room.server.sizes.clear()
    room.predict(0, 0)
    assert room.server.sizes == [2], "four of six rows were live already"
    assert room.degraded() == []


def test_the_sensor_requests_exactly_the_degraded_partitions(room: Room) -> None:
    assert room.heal_tick() == []
    room.server.behaviour = always(503)
    room.predict(0, 0)
    room.predict(2, 2)
    breaker = OperationalStore(room.deployment.engine)
    assert breaker.read(breaker_name(room.server.url)).state == "open"
    assert room.heal_tick() == [range_tags(KEYS[0], KEYS[0])], "a probe is due: one partition"
    room.server.behaviour = as_it_should
    room.predict(1, 1)
    assert breaker.read(breaker_name(room.server.url)).state == "closed"
    assert room.heal_tick() == [range_tags(KEYS[0], KEYS[0]), range_tags(KEYS[2], KEYS[2])]


def test_quality_is_judged_per_region_and_source(room: Room) -> None:
    room.predict()
    _, quality = build_assets(SETTINGS)
    result = dg.materialize(
        [quality, *checks_on("prediction_quality", SETTINGS)],
        instance=room.instance,
        partition_key="2026-06-01",
        resources=room.resources,
    )
    assert result.success
    accuracy_check = checks(result)["live_accuracy"]
    assert not accuracy_check.passed, "labels drawn at random"
    assert accuracy_check.severity is dg.AssetCheckSeverity.WARN
    assert accuracy_check.metadata["regions_below"].value == "eu"
    judged = room.query(
        "SELECT region, source, rows, correct, accuracy, lower_bound "
        "FROM deliveries.prediction_quality ORDER BY region"
    )
    assert [(row[0], row[1], row[2]) for row in judged] == [
        ("eu", "live", 18),
        ("moon", "base_rate", 6),
    ]
    for _, _, rows, correct, accuracy, bound in judged:
        assert accuracy == correct / rows  # type: ignore[operator]
        assert 0 < bound < accuracy  # type: ignore[operator]
    expected = room.query(
        "SELECT count(*) FROM deliveries.event_features "
        "WHERE region = 'eu' AND (distance >= 0.5) = label"
    )
    assert judged[0][3] == expected[0][0]


def test_an_answer_from_long_ago_is_warned_of(room: Room) -> None:
    assert checks(room.predict(0, 0, stale_after=timedelta(0)))["staleness"].passed
    room.server.behaviour = always(503)
    found = checks(room.predict(0, 0, stale_after=timedelta(0)))
    assert not found["staleness"].passed
    assert found["staleness"].metadata["oldest_answer_s"].value > 0
    assert checks(room.predict(0, 0))["staleness"].passed
