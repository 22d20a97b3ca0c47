"""`ml-patterns land`: what changed in a pipeline's table, as files.

Belongs here: arguments and printing. Does not: landing (`landing/land.py`).
"""

import json

import typer

from ml_patterns.commands import AsJson, Pipeline, command, load


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app)(land)


def land(pipeline: Pipeline, as_json: AsJson = False) -> None:
    """Land what is new or changed in the table that is a pipeline's source."""
    from ml_patterns.landing.land import land as land_table
    from ml_patterns.landing.land import source_of

    _, settings = load(pipeline)
    done = land_table(settings)
    if as_json:
        report = {
            "files": [str(path) for path in done.files],
            "rows": done.rows,
            "rows_read": done.read,
            "rows_without_cursor": done.without_cursor,
            "cursor": str(done.high.value) if done.high else None,
        }
        typer.echo(json.dumps(report, indent=2))
        return
    for path in done.files:
        typer.echo(f"landed {path.name}")
    told = source_of(settings).told
    typer.echo(f"{done.rows:,} rows of {told} landed, {done.read:,} were read")
    if done.without_cursor:
        typer.echo(f"note: {done.without_cursor:,} rows have no {source_of(settings).cursor} and "
                   "cannot land")  # fmt: skip
    if done.files:
        typer.echo(f"next: `ml-patterns run {pipeline}`")
