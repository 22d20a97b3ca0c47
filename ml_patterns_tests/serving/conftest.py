"""A registry with real models, and the model server as a process of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import pytest

from ml_patterns.branching.policy import Policy
from ml_patterns.registry.registry import Champion, ModelVersion, Registry
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import Feature, Golden, ModelCard, Window
from ml_patterns.storage.operational import engine_for

PIPELINE = "deliveries"
FEATURES = (
    Feature(name="distance", type="numeric"),
    Feature(name="carrier", type="categorical", categories=("air", "road", "sea")),
    Feature(name="parcels", type="numeric"),
)
_SLICE = Window(start=None, end=None, rows=400, positives=200)


def sample_matrix(rows: int, seed: int = 0) -> np.ndarray:
    """Encoded rows with missing numbers, missing categories and one that was never seen."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, len(FEATURES)))
    matrix[:, 1] = random.integers(0, 4, size=rows)
    matrix[random.random(size=matrix.shape) < 0.15] = np.nan
    return matrix


def edge_matrix(booster: lightgbm.Booster) -> np.ndarray:
    """Rows on both sides of every numeric threshold, one bit apart."""
    table = booster.trees_to_dataframe()
    splits = table[table["decision_type"] == "<="]
    edges = splits[["split_feature", "threshold"]].drop_duplicates()
    matrix = sample_matrix(2 * len(edges), seed=3)
    for row, (feature, threshold) in enumerate(edges.itertuples(index=False)):
        column = booster.feature_name().index(feature)
        matrix[2 * row, column] = float(threshold)
        matrix[2 * row + 1, column] = np.nextafter(float(threshold), np.inf)
    return matrix


def train(seed: int, *, rounds: int = 8) -> lightgbm.Booster:
    """A small model whose predictions differ from those of any other seed."""
    matrix = sample_matrix(400, seed)
    random = np.random.default_rng(seed + 1)
    score = np.nan_to_num(matrix[:, 0]) + (matrix[:, 1] == 1) + random.normal(size=400)
    parameters = {
        "objective": "binary",
        "num_leaves": 7,
        "min_data_in_leaf": 5,
        "verbosity": -1,
        "num_threads": 1,
        "seed": seed,
    }
    data = lightgbm.Dataset(matrix, label=score > 0, categorical_feature=[1])
    return lightgbm.train(parameters, data, num_boost_round=rounds)


def card_of(region: str, seed: int) -> ModelCard:
    """A card for `train(seed)`."""
    return ModelCard(
        pipeline=PIPELINE,
        region=region,
        kind="own",
        reason="made for a test",
        features=FEATURES,
        base_rate=0.5,
        rounds=8,
        candidate={"num_leaves": 7},
        seed=seed,
        training_key=f"key-{seed}",
        data_fingerprint=f"data-{seed}",
        train=_SLICE,
        validation=_SLICE,
        test=_SLICE,
        metrics={},
        importances={},
        golden=Golden(rows=(), predictions=()),
        versions={},
    )


