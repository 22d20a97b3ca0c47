"""The commands of `ml-patterns`, a module per room.

Belongs here: what all commands share: errors, loading, printing. Does not: the commands' work,
which functions of the rooms do. Heavy libraries are imported inside the commands that need them,
so that `--help` answers at once.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ml_patterns.errors import MLPatternsError

if TYPE_CHECKING:
    from ml_patterns.project import Project
    from ml_patterns.settings import PipelineSettings

Pipeline = Annotated[str, typer.Argument(help="Name of the pipeline, as in its YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def command(group: typer.Typer, name: str | None = None) -> Callable[[Any], Any]:
    """A command whose mistakes by the user are one sentence on standard error, exit code 1."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except MLPatternsError as error:
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
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    Console().print(table)
