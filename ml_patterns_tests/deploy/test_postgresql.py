"""The whole pipeline once on PostgreSQL, Dagster's storage and ours, by `deploy/dagster.yaml`."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import duckdb
import pytest
import requests

from ml_patterns.registry.outbox import notifications
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.deploy.conftest import BIN, PROJECT, Production

pytestmark = pytest.mark.slow
CRASHING = ("-m", "ml_patterns_tests.deploy.crashing")


@pytest.fixture
def instance(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance as its own processes see it."""
    for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
        monkeypatch.setenv(name, production.environment[name])
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_dagster_reads_the_file_as_it_is_meant(instance: dg.DagsterInstance) -> None:
    parts = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    assert {type(part).__module__.split(".")[0] for part in parts} == {"dagster_postgres"}
    pools = instance.get_concurrency_config().pool_config
    assert pools.default_pool_limit == 1
    assert pools.pool_granularity is not None
    assert pools.pool_granularity.value == "op"
    assert instance.run_monitoring_enabled
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure


@pytest.fixture(scope="module")
def report(production: Production) -> dict[str, Any]:
    """What `ml-patterns run` says after it has caught the pipeline up."""
    done = production.run("ml-patterns", "run", "deliveries", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def deployed(report: dict[str, Any]) -> set[str]:
    """The regions that the gate let pass."""
    found = {row["region"] for row in report["decisions"] if row["verdict"] == "deploy"}
    assert found
    return found


def test_the_pipeline_runs_and_then_nothing_is_due(
    production: Production, instance: dg.DagsterInstance, report: dict[str, Any]
) -> None:
    runs = [instance.get_run_by_id(run) for step in report["steps"] for run in step["runs"]]
    assert len(runs) >= 9
    assert all(run is not None and run.is_success for run in runs)
    again = production.run("ml-patterns", "plan", "deliveries")
    assert again.returncode == 0, again.stdout + again.stderr

    registry = Registry(engine_for(production.state_url))
    champions = {champion.region for champion in registry.champions("deliveries")}
    assert champions == deployed(report)
    with duckdb.connect(production.warehouse, read_only=True) as connection:
        answered = connection.execute(
            "SELECT count(*) FROM deliveries.event_features ANTI JOIN deliveries.predictions "
            "USING (partition_start, event_id) WHERE partition_start >= "
            "(SELECT min(partition_start) FROM deliveries.predictions)"
        ).fetchone()
    assert answered == (0,)

    done = production.run(
        "dagster", "asset", "materialize", "-m", "ml_patterns.definitions",
        "--select", "deliveries/regional_model", "--partition", "us_west",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    newest = instance.get_latest_materialization_event(
        dg.AssetKey(["deliveries", "regional_model"])
    )
    assert newest
    assert newest.dagster_event
    assert newest.dagster_event.partition == "us_west"


def test_it_is_backed_up_destroyed_and_restored(
    production: Production, report: dict[str, Any]
) -> None:
    """Nothing is due again, champions serve, and the audit log is the same; Dagster's own history
    is lost here, too, and no partition is computed for that."""
    backup = str(production.folder / "backup")
    before = production.run("ml-patterns", "audit", "--json").stdout
    done = production.run("ml-patterns", "backup", backup)
    assert done.returncode == 0, done.stderr

    engine_for(production.state_url).dispose()
    production.empty("ML_PATTERNS_STATE_URL")
    production.empty("DAGSTER_POSTGRES_URL")
    production.warehouse.unlink()
    shutil.rmtree(production.environment["ML_PATTERNS_ARTIFACTS"])

    done = production.run("ml-patterns", "restore", backup)
    assert done.returncode == 0, done.stderr
    assert "accounts for every row" in done.stdout
    done = production.run("ml-patterns", "plan", "deliveries")
    assert done.returncode == 0, done.stdout + done.stderr
    assert production.run("ml-patterns", "audit", "--json").stdout == before
    assert len(json.loads(before)) > 8

    steps = ("--steps", "ingest,aggregates,features,deployment")
    done = production.run("ml-patterns", "run", "deliveries", *steps, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(not step["runs"] for step in json.loads(done.stdout)["steps"][1:])
    with serving(production) as url:
        for region in deployed(report):
            answer = requests.get(f"{url}/v2/models/deliveries.{region}/ready", timeout=60)
            assert answer.status_code == 200, answer.text


@contextmanager
def serving(production: Production) -> Iterator[str]:
    """The address of a model server of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ml_patterns.serving", "--port", "0"],
        cwd=PROJECT,
        env=production.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        line = process.stdout.readline().strip()
        assert line.startswith("listening on "), line
        yield line.removeprefix("listening on ")
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def daemon(production: Production) -> Iterator[None]:
    """Dagster's daemon over the code location whose runs end badly, with its automation on."""
    with (production.folder / "daemon.log").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / "dagster-daemon"), "run", *CRASHING],
            cwd=PROJECT,
            env={**production.environment, "ML_PATTERNS_AUTOMATION": "on"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        yield
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], bool], log: str) -> None:
    """Waits for what other processes do."""
    deadline = time.monotonic() + 480
    while not condition():
        assert time.monotonic() < deadline, log
        time.sleep(0.2)


def launch(production: Production, job: str) -> None:
    """Queues a run, as the UI would."""
    done = production.run("dagster", "job", "launch", *CRASHING, "-j", job)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_whose_process_died_is_started_again_and_a_mistake_is_not(
    production: Production, instance: dg.DagsterInstance, daemon: None
) -> None:
    """Both are told to the team."""
    log = str(production.folder / "daemon.log")

    def runs(job: str) -> list[dg.DagsterRun]:
        return instance.get_runs(dg.RunsFilter(job_name=job))

    launch(production, "shop_build_job")
    launch(production, "shop_training_job")
    until(lambda: any(run.is_success for run in runs("shop_build_job")), log)
    until(lambda: any(run.is_failure for run in runs("shop_training_job")), log)
    again, killed = runs("shop_build_job")
    assert (again.parent_run_id, again.is_success) == (killed.run_id, True)
    assert killed.is_failure
    (mistaken,) = runs("shop_training_job")

    engine = engine_for(production.state_url)
    until(lambda: len(notifications(engine, "shop")) == 2, log)
    told = {entry.payload["run"]: entry.payload["reason"] for entry in notifications(engine)
            if entry.kind == "run_failed"}  # fmt: skip
    assert "no retry helps" in told[mistaken.run_id]
    assert told[killed.run_id].endswith("Dagster starts it again")
    assert len(runs("shop_training_job")) == 1
