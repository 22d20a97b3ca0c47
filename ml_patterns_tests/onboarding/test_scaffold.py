"""`dg scaffold defs` and `ml-patterns init` write the same files, which Dagster accepts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_patterns_tests.onboarding.conftest import NAME
from ml_patterns_tests.onboarding.orders import orders
from ml_patterns_tests.onboarding.test_init import files, init, land

BIN = Path(sys.executable).parent
SCAFFOLD = ("dg", "scaffold", "defs", "ml_patterns.EventModelPipeline")

pytestmark = pytest.mark.slow


def run(*command: str, code: int = 0) -> str:
    """Both outputs of a command of this environment in the working directory."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def test_both_write_the_same_files(project: Path) -> None:
    land(project, orders())
    assert "EventModelPipeline" in run("dg", "list", "components")
    run(*SCAFFOLD, "orders", "--events", "landing")
    scaffolded = files(project, "orders")
    for path in (project / NAME / "defs" / "orders").iterdir():
        path.unlink()
    init("orders", "--events", "landing")
    assert files(project, "orders") == scaffolded
    assert set(scaffolded) == {"defs.yaml", "aggregates.sql", "features.sql"}


def test_what_is_written_validates_with_and_without_events(project: Path) -> None:
    land(project, orders())
    run(*SCAFFOLD, "seen", "--events", "landing", "--label", "amount > 100")
    run(*SCAFFOLD, "unseen")
    assert "validated successfully" in run("dg", "check", "yaml")
    assert "Validation successful" in run(
        "dagster", "definitions", "validate", "-m", f"{NAME}.definitions"
    )


def test_a_mistake_is_one_sentence_and_leaves_nothing(project: Path) -> None:
    said = run(*SCAFFOLD, "orders", "--events", "nowhere", code=1)
    assert "Error: there is no file or folder nowhere" in said
    assert "Traceback" not in said
    assert not (project / NAME / "defs" / "orders").exists()
    land(project, orders())
    run(*SCAFFOLD, "orders", "--events", "landing")
