"""Columns of warehouse tables as Dagster shows them.

Belongs here: a table's schema and lineage as metadata of a materialization. Does not: finding out
where a column comes from (`incremental/column_lineage.py`, or the room that writes the table).

Dagster shows the columns of an asset's newest materialization, so one event of a step carries them:
on each of a year of hours they would be most of what is stored.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg
import duckdb

from ml_patterns.storage.sql import quoted

Lineage = Mapping[str, Iterable[tuple[str, str]]]
"""Column -> what it is computed from: an asset, named below its pipeline, and its column."""

_MEANINGS = {
    "partition_start": "Start of the partition, UTC.",
    "event_id": "Identity of the event.",
    "event_time": "When it happened, UTC.",
    "region": "Which model it belongs to.",
    "label": "What is to be predicted; NULL while it is not known.",
    "made_at": "When the answer was made, UTC; answers are only ever added.",
    "prediction": "Probability of a positive label.",
    "source": "Where the answer came from: live, cache, champion or base_rate.",
    "age_s": "Seconds between the model's answer and its use; 0 for a live one.",
    "model_version": "Version of the model that answered.",
    "in_time": "Answered before the label was known.",
    "lower_bound": "One-sided 95 % confidence bound.",
}


def table_metadata(
    connection: duckdb.DuckDBPyConnection, pipeline: str, table: str, lineage: Lineage | None = None
) -> dict[str, Any]:
    """Schema of a table as it is now, by one DESCRIBE, and where its columns come from.

    Args:
        lineage: columns that the table does not have are left out.
    """
    described = connection.execute(f"DESCRIBE {quoted(pipeline)}.{quoted(table)}").fetchall()
    columns = {row[0]: row[1] for row in described}
    metadata = schema_metadata(columns)
    deps = {
        name: [
            dg.TableColumnDep(dg.AssetKey([pipeline, *asset.split("/")]), column)
            for asset, column in sources
        ]
        for name, sources in (lineage or {}).items()
        if name in columns
    }
    if deps:
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(deps)
    return metadata


def schema_metadata(columns: Mapping[str, str]) -> dict[str, Any]:
    """Columns and their types as metadata."""
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(name, type_, description=_MEANINGS.get(name))
                for name, type_ in columns.items()
            ]
        )
    }
