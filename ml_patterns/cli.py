"""The `ml-patterns` command.

Belongs here: the commands of the whole, and the rooms' commands put together. Does not: the rooms'
commands (`commands/`).
"""

from typing import Annotated

import typer

from ml_patterns.commands import (
    AsJson,
    Pipeline,
    branching,
    circuit_breaker,
    command,
    incremental,
    init,
    landing,
    load,
    maintenance,
    print_rows,
    regions,
    reviews,
    status,
)
from ml_patterns.errors import UserError

app = typer.Typer(
    name="ml-patterns",
    help="Incremental processing, fan-out, gates, retries and a circuit breaker for ML on Dagster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@command(app)
def run(
    pipeline: Pipeline,
    steps: Annotated[
        str | None,
        typer.Option(help="Only these steps, separated by commas: land, ingest, aggregates, "
                     "external, features, training, deployment, leaderboard, predictions, "
                     "quality."),
    ] = None,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit 1 when a newest verdict is `reject`, or `review`.")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Catch a pipeline up completely, as Dagster runs recorded in DAGSTER_HOME.

    Exit code 0 when everything that was due is done, 130 when it was interrupted.
    """
    from ml_patterns.run_command import run_pipeline

    project, settings = load(pipeline)
    code = run_pipeline(project, settings, steps=steps, fail_on=fail_on, as_json=as_json)
    raise typer.Exit(code)


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
    print_rows(names, rows, as_json, "no rows")


@command(app)
def serve(
    port: Annotated[int, typer.Option(help="Port on loopback; 0 chooses a free one.")] = 8085,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(help="Processes that share the port.")] = 1,
) -> None:
    """Serve every champion over the Open Inference Protocol v2."""
    from ml_patterns.installation import Installation
    from ml_patterns.serving.run import serve as serve_models
    from ml_patterns.serving.settings import ServerSettings

    settings = ServerSettings.from_environment(host=host, port=port, workers=workers)
    serve_models(settings, Installation.from_environment())


@command(app)
def demo() -> None:
    """Run the whole story on the bundled events; the report is `data/demo/report.json`."""
    from ml_patterns.demo.story import run_demo
    from ml_patterns.installation import project_root

    run_demo(project_root())


@command(app)
def dev(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    host: Annotated[str, typer.Option(help="Address of the Dagster UI.")] = "127.0.0.1",
) -> None:
    """Start the Dagster UI with sensors, schedules and a model server; on the demo's data."""
    from ml_patterns.dev import run_dev
    from ml_patterns.installation import project_root

    raise typer.Exit(run_dev(project_root(), port, host))


for room in (
    init, landing, status, incremental, regions, branching, reviews, circuit_breaker, maintenance,
):  # fmt: skip
    room.register(app)
