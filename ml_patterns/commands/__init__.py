"""The commands of `ml-patterns`, a module per room.

Belongs here: what all commands share: errors, loading, printing. Does not: the commands' work,
which functions of the rooms do. Heavy libraries are imported inside the commands that need them,
so that `--help` answers at once.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ml_patterns.errors import MLPatternsError
from ml_patterns.interrupts import EXIT_CODE

if TYPE_CHECKING:
    from ml_patterns.project import Project
    from ml_patterns.settings import PipelineSettings

Pipeline = Annotated[str, typer.Argument(help="Name of the pipeline, as in its YAML file.")]
_NEVER_FOLDED = 26
"""Characters; those of a time with its zone."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def command(group: typer.Typer, name: str | None = None) -> Callable[[Any], Any]:
    """A command whose mistakes by the user are one sentence on standard error, exit code 1.

    One that the user interrupts says so.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except MLPatternsError as error:
                typer.echo(f"ml-patterns: {error}", err=True)
                raise typer.Exit(1) from error
            except KeyboardInterrupt as interrupt:
                typer.echo(f"ml-patterns: {' '.join(['interrupted', *interrupt.args])}", err=True)
                raise typer.Exit(EXIT_CODE) from interrupt

        group.command(name)(guarded)
        return guarded

    return decorate


def load(pipeline: str) -> "tuple[Project, PipelineSettings]":
    """The project of the working directory and one of its pipelines."""
    from ml_patterns.project import Project

    project = Project.load()
    return project, project.pipeline(pipeline)


def print_rows(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    as_json: bool,
    when_empty: str = "nothing",
) -> None:
    """A table for people, or a list of objects."""
    rows = list(rows)
    if as_json:
        objects = [dict(zip(names, row, strict=True)) for row in rows]
        typer.echo(json.dumps(objects, default=str, indent=2))
        return
    if not rows:
        typer.echo(when_empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    cells = [[_cell(value) for value in row] for row in rows]
    needed = 0
    for number, name in enumerate(names):
        longest = max(len(name), *(len(row[number]) for row in cells))
        # Sentences and paths may be folded; a date or a name in pieces nobody can read.
        whole = longest <= _NEVER_FOLDED
        table.add_column(name, overflow="fold", no_wrap=whole)
        needed += 2 + (longest if whole else _NEVER_FOLDED)
    for row in cells:
        table.add_row(*row)
    console = Console()
    console.width = max(console.width, needed)
    console.print(table)


def _cell(value: Any) -> str:
    """A value as people read it; `--json` has all of its digits."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return str(value.replace(microsecond=0))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
