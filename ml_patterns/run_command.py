"""`ml-patterns run`: progress, summary and exit code.

Belongs here: what the command prints. Does not: the steps (`catch_up.py`).
"""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ml_patterns.catch_up import STEPS, CatchUp, StepOutcome
from ml_patterns.collecting import collect_from_now_on
from ml_patterns.dagster_internals import event_log_kept_open, mirror_output_by_threads
from ml_patterns.errors import UserError
from ml_patterns.instance import instance_of_home
from ml_patterns.project import Project, dagster_home
from ml_patterns.registry.records import DecisionRecord
from ml_patterns.retry.settings import INSIDE_COMMAND
from ml_patterns.settings import PipelineSettings

_MOST_ROWS = 20
_SEVERITY = {"deploy": 0, "review": 1, "reject": 2}


def run_pipeline(
    project: Project,
    settings: PipelineSettings,
    *,
    steps: str | None = None,
    fail_on: str | None = None,
    as_json: bool = False,
) -> int:
    """Runs the steps and prints what they came to.

    Returns:
        The exit code: 1 when a step failed or a newest verdict is as bad as `fail_on`.

    Raises:
        UserError: an unknown step or verdict.
    """
    chosen = _chosen(steps)
    if fail_on is not None and fail_on not in ("review", "reject"):
        raise UserError(f"--fail-on {fail_on!r} is neither review nor reject")
    dagster_home(project.root)
    os.environ[INSIDE_COMMAND] = "true"
    console = Console(stderr=as_json)
    outcomes, seconds = [], {}
    instance = instance_of_home()
    with event_log_kept_open(instance), mirror_output_by_threads():
        runner = CatchUp(project.definitions, settings, project.installation, instance)
        collect_from_now_on()
        due: dict[str, int] = {}
        started = time.perf_counter()
        for outcome in runner.run(chosen, listen=due.__setitem__):
            now = time.perf_counter()
            seconds[outcome.step], started = now - started, now
            outcomes.append(outcome)
            _print_step(console, outcome, due.get(outcome.step, 0), seconds[outcome.step])
        decisions = runner.decisions()
    _print_decisions(console, decisions)
    failures = [text for outcome in outcomes for text in outcome.failures]
    for text in failures:
        console.print(f"[red]failed[/red] {escape(text)}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(_report(outcomes, seconds, decisions), indent=2))
    bad = [d for d in decisions if fail_on and _SEVERITY[d.verdict] >= _SEVERITY[fail_on]]
    return 1 if failures or bad else 0


def _chosen(steps: str | None) -> Sequence[str]:
    if steps is None:
        return STEPS
    chosen = [step.strip() for step in steps.split(",")]
    for step in chosen:
        if step not in STEPS:
            raise UserError(f"--steps names {step!r}; there are: {', '.join(STEPS)}")
    return [step for step in STEPS if step in chosen]


def _print_step(console: Console, outcome: StepOutcome, due: int, seconds: float) -> None:
    state = (
        "[red]failed[/red]" if outcome.failures else "done" if outcome.run_ids else "nothing due"
    )
    for note in outcome.notes:
        console.print(f"[yellow]note[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
    console.print(
        f"{outcome.step:<12} {due:>6} due {outcome.done:>6} recorded  {seconds:6.1f} s  {state}",
        highlight=False,
    )


def _print_decisions(console: Console, decisions: Sequence[DecisionRecord]) -> None:
    """What the gate says of each region, the worst first; of a large fleet the worst only."""
    if not decisions:
        return
    by_severity = sorted(decisions, key=lambda d: (-_SEVERITY[d.verdict], d.region))
    table = Table("region", "version", "verdict", "why", box=None, pad_edge=False)
    for decision in by_severity[:_MOST_ROWS]:
        table.add_row(decision.region, str(decision.version), decision.verdict, decision.reason)
    console.print(table)
    counts = Counter(str(decision.verdict) for decision in decisions)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _SEVERITY if counts[verdict])
    console.print(f"{len(decisions)} regions: {summary}", highlight=False)


def _report(
    outcomes: Sequence[StepOutcome],
    seconds: dict[str, float],
    decisions: Sequence[DecisionRecord],
) -> dict[str, object]:
    return {
        "steps": [
            {
                "step": outcome.step,
                "recorded": outcome.done,
                "seconds": round(seconds[outcome.step], 3),
                "runs": list(outcome.run_ids),
                "failures": list(outcome.failures),
                "notes": list(outcome.notes),
            }
            for outcome in outcomes
        ],
        "decisions": [
            {"region": d.region, "version": d.version, "verdict": str(d.verdict), "why": d.reason}
            for d in decisions
        ],
    }
