"""Settings of a database table that lands as files.

Belongs here: what the `source` block of a pipeline's YAML may say. Does not: reading the table
(`table.py`).
"""

from datetime import timedelta
from typing import Self

from pydantic import Field, field_validator, model_validator

from ml_patterns.base import Duration, Settings


class SourceSettings(Settings):
    """Which table holds the events; `events.path` says where its rows land."""

    url_variable: str = Field(
        pattern=r"[A-Za-z_][A-Za-z0-9_]*",
        description="Environment variable that holds the SQLAlchemy URL; the URL itself, with its "
        "password, never stands in a file.",
    )
    table: str | None = Field(default=None, description="Table or view: `name` or `schema.name`.")
    query: str | None = Field(default=None, description="Or a SELECT, without a semicolon.")
    cursor: str = Field(
        description="Column that grows with every insert and update: an update time, or a number."
    )
    overlap: int | Duration | None = Field(
        default=None,
        description="How far behind the newest cursor rows are read again, as a transaction may "
        "commit after a later one: a duration for times (default 10m), a count for numbers "
        "(default 1000).",
    )
    batch_rows: int = Field(default=50_000, ge=1, description="Most rows of a file that lands.")
    types: dict[str, str] = Field(
        default_factory=dict,
        description="DuckDB types of columns whose type the database does not tell.",
    )
    every: Duration = Field(
        default=timedelta(minutes=1), description="How often the sensor looks at the table."
    )

    @field_validator("query")
    @classmethod
    def _one_select(cls, query: str | None) -> str | None:
        return query if query is None else query.strip().rstrip(";")

    @model_validator(mode="after")
    def _table_or_query(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("source names a table or a query; give exactly one of them")
        if isinstance(self.overlap, int) and self.overlap < 0:
            raise ValueError(f"source.overlap {self.overlap} is negative; give 0 or more")
        return self

    @property
    def told(self) -> str:
        """What is read, for sentences."""
        return f"table {self.table}" if self.table else "source.query"
