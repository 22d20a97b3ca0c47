"""Commands of people at the gate: reviews, rollback, the audit log, replay and what-if.

Belongs here: arguments and printing. Does not: the decisions (`branching/`, `registry/`).
"""

import getpass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ml_patterns.commands import AsJson, command, print_rows
from ml_patterns.errors import UserError

if TYPE_CHECKING:
    from ml_patterns.registry.records import Review
    from ml_patterns.registry.registry import Registry

review = typer.Typer(help="Answer what the gate left to a human.", no_args_is_help=True)
gate = typer.Typer(help="Make past decisions again.", no_args_is_help=True)

Who = Annotated[str | None, typer.Option("--by", help="Who decides; default: your login name.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit log.")]
OfPipeline = Annotated[str | None, typer.Option("--pipeline", help="Only this pipeline.")]
Which = Annotated[
    str, typer.Argument(help="Number of the review, or a region with one that waits.")
]

_REVIEW = ("id", "pipeline", "region", "version", "state", "expires_at", "reviewer", "reason")


def register(app: typer.Typer) -> None:
    """Adds the room's commands."""
    app.add_typer(review, name="review")
    app.add_typer(gate, name="gate")
    command(app)(rollback)
    command(app)(audit)


def _registry() -> "Registry":
    from ml_patterns.installation import Installation
    from ml_patterns.registry.registry import Registry
    from ml_patterns.storage.operational import engine_for

    return Registry(engine_for(Installation.from_environment().state_url))


@command(review, "list")
def list_reviews(
    pipeline: OfPipeline = None,
    everything: Annotated[bool, typer.Option("--all", help="Answered ones, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what waits for an answer."""
    found = _registry().reviews(pipeline, state=None if everything else "pending")
    rows = [[getattr(entry, name) for name in _REVIEW] for entry in found]
    print_rows(_REVIEW, rows, as_json, "nothing waits for a review")


@command(review)
def show(review: Which, as_json: AsJson = False) -> None:
    """Show one review: the verdict's sentence and every condition behind it."""
    from ml_patterns.branching.commands import review_case

    registry = _registry()
    case = review_case(registry, _number(registry, review))
    if not as_json:
        typer.echo(f"{case.review.region} version {case.review.version}: {case.review.state}")
        typer.echo(case.decision.reason)
    conditions = [(f.condition, str(f.answer), f.why) for f in case.outcome.findings]
    print_rows(("condition", "answer", "sentence"), conditions, as_json)


@command(review)
def approve(review: Which, reason: Why, by: Who = None, as_json: AsJson = False) -> None:
    """Let the version be deployed by the next run or sensor tick."""
    _answered(True, review, by, reason, as_json)


@command(review)
def reject(review: Which, reason: Why, by: Who = None, as_json: AsJson = False) -> None:
    """Refuse the version for good."""
    _answered(False, review, by, reason, as_json)


def _number(registry: "Registry", which: str) -> int:
    """A review's number; a region stands for its only review that waits."""
    if which.isdecimal():
        return int(which)
    found = [entry.id for entry in registry.reviews() if entry.region == which]
    if len(found) == 1:
        return found[0]
    several = f"has {len(found)} that wait" if found else "has none that waits"
    raise UserError(f"region {which} {several}; `ml-patterns review list` shows the numbers")


def _answered(approved: bool, which: str, by: str | None, reason: str, as_json: bool) -> None:
    from ml_patterns.branching import commands
    from ml_patterns.project import Project

    policies = {name: found.gate for name, found in Project.load().pipelines.items()}
    answer = commands.approve if approved else commands.reject
    registry = _registry()
    number = _number(registry, which)
    done: Review = answer(
        registry, number, reviewer=by or getpass.getuser(), reason=reason, policies=policies
    )
    print_rows(_REVIEW, [[getattr(done, name) for name in _REVIEW]], as_json)


def rollback(
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    reason: Why,
    region: Annotated[str | None, typer.Argument(help="One region.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every region.")] = False,
    to: Annotated[int | None, typer.Option(help="Generation to return to.")] = None,
    by: Who = None,
    as_json: AsJson = False,
) -> None:
    """Bring earlier champions back, in one transaction."""
    from ml_patterns.branching import commands

    if (region is None) != everything:
        raise UserError("name one region, or --all for the whole fleet")
    champions = commands.rollback(
        _registry(),
        pipeline,
        region,
        actor=by or getpass.getuser(),
        reason=reason,
        to_generation=to,
    )
    rows = [(c.region, c.version, c.generation) for c in champions]
    print_rows(("region", "version", "generation"), rows, as_json)


def audit(
    pipeline: OfPipeline = None,
    region: Annotated[str | None, typer.Option(help="Only this region.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read the append-only log of every transition."""
    names = ("at", "pipeline", "region", "version", "action", "from_state", "to_state",
             "generation", "actor", "reason")  # fmt: skip
    found = _registry().audit(pipeline, region)
    print_rows(names, [[getattr(row, name) for name in names] for row in found], as_json)


@command(gate)
def replay(
    pipeline: OfPipeline = None,
    everything: Annotated[bool, typer.Option("--all", help="Every pipeline; the default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make every recorded decision again from its evidence; exit code 1 when one differs."""
    from ml_patterns.branching.commands import replay_decisions

    if pipeline and everything:
        raise UserError("name one pipeline, or --all")
    registry = _registry()
    found = replay_decisions(registry, pipeline)
    rows = [(d.decision.region, d.decision.version, d.recorded, d.replayed) for d in found]
    total = len(registry.decisions(pipeline))
    empty = f"all {total} decisions come out the same"
    print_rows(("region", "version", "recorded", "replayed"), rows, as_json, empty)
    raise typer.Exit(1 if found else 0)


@command(gate, "what-if")
def what_if(
    deploy_at: Annotated[float | None, typer.Option(help="Another threshold.")] = None,
    review_at: Annotated[float | None, typer.Option(help="Another threshold.")] = None,
    rule: Annotated[str | None, typer.Option(help="point or lower_bound.")] = None,
    pipeline: OfPipeline = None,
    as_json: AsJson = False,
) -> None:
    """Show which past decisions another policy would have turned; nothing is retrained."""
    from ml_patterns.branching import commands

    if rule not in (None, "point", "lower_bound"):
        raise UserError(f"--rule {rule!r} is neither point nor lower_bound")
    chosen: Literal["point", "lower_bound"] | None = rule  # type: ignore[assignment]
    flips = commands.what_if(
        _registry(), pipeline, deploy_at=deploy_at, review_at=review_at, rule=chosen
    )
    rows = [
        (f.decision.region, f.decision.version, str(f.before), str(f.after), f.sentence)
        for f in flips
    ]
    print_rows(("region", "version", "was", "would be", "why"), rows, as_json, "no decision flips")
