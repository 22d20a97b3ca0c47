"""The `ml-patterns` command.

Belongs here: arguments, exit codes, what is printed. Does not: doing anything; every command calls
a function that tests call, too. Heavy libraries are imported inside the commands that need them.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ml_patterns.errors import ConflictError, UserError

if TYPE_CHECKING:
    from ml_patterns.project import Project
    from ml_patterns.settings import PipelineSettings

app = typer.Typer(
    name="ml-patterns",
    help="Incremental processing, fan-out, gates, retries and a circuit breaker for ML on Dagster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Pipeline = Annotated[str, typer.Argument(help="Name of the pipeline, as in its YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def command(group: typer.Typer, name: str | None = None) -> Callable[[Any], Any]:
    """A command whose mistakes by the user are one sentence on standard error, exit code 1."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (UserError, ConflictError) as error:
                typer.echo(f"ml-patterns: {error}", err=True)
                raise typer.Exit(1) from error

        group.command(name)(guarded)
        return guarded

    return decorate


def load(pipeline: str) -> "tuple[Project, PipelineSettings]":
    """The project of the working directory and one of its pipelines."""
    from ml_patterns.project import Project

    project = Project.load()
    return project, project.pipeline(pipeline)


@command(app)
def run(
    pipeline: Pipeline,
    steps: Annotated[
        str | None,
        typer.Option(help="Only these steps, separated by commas: ingest, aggregates, external, "
                     "features, training, leaderboard, deployment, predictions, quality."),
    ] = None,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit 1 when a newest verdict is `reject`, or `review`.")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Catch a pipeline up completely, as Dagster runs recorded in DAGSTER_HOME.

    Exit code 0 when everything that was due is done.
    """
    from ml_patterns.run_command import run_pipeline

    project, settings = load(pipeline)
    code = run_pipeline(project, settings, steps=steps, fail_on=fail_on, as_json=as_json)
    raise typer.Exit(code)


@command(app)
def plan(pipeline: Pipeline, as_json: AsJson = False) -> None:
    """Show what would be processed and why. Exit code 0: nothing is due; 2: something is."""
    from ml_patterns.base import utc_now
    from ml_patterns.incremental.grain import Grain
    from ml_patterns.incremental.plan import LAYERS
    from ml_patterns.incremental.plan import plan as plan_layer
    from ml_patterns.storage.warehouse import Warehouse

    project, settings = load(pipeline)
    grain = Grain(settings.events.grain)
    due = []
    with Warehouse(project.installation.warehouse).connect() as connection:
        for layer in LAYERS:
            for entry in plan_layer(connection, settings, layer, utc_now()):
                key = grain.key(entry.partition)
                due.append((layer, key, entry.reason, entry.rows))
    names = ("layer", "partition", "reason", "rows")
    _print_rows(names, due, as_json, "nothing is due")
    raise typer.Exit(2 if due else 0)


@command(app)
def sql(
    query: Annotated[str, typer.Argument(help="A query in DuckDB's SQL.")],
    as_json: AsJson = False,
) -> None:
    """Query the warehouse, read-only; waits for its turn beside a running pipeline."""
    import duckdb

    from ml_patterns.installation import Installation
    from ml_patterns.storage.warehouse import Warehouse

    warehouse = Warehouse(Installation.from_environment().warehouse)
    if not warehouse.path.exists():
        raise UserError(f"there is no warehouse {warehouse.path} yet; run a pipeline first")
    with warehouse.connect(read_only=True) as connection:
        try:
            result = connection.execute(query)
            names = tuple(column[0] for column in result.description or ())
            rows = result.fetchall()
        except duckdb.Error as error:
            raise UserError(str(error)) from error
    _print_rows(names, rows, as_json, "no rows")


@command(app)
def serve(
    port: Annotated[int, typer.Option(help="Port on loopback; 0 chooses a free one.")] = 8085,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve every champion over the Open Inference Protocol v2."""
    from ml_patterns.installation import Installation
    from ml_patterns.serving.run import serve as serve_models
    from ml_patterns.serving.settings import ServerSettings

    serve_models(ServerSettings(host=host, port=port), Installation.from_environment())


@command(app)
def demo() -> None:
    """Run the whole story on the bundled events; the report is `data/demo/report.json`."""
    from ml_patterns.demo import run_demo
    from ml_patterns.installation import project_root

    run_demo(project_root())


def _print_rows(names: tuple[str, ...], rows: list[Any], as_json: bool, when_empty: str) -> None:
    """A table for people, or a list of objects."""
    if as_json:
        objects = [dict(zip(names, row, strict=True)) for row in rows]
        typer.echo(json.dumps(objects, default=str, indent=2))
        return
    if not rows:
        typer.echo(when_empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    Console().print(table)


def _now() -> datetime:
    return datetime.now(UTC)
