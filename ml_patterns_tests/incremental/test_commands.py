"""The room's commands, as a person or a script would use them, on a project of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_patterns_tests.incremental.conftest import AGGREGATES, FEATURES, Shop, row

YAML = """\
type: ml_patterns.EventModelPipeline

attributes:
  name: shop
  events:
    path: landed/*.parquet
    id: id
    time: "at"
    version: known
    region: region
    start: "2026-06-01"
    grace: 2h
  aggregates:
    window: 3
"""


@pytest.fixture
def project(shop: Shop) -> Shop:
    """A Dagster project whose warehouse is the shop's."""
    package = shop.folder / "shop"
    defs = package / "defs" / "shop"
    defs.mkdir(parents=True)
    (package / "__init__.py").touch()
    (defs / "defs.yaml").write_text(YAML)
    (defs / "aggregates.sql").write_text(AGGREGATES)
    (defs / "features.sql").write_text(FEATURES)
    (shop.folder / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n'
        '[tool.dg.project]\nroot_module = "shop"\n'
    )
    shop.change(path="landed/*.parquet", label_delay="0s", label_columns=[])
    return shop


def command(shop: Shop, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ML_PATTERNS_", "DAGSTER"))}
    return subprocess.run(
        [str(Path(sys.executable).parent / "ml-patterns"), *arguments],
        cwd=shop.folder, capture_output=True, text=True, timeout=60, check=False,
        env={**kept, "ML_PATTERNS_WAREHOUSE": str(shop.warehouse.path)},
    )  # fmt: skip


@pytest.mark.slow
def test_plan_says_what_is_due_and_its_exit_code_whether_anything_is(project: Shop) -> None:
    first = command(project, "plan", "shop")
    assert (first.returncode, first.stdout) == (
        0, "no event was registered yet; `ml-patterns run shop` begins with that\n",
    )  # fmt: skip
    project.land("a.parquet", [row("1", 0), row("2", 1)])
    project.ingest()
    shown = command(project, "plan", "shop", "--json")
    assert shown.returncode == 2, shown.stderr
    found = json.loads(shown.stdout)
    assert [(entry["layer"], entry["partition"][-5:]) for entry in found] == [
        ("aggregates", "00:00"), ("aggregates", "01:00"), ("features", "00:00"),
        ("features", "01:00"),
    ]  # fmt: skip
    assert found[0] == {
        "layer": "aggregates", "partition": "2026-06-01-00:00", "reason": "new", "rows": 1,
        "seconds": None,
    }  # fmt: skip
    assert "not measured yet" in command(project, "plan", "shop").stdout
    project.catch_up()
    assert command(project, "plan", "shop").stdout == "nothing is due\n"
    project.land("b.parquet", [row("3", 1)])
    project.ingest()
    shown = command(project, "plan", "shop")
    assert "late rows" in shown.stdout
    assert "about 0." in shown.stdout
    late = json.loads(command(project, "plan", "shop", "--lateness", "--json").stdout)
    assert [entry["grace"] for entry in late if entry["current"]] == ["2h"]


@pytest.mark.slow
def test_the_dead_letter_is_listed_replayed_and_acknowledged(project: Shop) -> None:
    project.land("a.parquet", [row("1", 0), row("2", 9)])
    project.ingest()
    project.land("b.parquet", [row("late", 0)])
    project.catch_up()
    (letter,) = json.loads(command(project, "dead-letter", "list", "shop", "--json").stdout)
    assert (letter["partition"], letter["class"], letter["rows"]) == (
        "2026-06-01-00:00", "too_late", 1,
    )  # fmt: skip
    wrong = command(project, "dead-letter", "replay", "shop", "--partition", "yesterday")
    assert (wrong.returncode, "look like 2026-06-01-00:00" in wrong.stderr) == (1, True)
    done = command(project, "dead-letter", "replay", "shop", "--partition", "2026-06-01-00:00")
    assert done.stdout.startswith("1 rows count now")
    project.catch_up()
    assert [line[1] for line in project.table("features")] == ["1", "late", "2"]

    path = project.landed / "a.parquet"
    refused = command(project, "dead-letter", "acknowledge", "shop", str(path))
    assert (refused.returncode, "is still there" in refused.stderr) == (1, True)
    path.unlink()
    assert command(project, "dead-letter", "acknowledge", "shop", str(path)).returncode == 0
    project.catch_up()
    assert [line[1] for line in project.table("features")] == ["late"]
