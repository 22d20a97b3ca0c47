"""A production installation: two databases of a real PostgreSQL and the committed dagster.yaml."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_patterns.sandbox.upstream import serve_upstream
from ml_patterns_tests.registry.conftest import fresh_database
from ml_patterns_tests.registry.postgres import postgres_server

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LAST_DAY = "parcels-2026-06-04"


@dataclass(frozen=True)
class Production:
    """A folder and the environment of its processes."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of this environment in the project."""
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def empty(self, variable: str) -> None:
        """Drops the database of an environment variable and creates it anew."""
        url = sa.make_url(self.environment[variable]).set(drivername="postgresql+psycopg")
        server = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            for command in ("DROP DATABASE {} WITH (FORCE)", "CREATE DATABASE {}"):
                connection.execute(sa.text(command.format(url.database)))
        server.dispose()

    @property
    def state_url(self) -> str:
        """Of the operational database."""
        return self.environment["ML_PATTERNS_STATE_URL"]

    @property
    def warehouse(self) -> Path:
        """The DuckDB file."""
        return Path(self.environment["ML_PATTERNS_WAREHOUSE"])


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """Four days of events, nothing computed yet."""
    pytest.importorskip(
        "dagster_postgres", reason="the extra `production` (dagster-postgres) is not installed"
    )
    folder = tmp_path_factory.mktemp("production")
    (folder / "dagster").mkdir()
    (folder / "events").mkdir()
    shutil.copy(PROJECT / "deploy" / "dagster.yaml", folder / "dagster")
    for file in (PROJECT / "data" / "deliveries" / "events").iterdir():
        if file.name[: len(LAST_DAY)] <= LAST_DAY:
            shutil.copy(file, folder / "events")
    with postgres_server() as url, serve_upstream(()) as upstream:
        environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "CI": "true",
            "DAGSTER_HOME": str(folder / "dagster"),
            "DAGSTER_POSTGRES_URL": fresh_database(url).replace("+psycopg:", "+psycopg2:"),
            "ML_PATTERNS_STATE_URL": fresh_database(url),
            "ML_PATTERNS_WAREHOUSE": str(folder / "warehouse.duckdb"),
            "ML_PATTERNS_ARTIFACTS": str(folder / "artifacts"),
            "ML_PATTERNS_EVENTS": str(folder / "events"),
            "ML_PATTERNS_WEATHER_URL": upstream.url,
            "ML_PATTERNS_MODEL_URL": "http://127.0.0.1:9",  # nobody listens there
        }
        yield Production(folder, environment)
