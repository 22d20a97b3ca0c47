"""Commands of the circuit breaker: status, open, close, reset.

Belongs here: arguments and printing. Does not: the rules (`circuit_breaker/`).
"""

import getpass
import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ml_patterns.commands import AsJson, command, print_rows

if TYPE_CHECKING:
    import sqlalchemy as sa

breaker = typer.Typer(help="The circuit breakers, by hand.", no_args_is_help=True)

Why = Annotated[str, typer.Option("--reason", help="Why; it is kept with the event.")]
Who = Annotated[str | None, typer.Option("--by", help="Who; default: your login name.")]
Name = Annotated[
    str | None, typer.Argument(help="Breaker; default: that of ML_PATTERNS_MODEL_URL.")
]
For = Annotated[str | None, typer.Option("--for", help="How long, such as 30m; default: for good.")]


def register(app: typer.Typer) -> None:
    """Adds the room's commands."""
    app.add_typer(breaker, name="breaker")


def _engine() -> "sa.Engine":
    from ml_patterns.installation import Installation
    from ml_patterns.storage.operational import engine_for

    return engine_for(Installation.from_environment().state_url)


@command(breaker)
def status(as_json: AsJson = False) -> None:
    """Show every breaker that ever failed or was forced."""
    from ml_patterns.circuit_breaker import control

    found = control.status(_engine())
    if as_json:
        typer.echo(json.dumps([entry.as_json() for entry in found], indent=2))
        return
    names = ("name", "state", "reason", "failures", "retry_at", "forced")
    rows = [[getattr(entry, name) for name in names] for entry in found]
    print_rows(names, rows, False, "every breaker is closed and none ever failed")


@command(breaker, "open")
def open_breaker(
    reason: Why, name: Name = None, lasting: For = None, by: Who = None, as_json: AsJson = False
) -> None:
    """Let no call through, until the time is over or `reset`."""
    _force("open", name, reason, by, lasting, as_json)


@command(breaker)
def close(
    reason: Why, name: Name = None, lasting: For = None, by: Who = None, as_json: AsJson = False
) -> None:
    """Let every call through, whatever fails, until the time is over or `reset`."""
    _force("closed", name, reason, by, lasting, as_json)


@command(breaker)
def reset(reason: Why, name: Name = None, by: Who = None, as_json: AsJson = False) -> None:
    """Close the breaker and give it back to its rules."""
    from ml_patterns.circuit_breaker import control

    control.reset(_engine(), _named(name), reason=reason, actor=by or getpass.getuser())
    _tell(_named(name), as_json)


def _force(
    state: Literal["open", "closed"],
    name: str | None,
    reason: str,
    by: str | None,
    lasting: str | None,
    as_json: bool,
) -> None:
    from ml_patterns.base import parse_duration
    from ml_patterns.circuit_breaker import control
    from ml_patterns.errors import UserError

    try:
        span = None if lasting is None else parse_duration(lasting)
    except ValueError as error:
        raise UserError(f"--for: {error}") from error
    control.force(
        _engine(), _named(name), state, reason=reason, actor=by or getpass.getuser(), lasting=span
    )
    _tell(_named(name), as_json)


def _tell(name: str, as_json: bool) -> None:
    """How a breaker stands now."""
    from ml_patterns.circuit_breaker import control

    (entry,) = (entry for entry in control.status(_engine()) if entry.name == name)
    if as_json:
        typer.echo(json.dumps(entry.as_json(), indent=2))
    else:
        typer.echo(f"{name}: {entry.state}, {entry.reason}")


def _named(name: str | None) -> str:
    from ml_patterns.circuit_breaker.store import breaker_name
    from ml_patterns.installation import Installation

    return name or breaker_name(Installation.from_environment().model_url)
