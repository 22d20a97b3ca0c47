"""`make demo` tells its story with real parts, and its numbers add up."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone holds that the demo needs, so that the demo of this folder is left alone."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "workspace.yaml"):
        shutil.copy(PROJECT / name, folder)
    shutil.copytree(PROJECT / "ml_patterns", folder / "ml_patterns")
    shutil.copytree(PROJECT / "data" / "deliveries", folder / "data" / "deliveries")
    return folder


def run_demo(clone: Path) -> dict[str, Any]:
    """Runs the demo as a person would; returns its report."""
    ours = ("DAGSTER_HOME", "ML_PATTERNS", "PYTEST")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-m", "ml_patterns", "demo"],
        cwd=clone, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((clone / "data/demo/report.json").read_text())
    return report


@pytest.fixture(scope="module")
def report(clone: Path) -> dict[str, Any]:
    return run_demo(clone)


def test_every_row_is_accounted_for(report: dict[str, Any]) -> None:
    events = report["events"]
    refused = events["too_late"] + events["future"] + events["invalid"]
    assert events["delivered"] == events["accepted"] + refused
    assert min(events.values()) > 0


def test_only_what_changed_was_computed_again(report: dict[str, Any]) -> None:
    increment = report["increment"]
    assert 48 <= increment["partitions_recomputed"] < increment["partitions_total"] == 168
    assert increment["rows_scanned"] < increment["rows_total"] == report["events"]["accepted"]


def test_all_three_branches_are_taken_and_a_person_decided(report: dict[str, Any]) -> None:
    models = {model["region"]: model for model in report["models"]}
    assert len(models) == 8
    assert {model["verdict"] for model in models.values()} == {"deploy", "review", "reject"}
    deployed = {region for region, model in models.items() if model["deployed"]}
    passed = {region for region, model in models.items() if model["verdict"] == "deploy"}
    assert deployed == passed | {"eu"}
    assert models["eu"]["verdict"] == "review"
    assert models["oceania"]["kind"] == "pooled"


def test_an_outage_leaves_no_request_unanswered(report: dict[str, Any]) -> None:
    serving = report["serving"]
    assert serving["answered"] == sum(serving["by_source"].values())
    assert serving["by_source"]["live"] > 0
    assert serving["by_source"]["champion"] > 0
    assert serving["healed_partitions"] == 24
    # One probe at a time, a few until the server is back; without a breaker it would be hundreds.
    assert 1 <= serving["backend_calls_while_open"] <= 20


def test_run_twice_it_works_twice(report: dict[str, Any], clone: Path) -> None:
    again = run_demo(clone)
    for part in ("events", "models"):
        assert again[part] == report[part]
