"""Commands of regions: which there are, and the tombstones of those that went away.

Belongs here: arguments and printing. Does not: what a tombstone is (`registry/regions.py`).
"""

import getpass
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated

import typer

from ml_patterns.commands import AsJson, Pipeline, command, load, print_rows

if TYPE_CHECKING:
    import sqlalchemy as sa

region = typer.Typer(help="The regions of a pipeline, and their tombstones.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(metavar="REGION", help="Name of the region.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit log.")]
Who = Annotated[str | None, typer.Option("--by", help="Who; default: your login name.")]


def register(app: typer.Typer) -> None:
    """Adds the room's commands."""
    app.add_typer(region, name="region")


@command(region, "list")
def list_regions(pipeline: Pipeline, as_json: AsJson = False) -> None:
    """Show every region that was found, what it serves, and which are retired, by whom and why."""
    from ml_patterns.registry.regions import Region, all_regions

    found = all_regions(_engine(pipeline), pipeline)
    names = [field.name for field in fields(Region)]
    rows = [list(asdict(each).values()) for each in found]
    print_rows(names, rows, as_json, "no region yet: the features find them")


@command(region)
def retire(
    pipeline: Pipeline, region: Which, reason: Why, by: Who = None, as_json: AsJson = False
) -> None:
    """Train and deploy a region no more; what it serves goes on answering, its history stays."""
    from ml_patterns.registry.regions import retire_region

    _change(retire_region, pipeline, region, reason, by, as_json)


@command(region)
def revive(
    pipeline: Pipeline, region: Which, reason: Why, by: Who = None, as_json: AsJson = False
) -> None:
    """Take a retired region along again, from the next training on."""
    from ml_patterns.registry.regions import revive_region

    _change(revive_region, pipeline, region, reason, by, as_json)


def _engine(pipeline: str) -> "sa.Engine":
    from ml_patterns.storage.operational import engine_for

    project, _ = load(pipeline)  # a pipeline that there is not is named before anything is done
    return engine_for(project.installation.state_url)


def _change(
    change: Callable[..., None],
    pipeline: str,
    region: str,
    reason: str,
    by: str | None,
    as_json: bool,
) -> None:
    """Changes a region's tombstone and says how the region stands now."""
    from ml_patterns.registry.regions import all_regions

    engine = _engine(pipeline)
    change(engine, pipeline, region, actor=by or getpass.getuser(), reason=reason)
    (found,) = (each for each in all_regions(engine, pipeline) if each.region == region)
    if as_json:
        typer.echo(json.dumps(asdict(found), default=str, indent=2))
        return
    serves = f"version {found.serves} goes on answering" if found.serves else "it serves no model"
    if found.retired_at:
        typer.echo(f"{region} is retired; {serves}")
    else:
        typer.echo(f"{region} is trained again by the next training; {serves}")
