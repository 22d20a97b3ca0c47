"""`ml-patterns init`: from some landed files to a pipeline.

Belongs here: arguments and printing. Does not: the guesses and the files (`onboarding/`).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_patterns.commands import AsJson, command, print_rows

if TYPE_CHECKING:
    from ml_patterns.onboarding.proposal import Proposal


def register(app: typer.Typer) -> None:
    """Adds the command."""
    command(app)(init)


def init(
    name: Annotated[str, typer.Argument(help="Name of the new pipeline: a-z, 0-9 and _.")],
    events: Annotated[
        str,
        typer.Option(help="Landed files: a folder, a file or a glob; Parquet, CSV, JSON lines."),
    ],
    id_: Annotated[str | None, typer.Option("--id", help="Column of the event's identity.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the event time.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Column of the time at which a row became known.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Column that says which model an event belongs to.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column to foretell, or a condition: 'minutes > 30'.")
    ] = None,
    grain: Annotated[str | None, typer.Option(help="Length of a partition: hour or day.")] = None,
    start: Annotated[str | None, typer.Option(help="First day of the stream.")] = None,
    grace: Annotated[
        str | None, typer.Option(help="How long a partition stays open, such as 12h.")
    ] = None,
    label_delay: Annotated[
        str | None, typer.Option(help="How long after an event its label is known.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the proposal and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at landed files and write a pipeline for them; says what it guessed, and why."""
    from ml_patterns.onboarding.proposal import Wishes, propose
    from ml_patterns.onboarding.writing import write
    from ml_patterns.project import Project

    options = {
        "id": id_, "time": time, "version": version, "region": region, "label": label,
        "grain": grain, "start": start, "grace": grace, "label_delay": label_delay,
    }  # fmt: skip
    project = Project.load()
    folder = project.tree.defs_module_path / name
    wishes = Wishes({key: value for key, value in options.items() if value is not None})
    proposal = propose(name, events, project.root, wishes)
    written = [] if dry_run else write(proposal, folder)
    if as_json:
        typer.echo(json.dumps(_as_json(proposal, written), indent=2))
        return
    _print(proposal)
    for path in written:
        typer.echo(f"wrote {path.relative_to(project.root)}")
    if written:
        typer.echo(f"next: read them, then `ml-patterns plan {name}`")
    else:
        typer.echo("nothing was written: --dry-run")


def _print(proposal: "Proposal") -> None:
    typer.echo(f"{proposal.read}: {proposal.path}\n")
    rows = [
        (key, guess.value, guess.why, ", ".join(guess.others))
        for key, guess in proposal.guesses.items()
    ]
    print_rows(("setting", "guess", "why", "or"), rows, False)
    typer.echo("")
    if proposal.features:
        known = ", ".join(feature.column.name for feature in proposal.features)
        typer.echo(f"features of the event itself: {known}")
    for entry in proposal.left_out:
        typer.echo(f"no feature: {entry.column}: {entry.why}")
    for note in proposal.notes:
        typer.echo(f"note: {note}")
    typer.echo("give what is wrong as an option (--id, --time, --label-delay, …), or edit it\n")


def _as_json(proposal: "Proposal", written: list[Path]) -> dict[str, object]:
    return {
        "name": proposal.name,
        "path": proposal.path,
        "settings": {
            key: {"guess": g.value, "why": g.why, "others": list(g.others), "given": g.given}
            for key, g in proposal.guesses.items()
        },
        "features": [feature.column.name for feature in proposal.features],
        "left_out": [
            {"column": e.column, "why": e.why, "known_later": e.later} for e in proposal.left_out
        ],
        "notes": list(proposal.notes),
        "written": [str(path) for path in written],
    }
