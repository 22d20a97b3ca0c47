"""The command line and Dagster's own commands on an installation that has never been used."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_patterns.sandbox.upstream import serve_upstream

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DAYS = ("2026-06-01-00:00", "2026-06-05-23:00")

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command of this environment on one fresh installation, shared by this module."""
    folder = tmp_path_factory.mktemp("installation")
    (folder / "dagster").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "CI": "true",
        "DAGSTER_HOME": str(folder / "dagster"),
        "ML_PATTERNS_WAREHOUSE": str(folder / "warehouse.duckdb"),
        "ML_PATTERNS_STATE_URL": f"sqlite:///{folder / 'state.sqlite'}",
        "ML_PATTERNS_ARTIFACTS": str(folder / "artifacts"),
        "ML_PATTERNS_MODEL_URL": "http://127.0.0.1:9",
    }

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = str(BIN / command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=PROJECT, env=environment | variables, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def materialize(run: Run, asset: str, *options: str, **variables: str) -> int:
    """`dagster asset materialize` of one asset; its exit code."""
    return run(
        "dagster", "asset", "materialize", "-m", "ml_patterns.definitions",
        "--select", f"deliveries/{asset}", *options, **variables,
    ).returncode  # fmt: skip


@pytest.fixture(scope="module")
def materialized(run: Run) -> Run:
    """Five days of everything up to the features, each asset by Dagster's own command."""
    with serve_upstream(()) as upstream:
        hours = ("--partition-range", "...".join(DAYS))
        assert materialize(run, "event_files") == 0
        assert materialize(run, "event_aggregates", *hours) == 0
        weather = {"ML_PATTERNS_WEATHER_URL": upstream.url}
        days = ("--partition-range", "2026-06-01...2026-06-05")
        assert materialize(run, "external/weather", *days, **weather) == 0
        assert materialize(run, "event_features", *hours) == 0
    return run


def test_a_single_region_is_materialized_and_passes(materialized: Run) -> None:
    assert materialize(materialized, "regional_model", "--partition", "us_west") == 0
    assert materialize(materialized, "deployed_model", "--partition", "us_west") == 0


def test_a_single_region_under_review_exits_0(materialized: Run) -> None:
    assert materialize(materialized, "regional_model", "--partition", "eu") == 0


def test_a_single_region_that_is_rejected_exits_1(materialized: Run) -> None:
    assert materialize(materialized, "regional_model", "--partition", "uk") == 1


def test_a_range_of_regions_is_materialized(materialized: Run) -> None:
    assert materialize(materialized, "regional_model", "--partition-range", "apac...us_west") == 0
    assert materialize(materialized, "leaderboard") == 0


def test_predictions_are_answered_without_a_model_server(materialized: Run) -> None:
    hour = ("--partition", "2026-06-05-12:00")
    assert materialize(materialized, "predictions", *hour) == 0
    assert materialize(materialized, "prediction_quality", "--partition", "2026-06-05") == 0


def test_another_fresh_dagster_home_can_materialize_a_region_at_once(
    materialized: Run, tmp_path: Path
) -> None:
    """Dagster looks the partition up before any code runs: it must know the region by then."""
    home = {"DAGSTER_HOME": str(tmp_path)}
    assert materialize(materialized, "regional_model", "--partition", "us_east", **home) == 0


@pytest.mark.parametrize(
    ("asset", "partition"),
    [
        ("event_aggregates", "2026-06-01-05:00"),
        ("event_features", "2026-06-01-05:00"),
        ("regional_model", "us_west"),
        ("deployed_model", "us_west"),
        ("predictions", "2026-06-05-13:00"),
        ("prediction_quality", "2026-06-05"),
    ],
)
def test_dg_launch_works_on_every_partitioned_asset(
    materialized: Run, asset: str, partition: str
) -> None:
    done = materialized("dg", "launch", "--assets", f"deliveries/{asset}", "--partition", partition)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_query_waits_for_its_turn_beside_a_running_pipeline(materialized: Run) -> None:
    """One process may hold the file at a time; a reader must wait, not fail."""
    failures: list[str] = []
    running = threading.Event()
    running.set()

    def ask() -> None:
        while running.is_set():
            done = materialized(
                "ml-patterns", "sql", "SELECT count(*) FROM deliveries.event_files_"
            )
            if "held by" in done.stderr:
                failures.append(done.stderr)

    reader = threading.Thread(target=ask)
    reader.start()
    try:
        done = materialized("ml-patterns", "run", "deliveries", "--steps", "ingest,aggregates")
        assert done.returncode == 0, done.stderr
    finally:
        running.clear()
        reader.join()
    assert not failures


def test_a_whole_run_ends_with_nothing_due(materialized: Run) -> None:
    with serve_upstream(()) as upstream:
        weather = {"ML_PATTERNS_WEATHER_URL": upstream.url}
        done = materialized("ml-patterns", "run", "deliveries", "--json", **weather)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert {decision["verdict"] for decision in report["decisions"]} == {
            "deploy", "review", "reject",
        }  # fmt: skip
        assert materialized("ml-patterns", "plan", "deliveries").returncode == 0
        status = json.loads(materialized("ml-patterns", "status", "deliveries", "--json").stdout)
        assert status["champions"] == 3
        waiting = [entry for entry in status["findings"] if entry["subject"] == "review"]
        assert {entry["sentence"].split()[0] for entry in waiting} == {"eu", "canada", "oceania"}
        strict = materialized(
            "ml-patterns", "run", "deliveries", "--steps", "ingest", "--fail-on", "reject"
        )
    assert strict.returncode == 1


def test_a_mistake_is_a_sentence_without_a_stack_trace(materialized: Run) -> None:
    done = materialized("ml-patterns", "plan", "nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("ml-patterns: no pipeline nothing")
    assert "Traceback" not in done.stderr
