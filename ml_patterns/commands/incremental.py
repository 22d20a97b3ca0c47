"""Commands of the incremental room: what is due, what was refused.

Belongs here: arguments and printing. Does not: the answers (`incremental/`).
"""

import typer

from ml_patterns.commands import AsJson, Pipeline, command, load, print_rows


def register(app: typer.Typer) -> None:
    """Adds the room's commands."""
    command(app)(plan)


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
    print_rows(names, due, as_json, "nothing is due")
    raise typer.Exit(2 if due else 0)
