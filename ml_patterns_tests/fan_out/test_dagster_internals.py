"""What we take from inside Dagster is still there: read this first when an upgrade fails."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from alembic.script import Script, ScriptDirectory

from ml_patterns import dagster_internals


@dg.job
def nothing_to_do() -> None:
    """Has runs all the same."""


def test_the_target_of_a_check_evaluation_is_still_where_we_import_it_from() -> None:
    """If this fails after an upgrade: find the record's new place and mend `dagster_internals`."""
    target = dagster_internals.AssetCheckEvaluationTargetMaterializationData(
        storage_id=1, run_id="run", timestamp=0.0
    )
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("model"),
        check_name="gate",
        passed=True,
        metadata={},
        partition="eu",
        target_materialization_data=target,
    )
    assert evaluation.target_materialization_data.storage_id == 1


def test_the_newest_materialization_of_a_partition_is_found() -> None:
    """Of this partition, not of the asset; none before the first."""
    key = dg.AssetKey("model")
    with dg.DagsterInstance.ephemeral() as instance:
        assert dagster_internals.latest_target(instance, key, "eu") is None
        for region in ("eu", "eu", "us"):
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=region))
        target = dagster_internals.latest_target(instance, key, "eu")
        (newest, *_) = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=["eu"]), limit=5
        ).records
    assert target is not None
    assert (target.storage_id, target.run_id) == (newest.storage_id, newest.run_id)


def test_an_event_log_that_is_kept_open_is_not_written_back_after_every_event() -> None:
    """SQLite's journal lies beside its file until the last connection is closed."""

    def journals(instance: dg.DagsterInstance) -> list[str]:
        return [path.name for path in Path(instance.root_directory).rglob("index.db-wal")]

    event = dg.AssetMaterialization("model")
    with dg.instance_for_test() as instance:
        instance.report_runless_asset_event(event)
        assert not journals(instance)
        with dagster_internals.event_log_kept_open(instance):
            instance.report_runless_asset_event(event)
            assert journals(instance)
        assert not journals(instance)
        assert len(instance.fetch_materializations(event.asset_key, limit=9).records) == 2
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dagster_internals.event_log_kept_open(instance),
    ):
        instance.report_runless_asset_event(event)


def test_an_event_log_that_is_kept_open_has_an_engine_and_its_connections_for_each_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dagster makes an engine for every connection, and a connection for every event. If this fails
    after an upgrade, look where it does that now: `dagster_internals._keep_engines`."""
    made, opened = list[str](), list[str]()

    @dg.asset
    def nothing() -> None:
        """Has events all the same."""

    def counted(url: str, **options: Any) -> sa.Engine:
        made.append(url)
        engine = sa.create_engine(url, **options)
        sa.event.listen(engine, "connect", lambda connection, record: opened.append(url))
        return engine

    with dg.instance_for_test() as instance:
        for storage in (instance.event_log_storage, instance.run_storage):
            monkeypatch.setattr(sys.modules[type(storage).__module__], "create_engine", counted)
        dagster_internals._keep_engines.cache_clear()
        with dagster_internals.event_log_kept_open(instance):
            for _ in range(3):
                assert dg.materialize([nothing], instance=instance).success
        names = Counter(Path(url).name for url in made)
        assert {names["index.db"], names["runs.db"], max(names.values())} == {1}
        assert max(Counter(opened).values()) <= 2  # one is asked for while another is in use
        assert instance.get_runs_count() == 3
    dagster_internals._keep_engines.cache_clear()


def test_the_event_log_of_a_run_that_begins_is_kept_open_too() -> None:
    """It has its journal beside it from its first table on."""
    with dg.instance_for_test() as instance:
        with dagster_internals.event_log_kept_open(instance):
            run = instance.create_run_for_job(nothing_to_do)
            instance.report_engine_event("begun", run)
            storage = instance.event_log_storage
            path = Path(storage.path_for_shard(run.run_id))
            assert path.with_name(f"{path.name}-wal").exists()
        assert not path.with_name(f"{path.name}-wal").exists()
        assert len(instance.all_logs(run.run_id)) == 1


def test_dagsters_migrations_are_read_once_however_many_runs_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If this fails after an upgrade, look whether Dagster still keeps their configuration:
    `dagster_internals.reuse_migrations`."""
    read = []
    load = ScriptDirectory._load_revisions

    def counted(script: ScriptDirectory) -> Iterator[Script]:
        read.append(script.dir)
        return load(script)

    monkeypatch.setattr(ScriptDirectory, "_load_revisions", counted)
    dagster_internals.reuse_migrations()
    with dg.instance_for_test() as instance:
        for _ in range(3):
            instance.create_run_for_job(nothing_to_do)
        stamped = instance.event_log_storage.alembic_version()
    assert len(read) <= 3  # of the event log, the list of runs and the schedules
    assert stamped is not None
    assert stamped[0] == stamped[1]


PRINTS = """\
import os, subprocess, sys
from pathlib import Path
import dagster as dg
from ml_patterns import dagster_internals

@dg.asset
def talkative():
    print("from Python", flush=True)
    os.write(1, b"from C\\n")
    subprocess.run(["echo", "from a child"], check=True)
    print("to stderr", file=sys.stderr)
    children = Path("/proc/self/task").glob("*/children")
    print("children:", " ".join(path.read_text() for path in children).split())

quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
with dg.DagsterInstance.get() as instance, dagster_internals.mirror_output_by_threads():
    done = dg.materialize([talkative], instance=instance, run_config=quiet)
    (captured,) = [e for e in instance.all_logs(done.run_id) if e.dagster_event
                   and e.dagster_event.event_type_value == "LOGS_CAPTURED"]
    key = captured.dagster_event.event_specific_data.file_key
    log = instance.compute_log_manager
    data = log.get_log_data([done.run_id, "compute_logs", key])
    Path("captured.out").write_bytes(data.stdout)
    Path("captured.err").write_bytes(data.stderr)
print("after the run")
"""


def test_what_a_step_prints_is_captured_and_shown_to_its_end_without_processes(
    tmp_path: Path,
) -> None:
    """If this fails after an upgrade, look how Dagster mirrors output now:
    `dagster_internals.mirror_output_by_threads`."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    done = subprocess.run(
        [sys.executable, "-c", PRINTS],
        cwd=tmp_path, env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    printed = ["from Python", "from C", "from a child", "children: []"]
    assert (tmp_path / "captured.out").read_text().splitlines() == printed
    assert done.stdout.splitlines() == [*printed, "after the run"]
    assert (tmp_path / "captured.err").read_text() == "to stderr\n"
    assert "to stderr\n" in done.stderr


def test_an_asset_knows_whether_others_run_with_it() -> None:
    """Assets that are only upstream are not others."""
    seen = []
    upstream = dg.AssetSpec("upstream")

    @dg.asset(deps=[upstream])
    def model(context: dg.AssetExecutionContext) -> None:
        seen.append(dagster_internals.others_selected(context))

    @dg.asset(deps=[model])
    def deployed() -> None:
        """Follows."""

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([upstream, model, deployed], selection=[model], instance=instance)
        dg.materialize([upstream, model, deployed], selection=[model, deployed], instance=instance)
    assert seen == [False, True]
