"""The room's assets over three hours of features, for tests of what they promise."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import pytest

from ml_patterns.circuit_breaker.assets import build_assets
from ml_patterns.circuit_breaker.checks import build_checks
from ml_patterns.circuit_breaker.degraded import degraded_partitions
from ml_patterns.circuit_breaker.resources import ModelClientResource
from ml_patterns.circuit_breaker.sensors import build_sensors
from ml_patterns.partitions import range_tags
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.circuit_breaker.conftest import QUICK, Deployment, parcels
from ml_patterns_tests.circuit_breaker.model_server import ModelServer, serve_models

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

    def judge(self, settings: PipelineSettings) -> dg.ExecuteInProcessResult:
        """Judges the day."""
        (_predictions, quality) = build_assets(settings)
        return dg.materialize(
            [quality, *checks_on("prediction_quality", settings)],
            instance=self.instance,
            tags=range_tags("2026-06-01", "2026-06-01"),
            resources=self.resources,
        )

    def features(self, sql: str) -> None:
        """Changes the features: `UPDATE deliveries.event_features` and so on."""
        with duckdb.connect(str(self.warehouse)) as connection:
            connection.execute(sql)

    def heal_tick(self) -> list[dict[str, str]]:
        """The ranges that the healing sensor requests."""
        _, sensor, *_ = build_sensors(SETTINGS)
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
