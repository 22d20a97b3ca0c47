"""`ml-patterns status`: what wants attention, and the next command to type.

Belongs here: arguments and printing. Does not: the findings (`status.py`).
"""

import json

import typer

from ml_patterns.commands import AsJson, Pipeline, command, load, print_rows


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app)(status)


def status(pipeline: Pipeline, as_json: AsJson = False) -> None:
    """Show what is late, failing, waiting or degraded. Exit code 2 when something is."""
    from ml_patterns.status import status as status_of
    from ml_patterns.storage.operational import engine_for
    from ml_patterns.storage.warehouse import Warehouse

    project, settings = load(pipeline)
    stores = project.installation
    found = status_of(settings, Warehouse(stores.warehouse), engine_for(stores.state_url))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        typer.echo(f"watermark {found.watermark or 'none yet'}")
        if found.accounts:
            typer.echo(", ".join(f"{name} {rows:,}" for name, rows in found.accounts.items()))
        retired = f", {len(found.retired)} retired" if found.retired else ""
        typer.echo(f"{found.champions} of {found.regions} regions serve a model{retired}")
        rows = [(f.subject, f.sentence, f.command) for f in found.findings]
        print_rows(("what", "why", "next"), rows, False, "nothing wants attention")
    raise typer.Exit(2 if found.findings else 0)
