"""A shop's table in a real database, and a pipeline whose source it is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ml_patterns.settings import PipelineSettings
from ml_patterns_tests.registry.conftest import postgres, url

__all__ = ["postgres", "url"]

VARIABLE = "SHOP_DATABASE_URL"
FIRST = datetime(2026, 3, 1, 8, tzinfo=UTC)


class Shop:
    """A table of orders that other programs write to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.engine = sa.create_engine(address, poolclass=sa.NullPool)
        self.orders = sa.Table(
            "orders", sa.MetaData(),
            sa.Column("number", sa.Integer, primary_key=True),
            sa.Column("ordered_at", sa.DateTime(timezone=True)),
            sa.Column("updated_at", sa.DateTime(timezone=True)),
            sa.Column("country", sa.String),
            sa.Column("amount", sa.Numeric(10, 2)),
            sa.Column("returned", sa.Boolean),
        )  # fmt: skip
        self.orders.create(self.engine)

    def order(self, number: int, minute: float, **values: Any) -> dict[str, Any]:
        """An order's row, updated some minutes after FIRST."""
        moment = FIRST + timedelta(minutes=minute)
        return {
            "number": number, "ordered_at": moment, "updated_at": moment, "country": "at",
            "amount": 10 + number, "returned": None, **values,
        }  # fmt: skip

    def insert(self, *rows: dict[str, Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.orders.insert(), list(rows))

    def update(self, number: int, minute: float, **values: Any) -> None:
        moment = FIRST + timedelta(minutes=minute)
        with self.engine.begin() as connection:
            connection.execute(
                self.orders.update().where(self.orders.c.number == number),
                {"updated_at": moment, **values},
            )

    def run(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement))


@pytest.fixture
def shop(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv(VARIABLE, url)
    found = Shop(url)
    yield found
    found.engine.dispose()


def pipeline(project: Path, **source: Any) -> PipelineSettings:
    """A pipeline over the table; its files land in the project's `landing`."""
    defs = project / "defs"
    defs.mkdir(exist_ok=True)
    (defs / "aggregates.sql").write_text(
        "SELECT country AS region, count(*) AS orders FROM events GROUP BY country"
    )
    (defs / "features.sql").write_text(
        "SELECT number AS event_id, ordered_at AS event_time, country AS region, "
        "returned AS label, amount FROM events"
    )
    if not {"table", "query"} & set(source):
        source["table"] = "orders"
    settings = PipelineSettings.model_validate(
        {
            "name": "shop",
            "events": {
                "path": "landing/*.parquet", "id": "number", "time": "ordered_at",
                "version": "updated_at", "region": "country", "grain": "day",
                "start": "2026-03-01", "grace": "1d",
            },
            "source": {"url_variable": VARIABLE, "cursor": "updated_at", **source},
        }
    )  # fmt: skip
    return settings.located(defs, project)
