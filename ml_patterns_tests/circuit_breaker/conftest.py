"""A region with a champion, and clients for it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_patterns.circuit_breaker.client import ModelClient
from ml_patterns.circuit_breaker.settings import PredictionsSettings
from ml_patterns.registry.registry import Registry
from ml_patterns.retry.settings import RetrySettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.registry.conftest import postgres, url
from ml_patterns_tests.serving.conftest import House

__all__ = ["postgres", "url"]

# Waits are short; time-outs are not, so that a busy machine does not make an answer late. Where a
# time-out is what a test is about, it is IMPATIENT.
QUICK = {
    "request_timeout": "10s",
    "deadline": "30s",
    "min_wait": "0.001s",
    "max_wait": "0.002s",
    "breaker": {"fail_max": 5, "reset_timeout": "60s", "admission_cache": "0s"},
}
IMPATIENT = {"request_timeout": "0.3s", "deadline": "2s"}


def parcels(rows: int, seed: int = 1) -> pd.DataFrame:
    """Rows as the champion knows them, with an index of their own."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "distance": random.random(rows),
            "carrier": random.choice(["air", "road", "sea", "mule"], rows),
            "parcels": random.integers(0, 9, rows),
            "not_a_feature": "x",
        },
        index=[f"row-{number}" for number in range(rows)],
    )


@dataclass
class Deployment:
    """An installation with a champion in `eu`."""

    house: House

    @property
    def state_url(self) -> str:
        return self.house.environment["ML_PATTERNS_STATE_URL"]

    @property
    def engine(self) -> sa.Engine:
        return engine_for(self.state_url)

    @property
    def registry(self) -> Registry:
        return self.house.registry

    def client(self, url: str, *, retry: RetrySettings | None = None, **more: Any) -> ModelClient:
        """A client with short waits."""
        settings = PredictionsSettings.model_validate(QUICK | more)
        artifacts = ArtifactStore(str(self.house.folder / "artifacts"))
        return ModelClient(self.engine, artifacts, url, settings, retry)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> House:
    """What every test begins with; copied, because building it anew each time takes longer."""
    house = House.build(tmp_path_factory.mktemp("installed"))
    house.deploy("eu", seed=1)
    house.registry.engine.dispose()  # the last connection leaves one file, without its log
    return house


@pytest.fixture
def deployment(installed: House, tmp_path: Path) -> Deployment:
    shutil.copytree(installed.folder, tmp_path, dirs_exist_ok=True)
    house = House.build(tmp_path)
    house.truth.update(installed.truth)
    return Deployment(house)
