"""The demo's report: numbers counted from what happened.

Belongs here: queries and the printed table. Does not: making things happen (`story.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from ml_patterns.branching.gate import judgement_of
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.circuit_breaker.tables import degraded_partitions
from ml_patterns.incremental import ledger
from ml_patterns.registry.regions import known_regions
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted


@dataclass(frozen=True)
class Increment:
    """What the second delivery cost, against all there is.

    Attributes:
        partitions_total: aggregate partitions that exist after it.
        partitions_recomputed: those that were computed again or for the first time.
        rows_total: accepted rows of all partitions.
        rows_scanned: rows read for the computed ones.
    """

    partitions_total: int
    partitions_recomputed: int
    rows_total: int
    rows_scanned: int


def events(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> dict[str, int]:
    """The accounts of all delivered rows."""
    found = asdict(ledger.accounts(connection, settings.name))
    names = ("delivered", "accepted", "duplicate", "superseded", "too_late", "future", "invalid")
    return {name: found[name] for name in names}


def increment(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, since: int
) -> Increment:
    """Sums the cost of aggregates computed after the first `since` records of the ledger."""
    schema = quoted(settings.name)
    row = connection.execute(
        f"""
        WITH cost AS (
            SELECT *, row_number() OVER (ORDER BY rowid) AS number FROM {schema}.run_cost
            WHERE layer = 'aggregates'
        )
        SELECT count(DISTINCT partition_start),
            count(DISTINCT partition_start) FILTER (number > ?),
            (SELECT sum(rows) FROM {schema}.entries WHERE counts)::BIGINT,
            coalesce(sum(scanned) FILTER (number > ?), 0)::BIGINT
        FROM cost
        """,
        [since, since],
    ).fetchall()[0]
    return Increment(*row)


def cost_records(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> int:
    """How many aggregate partitions the ledger has recorded so far."""
    row = connection.execute(
        f"SELECT count(*) FROM {quoted(settings.name)}.run_cost WHERE layer = 'aggregates'"
    ).fetchall()[0]
    return int(row[0])


def models(engine: sa.Engine, settings: PipelineSettings) -> list[dict[str, Any]]:
    """Newest version of each region, what the gate measured and whether it serves."""
    registry = Registry(engine)
    found = []
    for region in known_regions(engine, settings.name):
        decision = registry.latest_decision(settings.name, region)
        if decision is None:
            found.append({"region": region, "kind": "none", "deployed": False})
            continue
        version = registry.version(settings.name, region, decision.version)
        champion = registry.champion(settings.name, region)
        found.append(
            {
                "region": region,
                "kind": version.kind,
                "rows": decision.evidence["rows"],
                "accuracy": decision.evidence["metrics"]["accuracy"],
                "lower_bound": judgement_of(decision).outcome.lower_bound,
                "verdict": str(decision.verdict),
                "deployed": champion is not None and champion.version == decision.version,
            }
        )
    return found


def serving(
    connection: duckdb.DuckDBPyConnection,
    engine: sa.Engine,
    settings: PipelineSettings,
    breaker: str,
) -> dict[str, Any]:
    """Answers by source, calls that an open circuit let through, partitions that healed."""
    rows = connection.execute(
        f"SELECT source, count(*) FROM {quoted(settings.name)}.predictions GROUP BY ALL ORDER BY 1"
    ).fetchall()
    transitions = OperationalStore(engine).events(breaker, limit=10_000)
    probes = [event for event in transitions if event.to_state == "half-open"]
    healed = sa.select(sa.func.count()).where(
        degraded_partitions.c.pipeline == settings.name,
        degraded_partitions.c.healed_at.is_not(None),
    )
    with engine.begin() as state:
        healed_partitions = int(state.execute(healed).scalar_one())
    return {
        "answered": sum(count for _, count in rows),
        "by_source": dict(rows),
        "backend_calls_while_open": len(probes),
        "healed_partitions": healed_partitions,
    }


def print_report(console: Console, report: dict[str, Any]) -> None:
    """The report as people read it."""
    for name in ("events", "increment", "serving"):
        console.print(f"[bold]{name}[/bold]  {_flat(report[name])}", highlight=False)
    table = Table(box=None, pad_edge=False)
    columns: Sequence[str] = (
        "region", "kind", "rows", "accuracy", "lower_bound", "verdict", "deployed",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right" if column in columns[2:5] else "left")
    for model in report["models"]:
        table.add_row(*(_cell(model.get(column)) for column in columns))
    console.print(table)
    console.print(f"{report['seconds']:.1f} s", highlight=False)


def _flat(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {_flat(value) if isinstance(value, dict) else format(value, ',')}"
        for name, value in values.items()
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)
