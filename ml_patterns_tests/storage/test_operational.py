"""The operational database: instants keep their zone, and readers wait for nobody."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_patterns.registry.tables import regions
from ml_patterns.storage.operational import engine_for, reading

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = engine_for(f"sqlite:///{tmp_path / 'deep' / 'state.sqlite'}")
    yield engine
    engine.dispose()


def insert(connection: sa.Connection, region: str, seen: datetime = NOON) -> None:
    connection.execute(
        sa.insert(regions).values(pipeline="shop", region=region, first_seen_at=seen)
    )


def test_a_process_has_one_engine_per_url(engine: sa.Engine) -> None:
    assert engine_for(engine.url.render_as_string(hide_password=False)) is engine


def test_an_instant_comes_back_in_utc(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "eu", NOON.astimezone(timezone(timedelta(hours=5))))
    with reading(engine) as connection:
        seen = connection.scalars(sa.select(regions.c.first_seen_at)).one()
    assert (seen, seen.tzinfo) == (NOON, UTC)


def test_an_instant_without_a_zone_is_refused(engine: sa.Engine) -> None:
    with (
        pytest.raises(sa.exc.StatementError, match="has no time zone"),
        engine.begin() as connection,
    ):
        insert(connection, "eu", NOON.replace(tzinfo=None))


def test_a_reader_sees_the_last_commit_while_a_writer_is_busy(engine: sa.Engine) -> None:
    with engine.begin() as writer:
        insert(writer, "eu")
        with reading(engine) as reader:
            assert reader.scalars(sa.select(regions.c.region)).all() == []
    with reading(engine) as reader:
        assert reader.scalars(sa.select(regions.c.region)).all() == ["eu"]


def test_a_write_that_fails_leaves_nothing(engine: sa.Engine) -> None:
    def twice() -> None:
        with engine.begin() as connection:
            insert(connection, "eu")
            insert(connection, "eu")

    with pytest.raises(sa.exc.IntegrityError):
        twice()
    with reading(engine) as reader:
        assert reader.scalars(sa.select(regions.c.region)).all() == []
