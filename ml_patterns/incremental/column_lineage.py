"""Which columns a column of the user's SQL is computed from, asked of the database itself.

Belongs here: questions to DuckDB's planner about one SQL file. Does not: what the SQL sees
(`transform.py`), Dagster's metadata (`ml_patterns/table_metadata.py`).

The planner drops every column that a query does not need, whatever the SQL looks like. So one
column of the result is asked for at a time, and what is still read from the tables is what it is
computed from. Columns that only pick the rows (keys of joins, filters) are read for all of them
alike and are left out, except where an expression names them.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from ml_patterns.incremental.ledger import stream_columns
from ml_patterns.incremental.plan import Layer
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted

Relations = Mapping[str, Mapping[str, str]]
"""Relation -> its columns -> their types."""

Column = tuple[str, str]
"""Relation (or asset) and column."""


def layer_lineage(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, layer: Layer
) -> dict[str, tuple[Column, ...]]:
    """Column of a layer's table -> columns of assets, which are named below the pipeline.

    Raises:
        duckdb.Error: the SQL cannot be planned, or an external table was not read yet.
    """
    relations = {"events": stream_columns(connection, settings.name)}
    assets = {"events": "landed_events"}
    if layer == "features":
        relations["aggregates"] = _columns_of(connection, settings, "event_aggregates")
        assets["aggregates"] = "event_aggregates"
        for table in settings.external:
            relations[table.name] = _columns_of(connection, settings, f"external_{table.name}")
            assets[table.name] = f"external/{table.name}"
    sql = settings.aggregates_sql if layer == "aggregates" else settings.features_sql
    return {
        column: tuple((assets[relation], name) for relation, name in sources)
        for column, sources in column_lineage(sql, relations).items()
    }


def column_lineage(sql: str, relations: Relations) -> dict[str, tuple[Column, ...]]:
    """Column of a query's result -> the columns that it is computed from, in order of name.

    Args:
        sql: a query over `relations`.

    Raises:
        duckdb.Error: the query cannot be planned.
    """
    bare = sql.strip().rstrip(";")
    sql = f"({bare}\n)"  # it may end in a comment
    with duckdb.connect(":memory:") as connection:
        for relation, columns in relations.items():
            types = ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns.items())
            connection.execute(f"CREATE TABLE {quoted(relation)} ({types})")
        _keep_to_unused_columns(connection)
        named = _named(connection, bare, relations)
        read = {
            name: _read(connection, f"SELECT {quoted(name)} FROM {sql}", relations)
            for name in _columns(connection, f"SELECT * FROM {sql}")
        }
    for_all = set.intersection(*read.values()) if len(read) > 1 else set()
    return {
        name: tuple(sorted((columns - for_all) | (named.get(name, columns) & columns)))
        for name, columns in read.items()
    }


def _columns_of(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, table: str
) -> dict[str, str]:
    return _columns(connection, f"FROM {quoted(settings.name)}.{quoted(table)}")


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE {query}").fetchall()}


def _keep_to_unused_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Lets the planner do nothing else: on empty tables it would plan to read nothing at all."""
    others = [
        row[0]
        for row in connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()
        if row[0] != "unused_columns"
    ]
    connection.execute(f"SET disabled_optimizers = '{','.join(others)}'")


def _read(connection: duckdb.DuckDBPyConnection, query: str, relations: Relations) -> set[Column]:
    """Columns that a query's plan reads from the tables."""
    plan = json.loads(connection.execute(f"EXPLAIN (FORMAT JSON) {query}").fetchall()[0][1])
    found = set()
    for node in _nodes(plan):
        table = str(node.get("extra_info", {}).get("Table", "")).rsplit(".", 1)[-1]
        if table in relations:
            projected = node["extra_info"].get("Projections", [])
            columns = [projected] if isinstance(projected, str) else projected
            found |= {(table, name) for name in columns if name in relations[table]}
    return found


def _named(
    connection: duckdb.DuckDBPyConnection, sql: str, relations: Relations
) -> dict[str, set[Column]]:
    """Column of the result -> columns of the relations that its expression spells out.

    Only for what the outermost SELECT spells out; a star or a UNION names nothing.
    """
    text = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
    statements = json.loads(text).get("statements", [])
    query = statements[0]["node"] if statements else {}
    tables = {
        node["alias"] or node["table_name"]: node["table_name"]
        for node in _nodes(query.get("from_table"))
        if node.get("type") == "BASE_TABLE"
    }
    named = {}
    for expression in query.get("select_list", []):
        references = [
            node["column_names"] for node in _nodes(expression) if node.get("class") == "COLUMN_REF"
        ]
        if any(node.get("class") == "STAR" for node in _nodes(expression)):
            continue
        alias = expression["alias"] or (references[0][-1] if len(references) == 1 else "")
        named[alias] = {
            (table, reference[-1])
            for reference in references
            for table in ([tables.get(reference[-2], "")] if len(reference) > 1 else relations)
        }
    return named


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _nodes(item)
