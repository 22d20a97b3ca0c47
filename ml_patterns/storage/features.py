"""The feature table as the other rooms read it.

Belongs here: reading `event_features`. Does not: computing it (`incremental/`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ml_patterns.storage.card import Feature
from ml_patterns.storage.sql import quoted

if TYPE_CHECKING:  # workers that train ask no database
    import duckdb
    import pandas as pd
    import pyarrow as pa

KEY_COLUMNS = ("partition_start", "event_id", "event_time", "region", "label")
_TEXT = "VARCHAR"


@dataclass(frozen=True)
class FeatureColumn:
    """A feature as the warehouse knows it."""

    name: str
    type: str

    @property
    def kind(self) -> str:
        """`categorical` for text, `numeric` for numbers and booleans."""
        return "categorical" if self.type == _TEXT else "numeric"

    def described_by(self, values: "pd.Series") -> Feature:
        """The card's entry; categories are the distinct values, sorted."""
        if self.kind == "numeric":
            return Feature(name=self.name, type="numeric")
        return Feature(
            name=self.name, type="categorical", categories=tuple(sorted(values.dropna().unique()))
        )


def feature_columns(
    connection: "duckdb.DuckDBPyConnection", pipeline: str
) -> tuple[FeatureColumn, ...]:
    """The features of a pipeline in table order; empty while no partition was built."""
    rows = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = ? AND table_name = 'event_features' ORDER BY ordinal_position",
        [pipeline],
    ).fetchall()
    return tuple(FeatureColumn(name, type_) for name, type_ in rows if name not in KEY_COLUMNS)


def read_features(
    connection: "duckdb.DuckDBPyConnection",
    pipeline: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    regions: Sequence[str] | None = None,
    labelled: bool = False,
) -> "pd.DataFrame":
    """Rows of `event_features`, ordered by region, event time and event id.

    Args:
        start: first partition start to read (UTC); None: from the beginning.
        end: first partition start not to read (UTC); None: to the end.
        regions: the regions to read; None: all.
        labelled: only rows whose label is known.

    Returns:
        KEY_COLUMNS and the features; times are UTC without a zone, `label` is a nullable boolean,
        integer features keep their integers where nothing is missing.
    """
    conditions, values = ["TRUE"], []
    for condition, value in (
        ("partition_start >= ?", start),
        ("partition_start < ?", end),
        ("list_contains(?, region)", None if regions is None else list(regions)),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value.replace(tzinfo=None) if isinstance(value, datetime) else value)
    if labelled:
        conditions.append("label IS NOT NULL")
    return connection.execute(
        f"SELECT * FROM {quoted(pipeline)}.event_features WHERE {' AND '.join(conditions)} "
        "ORDER BY region, event_time, event_id",
        values,
    ).df()


def read_labelled(
    connection: "duckdb.DuckDBPyConnection",
    pipeline: str,
    columns: Sequence[FeatureColumn],
    *,
    regions: Sequence[str] | None = None,
) -> "pa.Table":
    """Labelled rows as Arrow, region by region by event time and event id.

    Args:
        columns: the features to read.
        regions: the regions to read; None: all, by event time, region and event id.

    Returns:
        KEY_COLUMNS and the features, all numbers as float64: a column's type would depend on which
        regions are read together.
    """
    names = [
        *KEY_COLUMNS,
        *(
            f"CAST({quoted(column.name)} AS DOUBLE) AS {quoted(column.name)}"
            if column.kind == "numeric"
            else quoted(column.name)
            for column in columns
        ),
    ]
    chosen = "TRUE" if regions is None else "list_contains(?, region)"
    order = "event_time, region, event_id" if regions is None else "region, event_time, event_id"
    return connection.sql(
        f"SELECT {', '.join(names)} FROM {quoted(pipeline)}.event_features "
        f"WHERE label IS NOT NULL AND {chosen} ORDER BY {order}",
        params=[] if regions is None else [list(regions)],
    ).to_arrow_table()
