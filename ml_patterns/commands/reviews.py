"""Commands around human review: who may answer in the browser, and what the team was not told.

Belongs here: arguments and printing. Does not: answering reviews (`commands/branching.py`), the
tokens and the outbox (`registry/`).
"""

from typing import TYPE_CHECKING, Annotated

import typer

from ml_patterns.commands import AsJson, command, print_rows

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ml_patterns.registry.reviewers import Reviewers

reviewer = typer.Typer(help="Who may answer reviews on the web pages.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the reviewer; it stands in the audit log.")]


def register(app: typer.Typer) -> None:
    """Adds the room's commands."""
    app.add_typer(reviewer, name="reviewer")
    command(app)(outbox)


def _engine() -> "sa.Engine":
    from ml_patterns.installation import Installation
    from ml_patterns.storage.operational import engine_for

    return engine_for(Installation.from_environment().state_url)


def _reviewers() -> "Reviewers":
    from ml_patterns.registry.reviewers import Reviewers

    return Reviewers(_engine())


@command(reviewer)
def add(
    name: Name,
    lasting: Annotated[str, typer.Option("--for", help="How long it is valid.")] = "90d",
) -> None:
    """Print a new token for a reviewer; it is shown this once and kept as a hash."""
    from ml_patterns.base import parse_duration
    from ml_patterns.errors import UserError

    try:
        span = parse_duration(lasting)
    except ValueError as error:
        raise UserError(f"--for: {error}") from error
    typer.echo(_reviewers().add(name, span))


@command(reviewer, "list")
def list_reviewers(as_json: AsJson = False) -> None:
    """Show whose tokens were given out, and which are still valid."""
    found = _reviewers()
    now = found.clock()
    names = ("id", "reviewer", "created_at", "expires_at")
    rows = [
        [*(getattr(token, name) for name in names), token.state(now)] for token in found.tokens()
    ]
    print_rows((*names, "state"), rows, as_json, "no reviewer yet: `ml-patterns reviewer add NAME`")


@command(reviewer)
def revoke(name: Name) -> None:
    """Take all tokens of a reviewer back; who is logged in with one is out at once."""
    typer.echo(f"{_reviewers().revoke(name)} tokens of {name} revoked")


def outbox(
    everything: Annotated[bool, typer.Option("--all", help="Delivered ones, too.")] = False,
    pipeline: Annotated[str | None, typer.Option(help="Only this pipeline.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the team was not told yet, and why. Exit code 2 when something failed."""
    from ml_patterns.registry.deliveries import stuck
    from ml_patterns.registry.outbox import notifications

    engine = _engine()
    entries = [
        ("webhook", entry, entry.attempts, entry.error, entry.delivered_at)
        for entry in notifications(engine, pipeline, pending_only=not everything)
    ]
    entries += [
        (channel, entry, attempts, error, None)
        for channel, entry, attempts, error in stuck(engine)
        if pipeline in (None, entry.pipeline)
    ]
    of_entry = ("id", "pipeline", "region", "kind", "created_at")
    rows = [
        [channel, *(getattr(entry, name) for name in of_entry), *rest]
        for channel, entry, *rest in entries
    ]
    names = ("channel", *of_entry, "attempts", "error", "delivered_at")
    print_rows(names, rows, as_json, "nothing is pending")
    raise typer.Exit(2 if any(error for *_, error, _ in entries) else 0)
