"""Both databases, as tests want them: fresh."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_patterns_tests.registry.postgres import postgres_server

_numbers = count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has opened yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.sqlite'}"
    template: str = request.getfixturevalue("postgres")
    return fresh_database(template)


def fresh_database(template: str) -> str:
    """Creates a database on a server and returns its URL."""
    name = f"test_{next(_numbers)}"
    engine = sa.create_engine(template.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return template.format(name)
