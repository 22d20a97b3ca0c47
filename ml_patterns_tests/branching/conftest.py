"""Real models on a real registry and a real artifact store, small enough to train per test."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from ml_patterns.branching.evidence import ProbeResult
from ml_patterns.branching.gate import Judgement, judge
from ml_patterns.branching.policy import Policy
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import Feature, Golden, ModelCard, Window
from ml_patterns.storage.encoding import encode
from ml_patterns.storage.operational import engine_for

START = datetime(2026, 1, 5, tzinfo=UTC)
FEATURES = (
    Feature(name="distance", type="numeric"),
    Feature(name="carrier", type="categorical", categories=("ant", "bee", "cat")),
)
WORKS = ProbeResult(True, milliseconds=0.1, size_bytes=1000)


def events(
    rows: int, *, seed: int = 0, noise: float = 0.02, start: datetime = START
) -> pd.DataFrame:
    """Labelled feature rows, one a minute; the label follows distance, save for some noise."""
    random = np.random.default_rng(seed)
    distance = random.normal(size=rows)
    label = (distance + np.where(random.random(rows) < 0.5, 0.4, -0.4) > 0) ^ (
        random.random(rows) < noise
    )
    times = pd.date_range(start.replace(tzinfo=None), periods=rows, freq="min")
    carrier = np.where(label ^ (random.random(rows) < 0.2), "ant", "bee")
    shift = np.where(distance + 0.4 > 0, np.where(distance - 0.4 > 0, 0, 1), 2)
    return pd.DataFrame(
        {
            "partition_start": times.floor("h"),
            "event_id": [f"e{seed}-{number}" for number in range(rows)],
            "event_time": times,
            "region": "eu",
            "label": pd.array(label, dtype="boolean"),
            "distance": np.where(shift == 1, np.where(label, 0.2, -0.2), distance),
            "carrier": carrier,
        }
    )


def card(frame: pd.DataFrame, booster: lgb.Booster, **changes: Any) -> ModelCard:
    """A card that fits the model."""
    matrix = encode(frame.head(5), FEATURES)
    end = START + timedelta(minutes=len(frame))
    window = Window(start=START, end=end, rows=len(frame), positives=int(frame["label"].sum()))
    values: dict[str, Any] = {
        "pipeline": "shop",
        "region": "eu",
        "kind": "own",
        "reason": "enough rows",
        "features": FEATURES,
        "base_rate": float(frame["label"].mean()),
        "rounds": booster.num_trees(),
        "candidate": {"num_leaves": 7},
        "seed": 7,
        "training_key": "key",
        "data_fingerprint": "data",
        "train": window,
        "validation": window,
        "test": window,
        "metrics": {},
        "importances": {},
        "golden": Golden(
            rows=tuple(
                tuple(None if np.isnan(value) else float(value) for value in row) for row in matrix
            ),
            predictions=tuple(np.asarray(booster.predict(matrix, num_threads=1)).tolist()),
        ),
        "versions": {"lightgbm": lgb.__version__},
    }
    return ModelCard(**(values | changes))


def fitted(frame: pd.DataFrame, *, rounds: int = 30, labels: Any = None) -> lgb.Booster:
    """A LightGBM model of a frame."""
    target = frame["label"] if labels is None else labels
    return lgb.train(
        {
            "objective": "binary",
            "num_leaves": 7,
            "min_data_in_leaf": 5,
            "learning_rate": 0.2,
            "num_threads": 1,
            "seed": 7,
            "deterministic": True,
            "verbosity": -1,
        },
        lgb.Dataset(
            encode(frame, FEATURES), np.asarray(target, dtype=float), categorical_feature=[1]
        ),
        rounds,
    )


@dataclass
class Shop:
    """A registry, a store, and what a test does with them."""

    registry: Registry
    store: ArtifactStore
    root: str
    url: str

    def judge(
        self,
        booster: lgb.Booster | str,
        model_card: ModelCard,
        test: pd.DataFrame,
        *,
        policy: Policy | None = None,
        probe: ProbeResult | None = WORKS,
        data_checks: dict[str, bool | None] | None = None,
        region: str = "eu",
    ) -> Judgement:
        """Stores, registers and judges a model."""
        text = booster if isinstance(booster, str) else booster.model_to_string()
        address = self.store.put(text, model_card)
        version = self.registry.register(
            pipeline="shop", region=region, artifact=address, kind="own", training_key=address
        )
        return judge(
            version=version,
            artifact=self.store.get(address),
            test=test,
            policy=policy or Policy(),
            registry=self.registry,
            artifacts=self.store,
            probe=probe,
            data_checks=data_checks or {},
        )


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    root, url = str(tmp_path / "artifacts"), f"sqlite:///{tmp_path / 'state.sqlite'}"
    return Shop(Registry(engine_for(url)), ArtifactStore(root), root, url)


@pytest.fixture(scope="session")
def train_frame() -> pd.DataFrame:
    return events(800, seed=1)


@pytest.fixture(scope="session")
def test_frame() -> pd.DataFrame:
    return events(600, seed=2, start=START + timedelta(days=7))


@pytest.fixture(scope="session")
def honest(train_frame: pd.DataFrame) -> tuple[lgb.Booster, ModelCard]:
    """A model that deserves to be deployed, and its card."""
    booster = fitted(train_frame)
    return booster, card(train_frame, booster)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many sabotaged models the gate stopped."""
    passed, failed = (
        sum(("sabotage", True) in report.user_properties for report in reports)
        for reports in (
            [r for r in terminalreporter.stats.get("passed", []) if r.when == "call"],
            [r for r in terminalreporter.stats.get("failed", []) if r.when == "call"],
        )
    )
    if passed or failed:
        terminalreporter.write_line(f"gate: {passed} of {passed + failed} sabotaged models stopped")
