"""An installation with models, reviews and an audit log, on each of the two databases."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_patterns.branching.policy import Policy
from ml_patterns.installation import Installation
from ml_patterns.registry.registry import ModelVersion, Registry
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import Golden, ModelCard, Window
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.registry.conftest import fresh_database
from ml_patterns_tests.registry.postgres import postgres_server

_SPAN = Window(start=None, end=datetime(2026, 1, 5, tzinfo=UTC), rows=10, positives=3)


def card(region: str, number: int) -> ModelCard:
    """A card that no other version has."""
    return ModelCard(
        pipeline="shop", region=region, kind="own", reason="enough rows", features=(),
        base_rate=0.3, rounds=number, candidate={}, seed=1, training_key=f"{region}{number}",
        data_fingerprint="d", train=_SPAN, validation=_SPAN, test=_SPAN, metrics={},
        importances={}, golden=Golden(rows=(), predictions=()), versions={},
    )  # fmt: skip


@dataclass
class House:
    """An installation and how a test fills it."""

    installation: Installation

    @property
    def registry(self) -> Registry:
        """On the operational database."""
        return Registry(engine_for(self.installation.state_url))

    @property
    def store(self) -> ArtifactStore:
        """The artifacts."""
        return ArtifactStore(self.installation.artifacts)

    def train(self, region: str, number: int) -> ModelVersion:
        """A registered version with its artifact."""
        address = self.store.put(f"model {region} {number}\n", card(region, number))
        return self.registry.register(
            pipeline="shop", region=region, artifact=address, kind="own", training_key=address
        )

    def judge(self, version: ModelVersion, verdict: str) -> int:
        """The number of a decision on a version."""
        return self.registry.record_decision(
            version, verdict=verdict, reason=verdict, evidence={}, policy=Policy(),
            test_fingerprint="t",
            champion_generation=self.registry.generation("shop", version.region),
        ).id  # fmt: skip

    def deploy(self, region: str, number: int) -> ModelVersion:
        """A version that serves."""
        version = self.train(region, number)
        decision = self.registry.decision(self.judge(version, "deploy"))
        self.registry.promote(
            version, expected_generation=decision.champion_generation, decision=decision,
            actor="test", reason="it passed",
        )  # fmt: skip
        return version

    def write(self, rows: int) -> None:
        """Two tables of the warehouse that change together."""
        with Warehouse(self.installation.warehouse).connect() as connection:
            connection.execute(
                "CREATE SCHEMA IF NOT EXISTS shop; "
                "CREATE TABLE IF NOT EXISTS shop.left_side (n BIGINT PRIMARY KEY); "
                "CREATE TABLE IF NOT EXISTS shop.right_side (n BIGINT PRIMARY KEY); "
                "CREATE OR REPLACE VIEW shop.both AS FROM shop.left_side JOIN shop.right_side "
                "USING (n)"
            )
            start = len(connection.execute("FROM shop.left_side").fetchall())
            connection.execute("BEGIN")
            for table in ("left_side", "right_side"):
                connection.execute(
                    f"INSERT INTO shop.{table} SELECT unnest(range(?, ?))", [start, start + rows]
                )
            connection.execute("COMMIT")


def house_in(folder: Path, state_url: str | None = None) -> House:
    """An installation in a folder, nothing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    return House(
        Installation(
            folder / "warehouse.duckdb",
            state_url or f"sqlite:///{folder / 'state.sqlite'}",
            str(folder / "artifacts"),
            "http://127.0.0.1:9",
        )
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def houses(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[House, House]:
    """An installation with something in it, and an empty one of its kind."""
    urls: list[str | None] = [None, None]
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        urls = [fresh_database(server), fresh_database(server)]
    here, there = house_in(tmp_path / "here", urls[0]), house_in(tmp_path / "there", urls[1])
    here.deploy("eu", 1)
    here.deploy("eu", 2)
    here.deploy("us", 1)
    here.judge(here.train("us", 2), "review")
    here.write(100)
    return here, there
