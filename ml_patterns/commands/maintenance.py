"""Commands that keep an installation: backup, restore, retention.

Belongs here: arguments and printing. Does not: the work (`maintenance/`).
"""

from pathlib import Path
from typing import Annotated

import typer

from ml_patterns.commands import AsJson, command, print_rows
from ml_patterns.errors import UserError

Folder = Annotated[Path, typer.Argument(help="Folder of the backup.", file_okay=False)]


def register(app: typer.Typer) -> None:
    """Adds the room's commands."""
    command(app)(backup)
    command(app)(restore)
    command(app)(prune)


def backup(folder: Folder, as_json: AsJson = False) -> None:
    """Copy warehouse, operational database and artifacts of one instant into a new folder.

    Runs that want to write to the warehouse meanwhile wait. Exit code 1 when an artifact that
    something refers to is missing; everything else is in the backup then.
    """
    from ml_patterns.installation import Installation
    from ml_patterns.maintenance.backup import back_up

    made = back_up(Installation.from_environment(), folder)
    rows = [
        ("operational database", made.kind, sum(made.state.rows.values())),
        ("warehouse", "duckdb", sum((made.warehouse or {}).values())),
        ("artifacts", "files", len(made.artifacts)),
    ]
    print_rows(("what", "kind", "count"), rows, as_json)
    if made.missing:
        raise UserError(
            f"{len(made.missing)} artifacts that the registry refers to are missing or altered, "
            f"such as {made.missing[0][:12]}; all else is in {folder}"
        )


def restore(folder: Folder, as_json: AsJson = False) -> None:
    """Make an empty installation what a backup says, and verify it.

    Refuses to write over anything. Afterwards `ml-patterns plan` says what has become due since.
    """
    from ml_patterns.maintenance.restore import check_ledgers
    from ml_patterns.maintenance.restore import restore as put_back
    from ml_patterns.project import Project

    project = Project.load()
    made = put_back(project.installation, folder)
    ledgers = check_ledgers(project.installation, project.pipelines.values())
    rows: list[tuple[str, object]] = [
        ("backup of", f"{made.made_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("artifacts", f"{len(made.artifacts)}, each with its hash"),
        ("operational database", f"{sum(made.state.rows.values()):,} rows, as in the backup"),
        ("audit log", f"{made.state.rows['registry_audit']:,} rows, the same hash"),
        ("warehouse", f"{sum((made.warehouse or {}).values()):,} rows, as in the backup"),
    ]
    rows += [
        (f"ledger of {name}", "accounts for every row" if fits else "DIFFERS from its tables")
        for name, fits in ledgers.items()
    ]
    print_rows(("what", "verified"), rows, as_json)
    if not all(ledgers.values()):
        raise UserError(
            "the tables of the warehouse differ from their ledger, in the backup already; see "
            "`every_row_accounted_for`"
        )


def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go; nothing is removed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what the pipelines' `retention` lets go, and what no pipeline refers to any more.

    Never what a champion, a rollback, a review or a replay of the gate needs; the audit log stays.
    """
    from ml_patterns.base import utc_now
    from ml_patterns.maintenance.retention import prune_pipeline, prune_shared
    from ml_patterns.project import Project
    from ml_patterns.storage.artifacts import ArtifactStore
    from ml_patterns.storage.operational import engine_for
    from ml_patterns.storage.warehouse import Warehouse

    project = Project.load()
    place, pipelines, now = project.installation, list(project.pipelines.values()), utc_now()
    warehouse, engine = Warehouse(place.warehouse), engine_for(place.state_url)
    found = [
        gone
        for pipeline in pipelines
        for gone in prune_pipeline(pipeline, warehouse, engine, now, dry_run=dry_run)
    ]
    store = ArtifactStore(place.artifacts)
    found += prune_shared(pipelines, engine, store, now, dry_run=dry_run)
    rows = [(gone.of, gone.what, gone.rows) for gone in found]
    print_rows(("of", "what", "would go" if dry_run else "gone"), rows, as_json)