@dataclass
class House:
    """An installation in a folder: registry, artifacts, and the truth about each version."""

    folder: Path
    state_url: str
    registry: Registry
    artifacts: ArtifactStore
    truth: dict[tuple[str, int], lightgbm.Booster]

    @classmethod
    def build(cls, folder: Path, state_url: str | None = None) -> "House":
        """An empty installation; without an address its registry is a SQLite file."""
        url = state_url or f"sqlite:///{folder / 'state.sqlite'}"
        return cls(
            folder, url, Registry(engine_for(url)), ArtifactStore(str(folder / "artifacts")), {}
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this installation."""
        return {
            "ML_PATTERNS_WAREHOUSE": str(self.folder / "warehouse.duckdb"),
            "ML_PATTERNS_STATE_URL": self.state_url,
            "ML_PATTERNS_ARTIFACTS": str(self.folder / "artifacts"),
        }

    def register(self, region: str, seed: int, *, rounds: int = 8) -> ModelVersion:
        """Trains and registers a version without promoting it."""
        booster = train(seed, rounds=rounds)
        address = self.artifacts.put(booster.model_to_string(), card_of(region, seed))
        version = self.registry.register(
            pipeline=PIPELINE,
            region=region,
            artifact=address,
            kind="own",
            training_key=f"key-{seed}",
        )
        self.truth[region, version.number] = booster
        return version

    def promote(self, version: ModelVersion) -> Champion:
        """Judges a version good and makes it the champion."""
        generation = self.registry.generation(version.pipeline, version.region)
        decision = self.registry.record_decision(
            version,
            verdict="deploy",
            reason="made for a test",
            evidence={},
            policy=Policy(),
            test_fingerprint="none",
            champion_generation=generation,
        )
        return self.registry.promote(
            version,
            expected_generation=generation,
            decision=decision,
            actor="test",
            reason="made for a test",
        )

    def deploy(self, region: str, seed: int, *, rounds: int = 8) -> ModelVersion:
        """Trains, registers and promotes a version."""
        version = self.register(region, seed, rounds=rounds)
        self.promote(version)
        return version

    def rollback(self, region: str) -> Champion:
        """Returns a region to its champion before."""
        return self.registry.rollback(
            PIPELINE, region, to_generation=None, actor="test", reason="made for a test"
        )

    def break_artifact(self, version: ModelVersion) -> None:
        """Alters a version's model text as it lies in the store."""
        path = self._model_file(version)
        path.write_text(path.read_text().replace("leaf_value=", "leaf_value=9", 1))

    def mend_artifact(self, version: ModelVersion) -> None:
        """Undoes `break_artifact`."""
        path = self._model_file(version)
        path.write_text(path.read_text().replace("leaf_value=9", "leaf_value=", 1))

    def expected(self, region: str, number: int, matrix: np.ndarray) -> np.ndarray:
        """What LightGBM itself says."""
        return np.asarray(self.truth[region, number].predict(matrix, num_threads=1))

    def _model_file(self, version: ModelVersion) -> Path:
        address = version.artifact
        return self.folder / "artifacts" / address[:2] / address / "model.txt"


@dataclass
class Server:
    """A running model server."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])


_PROGRAM = """
import sys
from ml_patterns.installation import Installation
from ml_patterns.serving.run import serve
from ml_patterns.serving.settings import ServerSettings
serve(ServerSettings.model_validate_json(sys.argv[1]), Installation.from_environment())
"""

StartServer = Callable[..., contextlib.AbstractContextManager[Server]]


@contextlib.contextmanager
def running_server(house: House, **settings: Any) -> Iterator[Server]:
    """The model server over an installation, on a free port, until the block ends."""
    import json

    log = house.folder / f"server-{os.urandom(4).hex()}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps({"port": 0, **settings})],
            env={**os.environ, **house.environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), log.read_text()
        yield Server(process, line.removeprefix("listening on ").strip(), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """One region with two versions, the second serving; not to be changed."""
    house = House.build(tmp_path_factory.mktemp("house"))
    house.deploy("eu", 1)
    house.deploy("eu", 2)
    house.register("us_west", 3)
    return house


@pytest.fixture(scope="session")
def client(shared_house: House) -> Iterator[httpx.Client]:
    """Talks to a server over the shared house, with limits small enough to meet."""
    with (
        running_server(shared_house, max_rows=1000, max_body_bytes=200_000) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        yield client


@pytest.fixture
def house(tmp_path: Path) -> House:
    """An installation of the test's own."""
    return House.build(tmp_path)


def body_of(matrix: np.ndarray, **changes: Any) -> dict[str, Any]:
    """A JSON inference request; NaN is written as null."""
    tensor = {
        "name": "input",
        "datatype": "FP64",
        "shape": list(matrix.shape),
        "data": [None if np.isnan(value) else value for value in matrix.ravel().tolist()],
    }
    tensor.update(changes)
    return {"id": "42", "inputs": [{k: v for k, v in tensor.items() if v is not ...}]}


def values_of(response: httpx.Response) -> np.ndarray:
    """The predictions of a JSON answer."""
    assert response.status_code == 200, response.text
    return np.array(response.json()["outputs"][0]["data"])
