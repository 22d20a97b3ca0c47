"""The table of docs/operations.md: what starts by itself, read from the definitions.

`python -m ml_patterns_tests.operations.automation_table` writes it anew.
"""

import os
import re
from pathlib import Path

import dagster as dg

from ml_patterns.automation import SWITCH
from ml_patterns.project import Project

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
PIPELINE = "deliveries"
BEGIN, END = "<!-- automation -->", "<!-- /automation -->"
HEADER = [
    "| in the UI | kind | when | job | with automation on | what it does |",
    "|---|---|---|---|---|---|",
]


def bundled() -> dg.Definitions:
    """Definitions of the bundled pipeline, as `ml-patterns dev` sees them."""
    os.environ[SWITCH] = "on"
    return Project.load(ROOT).definitions


def table(definitions: dg.Definitions) -> str:
    """The sensors and schedules, and the assets that Dagster materializes on a condition."""
    sensors, schedules = definitions.sensors or (), definitions.schedules or ()
    rows = [
        (
            sensor.name,
            "sensor",
            f"every {sensor.minimum_interval_seconds} s",
            sensor.job_name if sensor.targets else "",
            sensor.default_status.value,
            sensor.description,
        )
        for sensor in sensors
    ]
    rows += [
        (
            schedule.name,
            "schedule",
            f"`{schedule.cron_schedule}` {schedule.execution_timezone}",
            schedule.job_name,
            schedule.default_status.value,
            schedule.description,
        )
        for schedule in schedules
    ]
    rows += [
        (key.to_user_string(), "condition", "", "", "RUNNING", condition.get_label() or "condition")
        for key, condition in conditions(definitions)
    ]
    lines = [
        f"| `{name}` | {kind} | {when} | {f'`{job}`' if job else ''} | {status.lower()} | {does} |"
        for name, kind, when, job, status, does in rows
    ]
    return "\n".join([*HEADER, *lines])


def conditions(
    definitions: dg.Definitions,
) -> list[tuple[dg.AssetKey, dg.AutomationCondition[dg.AssetKey]]]:
    """Assets with an automation condition."""
    nodes = definitions.resolve_asset_graph().asset_nodes
    return [(node.key, node.automation_condition) for node in nodes if node.automation_condition]


def in_page() -> str:
    """The table as the page shows it."""
    found = re.search(f"{BEGIN}\n(.*){END}", PAGE.read_text(), re.DOTALL)
    assert found, f"{PAGE} has no {BEGIN} … {END}"
    return found[1]


def main() -> None:
    """Replaces the page's table."""
    before, after = f"{BEGIN}\n{in_page()}", f"{BEGIN}\n{table(bundled())}\n"
    PAGE.write_text(PAGE.read_text().replace(before, after))


if __name__ == "__main__":
    main()
