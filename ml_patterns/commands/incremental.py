"""Commands of the incremental room: what is due and what it costs, and what was refused.

Belongs here: arguments and printing. Does not: the answers (`incremental/`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ml_patterns.commands import AsJson, Pipeline, command, load, print_rows
from ml_patterns.errors import UserError

if TYPE_CHECKING:
    import duckdb

    from ml_patterns.project import Project
    from ml_patterns.settings import PipelineSettings

_WIDTH = 30


def register(app: typer.Typer) -> None:
    """Adds the room's commands."""
    command(app)(plan)
    letters = typer.Typer(
        help="Rows that came too late, and files that went away.", no_args_is_help=True
    )
    command(letters, "list")(list_dead_letters)
    command(letters)(replay)
    command(letters)(acknowledge)
    app.add_typer(letters, name="dead-letter")


def plan(
    pipeline: Pipeline,
    lateness: Annotated[
        bool,
        typer.Option("--lateness", help="Show how late rows are, and what each grace would cost."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what would be processed, why and at what cost.

    Features that wait for the aggregates in their windows are shown, too. Exit code 0: nothing is
    due; 2: something is.
    """
    from ml_patterns.incremental import ledger

    project, settings = load(pipeline)
    with _warehouse(project, settings) as connection:
        if lateness:
            _print_lateness(connection, settings, as_json)
            return
        due = _due(connection, settings)
        first = ledger.watermark(connection, settings) is None
    names = ("layer", "partition", "reason", "rows", "seconds")
    unread = f"no event was registered yet; `ml-patterns run {pipeline}` begins with that"
    print_rows(names, due, as_json, unread if first else "nothing is due")
    if due and not as_json:
        rows = sum(entry[3] for entry in due)
        known = [entry[4] for entry in due if entry[4] is not None]
        cost = f"about {sum(known):.1f} s" if len(known) == len(due) else "not measured yet"
        typer.echo(f"{len(due)} partitions, {rows:,} rows, {cost}")
    raise typer.Exit(2 if due else 0)


def list_dead_letters(pipeline: Pipeline, as_json: AsJson = False) -> None:
    """List rows that do not count, by file, partition and class."""
    from ml_patterns.incremental.dead_letter import dead_letters
    from ml_patterns.incremental.grain import Grain

    project, settings = load(pipeline)
    grain = Grain(settings.events.grain)
    with _warehouse(project, settings) as connection:
        found = [
            (row[0], row[1] and grain.key(row[1]), *row[2:])
            for row in dead_letters(connection, settings.name)
        ]
    names = ("path", "partition", "class", "rows", "registered_at", "watermark_before")
    print_rows(names, found, as_json, "the dead letter is empty")


def replay(
    pipeline: Pipeline,
    path: Annotated[str | None, typer.Option(help="Only rows of this file, as listed.")] = None,
    partition: Annotated[str | None, typer.Option(help="Only rows of this partition.")] = None,
) -> None:
    """Let rows of the dead letter count after all; their partitions become due."""
    from ml_patterns.base import utc_now
    from ml_patterns.incremental.dead_letter import replay as replay_rows
    from ml_patterns.incremental.grain import Grain

    project, settings = load(pipeline)
    grain = Grain(settings.events.grain)
    try:
        chosen = None if partition is None else grain.parse(partition)
    except ValueError as error:
        raise UserError(
            f"{partition!r} is no partition of {pipeline}; they look like "
            f"{grain.key(grain.floor(settings.events.start_time))}"
        ) from error
    with _warehouse(project, settings) as connection:
        rows = replay_rows(connection, settings, utc_now(), path=path, partition=chosen)
    typer.echo(f"{rows:,} rows count now; `ml-patterns run {pipeline}` builds their partitions")


def acknowledge(
    pipeline: Pipeline,
    path: Annotated[str, typer.Argument(help="The file that was removed, as it was named.")],
) -> None:
    """Let the rows of a removed file go; their partitions become due."""
    from ml_patterns.base import utc_now
    from ml_patterns.incremental.ledger import acknowledge_removal

    project, settings = load(pipeline)
    with _warehouse(project, settings) as connection:
        acknowledge_removal(connection, pipeline, [path], utc_now())
    typer.echo(f"{path} was let go; `ml-patterns run {pipeline}` builds its partitions")


@contextmanager
def _warehouse(
    project: "Project", settings: "PipelineSettings"
) -> "Iterator[duckdb.DuckDBPyConnection]":
    """The pipeline's warehouse, with its ledger."""
    from ml_patterns.incremental.ledger import ensure_tables
    from ml_patterns.storage.warehouse import Warehouse

    with Warehouse(project.installation.warehouse).connect() as connection:
        ensure_tables(connection, settings.name)
        yield connection


def _due(
    connection: "duckdb.DuckDBPyConnection", settings: "PipelineSettings"
) -> list[tuple[str, str, str, int, float | None]]:
    from ml_patterns.base import utc_now
    from ml_patterns.incremental.cost import measured_cost
    from ml_patterns.incremental.grain import Grain
    from ml_patterns.incremental.plan import LAYERS, following
    from ml_patterns.incremental.plan import plan as plan_layer

    grain, now = Grain(settings.events.grain), utc_now()
    found: list[tuple[str, str, str, int, float | None]] = []
    for layer in LAYERS:
        cost = measured_cost(connection, settings.name, layer)
        due = plan_layer(connection, settings, layer, now)
        if layer == "features":
            due += following(connection, settings, now)
        for entry in sorted(due, key=lambda entry: entry.partition):
            seconds = None if cost is None else round(cost.seconds(entry.rows), 4)
            found.append((layer, grain.key(entry.partition), entry.reason, entry.rows, seconds))
    return found


def _print_lateness(
    connection: "duckdb.DuckDBPyConnection", settings: "PipelineSettings", as_json: bool
) -> None:
    from ml_patterns.incremental.cost import lateness

    found = lateness(connection, settings)
    most = max((entry.rows for entry in found), default=0) or 1
    names = ("grace", "rows_that_need_it", "too_late_with_it", "share", "current")
    if as_json:
        rows = [(e.text, e.rows, e.too_late, e.share, e.current) for e in found]
        print_rows(names, rows, as_json)
        return
    bars = [
        (
            e.text, e.rows, e.too_late, f"{e.share:.4%}", "yes" if e.current else "",
            "#" * round(_WIDTH * e.rows / most),
        )
        for e in found
    ]  # fmt: skip
    print_rows((*names, ""), bars, as_json)
