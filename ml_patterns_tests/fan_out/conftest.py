"""Made-up regions: a rule that can be learned, noise, a category, gaps.

Belongs here: frames as `read_features` returns them, and stores to put them in. Does not: promises.
"""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml_patterns.branching.policy import Policy
from ml_patterns.fan_out.batch import read_batch
from ml_patterns.fan_out.fleet import Fleet, RegionResult
from ml_patterns.fan_out.pool import Work, train_job
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.incremental.settings import EventsSettings
from ml_patterns.registry.registry import DecisionRecord, ModelVersion, Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.features import FeatureColumn
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.warehouse import Warehouse

START = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = (
    FeatureColumn("distance", "DOUBLE"),
    FeatureColumn("parcels", "BIGINT"),
    FeatureColumn("weather", "VARCHAR"),
)


def made_up(region: str, rows: int = 600, *, noise: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Rows of one region over seven days; `noise` is the share of labels turned round."""
    random = np.random.default_rng([seed, *region.encode()])
    seconds = np.sort(random.integers(0, 7 * 86_400, rows))
    distance = random.normal(size=rows)
    weather = random.choice(["dry", "rain", "snow"], rows)
    late = distance + (weather == "snow") > 0.5
    times = pd.Timestamp(START.replace(tzinfo=None)) + pd.to_timedelta(seconds, unit="s")
    times = pd.Series(times).astype("datetime64[us]")
    return pd.DataFrame(
        {
            "partition_start": times.dt.floor("h"),
            "event_id": [f"{region}-{number}" for number in range(rows)],
            "event_time": times,
            "region": region,
            "label": pd.array(late ^ (random.random(rows) < noise), dtype="boolean"),
            "distance": np.where(random.random(rows) < 0.02, np.nan, distance),
            "parcels": random.integers(1, 9, rows),
            "weather": weather,
        }
    )


def end_of(frame: pd.DataFrame) -> datetime:
    """An instant after the last row."""
    return frame["event_time"].max().to_pydatetime().replace(tzinfo=UTC) + timedelta(seconds=1)


def settings_for(**training: object) -> PipelineSettings:
    """A pipeline whose gate lets good models through; small regions go to the pooled model."""
    return PipelineSettings(
        name="parcels",
        events=EventsSettings(
            path="none/*.parquet",
            id="id",
            time="time",
            version="version",
            region="region",
            start=START.date(),
            label_delay=timedelta(hours=1),
        ),
        training=TrainingSettings(
            **{"max_rounds": 20, "min_rows": 200, "min_positives": 20, "workers": 1, **training}
        ),
        gate=Policy(deploy_at=0.88, review_at=0.75),
    )


def write_features(path: Path, *frames: pd.DataFrame) -> Warehouse:
    """A warehouse that holds these rows as `parcels.event_features`."""
    warehouse = Warehouse(path)
    rows = pd.concat(frames, ignore_index=True)
    with warehouse.connect() as connection:
        connection.register("rows_to_write", rows)
        connection.execute("CREATE SCHEMA IF NOT EXISTS parcels")
        connection.execute(
            "CREATE OR REPLACE TABLE parcels.event_features AS SELECT * FROM rows_to_write"
        )
    return warehouse


@dataclass(frozen=True)
class House:
    """Real stores in a folder."""

    folder: Path

    @property
    def warehouse(self) -> Warehouse:
        """The warehouse."""
        return Warehouse(self.folder / "warehouse.duckdb")

    @property
    def artifacts(self) -> str:
        """Root of the artifact store."""
        return str(self.folder / "artifacts")

    @property
    def state_url(self) -> str:
        """URL of the operational database."""
        return f"sqlite:///{self.folder / 'state.sqlite'}"

    @property
    def registry(self) -> Registry:
        """The registry."""
        return Registry(engine_for(self.state_url))

    def holds(self, *frames: pd.DataFrame) -> None:
        """Replaces the features."""
        write_features(self.warehouse.path, *frames)

    def newest(self, region: str) -> tuple[ModelVersion, DecisionRecord]:
        """A region's newest version and the verdict on it."""
        version = self.registry.latest("parcels", region)
        return version, self.registry.latest_decision("parcels", region, version.number)

    def promote_newest(self, region: str) -> None:
        """Makes a region's newest version its first champion."""
        version, decision = self.newest(region)
        self.registry.promote(
            version, expected_generation=0, decision=decision, actor="me", reason="test"
        )

    def train(
        self, *regions: str, settings: PipelineSettings, force: bool = False, work: Work = train_job
    ) -> dict[str, RegionResult]:
        """Trains a batch, without Dagster."""
        with self.warehouse.connect(read_only=True) as connection:
            batch = read_batch(connection, settings, regions)
        results = list(Fleet(self.registry, self.artifacts).train(batch, force=force, work=work))
        assert sorted(result.region for result in results) == sorted(regions), "each once"
        return {result.region: result for result in results}


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Empty stores."""
    return House(tmp_path)


@pytest.fixture(scope="session")
def house_of_eu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which region eu was trained once; to be copied, not used."""
    house = House(tmp_path_factory.mktemp("eu"))
    house.holds(made_up("eu"))
    (result,) = house.train("eu", settings=settings_for()).values()
    assert result.status == "trained"
    house.registry.engine.dispose()
    return house.folder


@pytest.fixture
def trained(house_of_eu: Path, tmp_path: Path) -> House:
    """Stores in which region eu has version 1, which may be deployed."""
    shutil.copytree(house_of_eu, tmp_path, dirs_exist_ok=True)
    return House(tmp_path)
