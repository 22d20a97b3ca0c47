"""The registry on PostgreSQL: the same promises, and what only it can do to the server."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from ml_patterns_tests.registry.conftest import fresh_database
from ml_patterns_tests.registry.postgres import postgres_server
from ml_patterns_tests.serving.conftest import (
    House,
    body_of,
    running_server,
    sample_matrix,
    values_of,
)
from ml_patterns_tests.serving.test_fleet import _until

INFER = "/v2/models/deliveries.eu/infer"
MATRIX = sample_matrix(7, seed=5)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


def test_the_fleet_follows_a_registry_on_postgresql(tmp_path: Path, postgres: str) -> None:
    """By two workers, through promotion, rollback and connections that the database ends."""
    house = House.build(tmp_path, fresh_database(postgres))
    house.deploy("eu", 1)
    with (
        running_server(house, workers=2) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):

        def serves(version: int) -> bool:
            response = client.post(INFER, json=body_of(MATRIX))
            said = int(response.json()["model_version"])
            assert values_of(response).tobytes() == house.expected("eu", said, MATRIX).tobytes()
            return said == version

        assert serves(1)
        house.deploy("eu", 2)
        _until(lambda: serves(2))
        with house.registry.engine.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        assert serves(2)
        house.rollback("eu")
        _until(lambda: serves(1))
        second = client.post("/v2/models/deliveries.eu/versions/2/infer", json=body_of(MATRIX))
        assert values_of(second).tobytes() == house.expected("eu", 2, MATRIX).tobytes()


def test_a_name_that_postgresql_cannot_hold_is_404(tmp_path: Path, postgres: str) -> None:
    """NUL is a character for SQLite and an error for PostgreSQL; to a client it is no model."""
    house = House.build(tmp_path, fresh_database(postgres))
    house.deploy("eu", 1)
    with (
        running_server(house) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        for name in ("%00", "deliveries.eu%00", "deliveries%00.eu", "deliveries.%F0%9F%98%80"):
            for path in (f"/v2/models/{name}/versions/1", f"/v2/models/{name}"):
                assert client.get(path).status_code == 404
