"""Storage as Dagster resources.

Belongs here: thin shells that make the stores configurable and visible in the UI. Does not: the
stores (`warehouse.py`, `operational.py`, `artifacts.py`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import dagster as dg
import duckdb
import sqlalchemy as sa
from dagster_duckdb import DuckDBResource

from ml_patterns.installation import Installation
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.warehouse import Warehouse


class WarehouseResource(DuckDBResource):
    """The DuckDB warehouse; unlike its parent it closes the connection on an error, too."""

    def warehouse(self) -> Warehouse:
        """The warehouse itself."""
        return Warehouse(Path(self.database))

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-write connection; waits for other processes."""
        with self.warehouse().connect() as connection:
            yield connection

    def reading(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A read-only connection; waits for other processes."""
        return self.warehouse().connect(read_only=True)


class OperationalResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The operational database: registry, breaker, budgets, prediction cache."""

    url: str

    def engine(self) -> sa.Engine:
        """The process's engine for this database."""
        return engine_for(self.url)


class ArtifactsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The artifact store."""

    root: str

    def store(self) -> ArtifactStore:
        """The store itself."""
        return ArtifactStore(self.root)


def storage_resources(installation: Installation) -> dict[str, object]:
    """The three stores under the names by which assets ask for them."""
    return {
        "warehouse": WarehouseResource(database=str(installation.warehouse)),
        "operational": OperationalResource(url=installation.state_url),
        "artifacts": ArtifactsResource(root=installation.artifacts),
    }
