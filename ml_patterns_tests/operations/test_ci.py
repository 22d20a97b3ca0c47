"""The workflow for users calls one script; the script says no when the gate does."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_patterns.partitions import time_partitions
from ml_patterns.project import Project
from ml_patterns_tests.docs.tree import fresh_copy
from ml_patterns_tests.operations.automation_table import PAGE
from ml_patterns_tests.operations.platform import clean_environment

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "ci.sh"
WORKFLOW = ROOT / ".github" / "workflows" / "pipeline.yml"
TOO_LONG = 900


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    document = yaml.safe_load(WORKFLOW.read_text())
    (job,) = document["jobs"].values()
    assert isinstance(job, dict)
    return job


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as somebody copied it, the installation done."""
    return fresh_copy(tmp_path_factory.mktemp("ci") / "copy")


@pytest.fixture(scope="module")
def materialized(copy: Path, job: dict[str, Any]) -> Path:
    """The copy after all the workflow's steps but the last."""
    *steps, last = [step["run"] for step in job["steps"] if "run" in step]
    assert last == "scripts/ci.sh train"
    for command in steps:
        done = run(copy, command, job["env"])
        assert done.returncode == 0, done.stdout
    return copy


def run(copy: Path, command: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command as the workflow gives it, standard error among its output."""
    return subprocess.run(
        command.split(),
        cwd=copy,
        env=clean_environment() | {"PYTHONPATH": str(copy)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TOO_LONG,
    )


def test_every_step_of_the_workflow_is_a_command_of_the_script(job: dict[str, Any]) -> None:
    commands = [step["run"].split() for step in job["steps"] if "run" in step]
    known = re.findall(r"^(\w+)\(\) \{", SCRIPT.read_text(), re.MULTILINE)
    assert [command[0] for command in commands] == ["scripts/ci.sh"] * 4
    assert [command[1] for command in commands] == ["install", "check", "materialize", "train"]
    assert {command[1] for command in commands} <= set(known)
    assert os.access(SCRIPT, os.X_OK)
    for step in job["steps"]:
        assert ("run" in step) or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


def test_the_workflow_names_a_pipeline_and_a_partition_that_exist(job: dict[str, Any]) -> None:
    settings = Project.load(ROOT).pipeline(job["env"]["PIPELINE"])
    assert time_partitions(settings).has_partition_key(job["env"]["PARTITION"])


@pytest.mark.slow
def test_regions_that_pass_their_gate_pass(materialized: Path, job: dict[str, Any]) -> None:
    done = run(materialized, "scripts/ci.sh train", job["env"])
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout


@pytest.mark.slow
def test_a_rejected_gate_fails_and_says_why_last(materialized: Path, job: dict[str, Any]) -> None:
    variables = job["env"] | {"REGIONS": "apac us_west"}
    done = run(materialized, "scripts/ci.sh train", variables)
    assert done.returncode == 1, done.stdout
    (verdict,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert "region apac version 1 was rejected: reject: accuracy 0." in verdict
    assert f"\n{verdict}\n" in PAGE.read_text(), "the page shows another verdict"
    assert "1 trained" in done.stdout or "1 unchanged" in done.stdout  # us_west, all the same


@pytest.mark.slow
def test_a_mistake_in_the_yaml_fails_with_its_line(copy: Path, job: dict[str, Any]) -> None:
    page = copy / "ml_patterns" / "defs" / "deliveries" / "defs.yaml"
    right = page.read_text()
    page.write_text(right.replace("grain: hour", "grain: minute"))
    try:
        done = run(copy, "scripts/ci.sh check", job["env"])
    finally:
        page.write_text(right)
    assert done.returncode == 1
    line = right.splitlines().index("    grain: hour") + 1
    assert f"defs.yaml:{line}" in done.stdout
