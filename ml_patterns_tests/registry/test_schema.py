"""The schema of the operational database: one version, reached from anything older."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ml_patterns.circuit_breaker import tables as circuit_breaker_tables
from ml_patterns.errors import UserError
from ml_patterns.registry import tables
from ml_patterns.registry.registry import Registry
from ml_patterns.retry import tables as retry_tables
from ml_patterns.storage import schema
from ml_patterns.storage.migrations.versions import v1_first_schema
from ml_patterns.storage.operational import engine_for, metadata, reading

ROOMS = (circuit_breaker_tables, retry_tables, tables)
"""Importing them puts their tables on `metadata`."""


@pytest.fixture
def before_versions(url: str) -> Iterator[sa.Engine]:
    """A database as it was made before there were versions, with a row in it."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        metadata.create_all(connection)
        for statement in v1_first_schema._TRIGGERS[engine.dialect.name]:
            connection.exec_driver_sql(statement)
        connection.execute(
            sa.insert(tables.regions).values(
                pipeline="shop", region="eu", first_seen_at=datetime(2026, 1, 5, tzinfo=UTC)
            )
        )
    yield engine
    engine.dispose()


def version(engine: sa.Engine) -> str | None:
    with reading(engine) as connection:
        return schema.version_of(connection)


def differences(engine: sa.Engine) -> list[object]:
    """Between a database and the tables as the code knows them."""
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": schema.VERSION_TABLE}
        )
        return list(compare_metadata(context, metadata))


def audited(engine: sa.Engine) -> None:
    """Writes to the audit log, and sees it refuse a change."""
    registry = Registry(engine)
    registry.register(pipeline="shop", region="eu", artifact="a", kind="own", training_key="k")
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM registry_audit"))


def test_the_revisions_make_the_tables_that_the_code_knows(url: str) -> None:
    engine = engine_for(url)
    assert len(ROOMS) == 3
    assert set(metadata.tables) <= set(sa.inspect(engine).get_table_names())
    assert differences(engine) == []
    assert version(engine) == schema.HEAD
    audited(engine)
    engine.dispose()


def test_the_newest_revision_is_the_one_that_the_code_expects() -> None:
    assert ScriptDirectory(str(schema._MIGRATIONS)).get_heads() == [schema.HEAD]


def test_a_database_without_a_version_is_taken_over_with_its_rows(
    url: str, before_versions: sa.Engine
) -> None:
    assert version(before_versions) is None
    engine = engine_for(url)
    assert version(engine) == schema.HEAD
    assert differences(engine) == []
    with reading(engine) as connection:
        assert connection.scalars(sa.select(tables.regions.c.region)).all() == ["eu"]
    audited(engine)
    engine.dispose()


def test_tables_that_a_database_without_a_version_lacks_are_added(
    url: str, before_versions: sa.Engine
) -> None:
    """Rooms got their tables one after the other."""
    with before_versions.begin() as connection:
        retry_tables.retry_budget.drop(connection)
    engine = engine_for(url)
    assert differences(engine) == []
    engine.dispose()


def test_a_database_of_a_newer_version_is_left_alone(url: str) -> None:
    engine = engine_for(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '999'")
    engine.dispose()
    engine_for.cache_clear()
    with pytest.raises(UserError, match=r"schema 999, but .* only up to \d+; install"):
        engine_for(url)
    engine = sa.create_engine(url)
    assert version(engine) == "999"
    engine.dispose()


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    url: str, before_versions: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is one transaction, on both databases."""
    with before_versions.begin() as connection:
        retry_tables.retry_budget.drop(connection)
    tables_before = set(sa.inspect(before_versions).get_table_names())

    def refuse(statement: str) -> object:
        raise OSError("no space left")

    monkeypatch.setattr("alembic.op.execute", refuse)
    with pytest.raises(OSError, match="no space"):
        engine_for(url)
    assert set(sa.inspect(before_versions).get_table_names()) == tables_before
    monkeypatch.undo()
    engine = engine_for(url)
    assert (version(engine), differences(engine)) == (schema.HEAD, [])
    engine.dispose()
