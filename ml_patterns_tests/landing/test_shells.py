"""A table in Dagster and on the command line: it lands by itself, once, and shows no credential."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ml_patterns.pipeline import build_defs
from ml_patterns_tests.conftest import MARKER, PROJECT
from ml_patterns_tests.landing.conftest import VARIABLE, Shop, pipeline

BIN = Path(sys.executable).parent
SECRET = "hunter2"

DEFS = """\
type: ml_patterns.EventModelPipeline
attributes:
  name: shop
  events:
    path: landing/*.parquet
    id: number
    time: ordered_at
    version: updated_at
    region: country
    grain: day
    start: "2026-03-01"
    grace: 1d
  source:
    url_variable: SHOP_DATABASE_URL
    table: orders
    cursor: updated_at
"""


def test_the_sensor_asks_until_everything_has_landed(
    shop: Shop, tmp_path: Path, installation: Path
) -> None:
    settings = pipeline(tmp_path)
    definitions = build_defs(settings)
    sensor = definitions.resolve_sensor_def("shop_database_sensor")
    job = definitions.resolve_job_def("shop_land_job")
    with dg.DagsterInstance.ephemeral() as instance:

        def look() -> object:
            return sensor(dg.build_sensor_context(instance=instance))

        assert isinstance(look(), dg.SkipReason)
        shop.insert(shop.order(1, 0), shop.order(2, 1))
        first, again = look(), look()
        assert isinstance(first, dg.RunRequest)
        assert isinstance(again, dg.RunRequest)
        assert first.run_key == again.run_key
        result = job.execute_in_process(instance=instance)
        (done,) = result.get_asset_materialization_events()
        metadata = done.materialization.metadata
        assert (metadata["rows"].value, metadata["files"].value) == (2, 1)
        assert isinstance(look(), dg.SkipReason)
        shop.update(1, 5, returned=True)
        second = look()
        assert isinstance(second, dg.RunRequest)
        assert second.run_key != first.run_key


def test_files_that_land_by_themselves_bring_no_table(tmp_path: Path, installation: Path) -> None:
    settings = pipeline(tmp_path).model_copy(update={"source": None})
    names = {spec.key.to_user_string() for spec in build_defs(settings).resolve_all_asset_specs()}
    assert "shop/event_files" in names
    assert "shop/database_rows" not in names


def test_a_failed_run_shows_no_password(
    tmp_path: Path, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"postgresql+psycopg://ada:{SECRET}@127.0.0.1:9/shop?connect_timeout=2"
    monkeypatch.setenv(VARIABLE, address)
    job = build_defs(pipeline(tmp_path)).resolve_job_def("shop_land_job")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
        log = instance.all_logs(result.run_id)
    told = "".join(f"{entry.to_json()} {entry.user_message}" for entry in log)
    assert "table orders cannot be read through SHOP_DATABASE_URL" in told
    assert SECRET not in told


@pytest.mark.slow
def test_the_commands_land_and_go_on_from_there(
    shop: Shop, tmp_path: Path, installation: Path
) -> None:
    root = tmp_path / "project"
    defs = root / "landed_shop" / "defs" / "shop"
    defs.mkdir(parents=True)
    (root / "pyproject.toml").write_text(MARKER.format(name="landed_shop"))
    for folder in (root / "landed_shop", defs.parent):
        (folder / "__init__.py").touch()
    definitions = (PROJECT / "ml_patterns" / "definitions.py").read_text()
    (root / "landed_shop" / "definitions.py").write_text(definitions)
    (defs / "defs.yaml").write_text(DEFS)
    pipeline(tmp_path)
    for name in ("aggregates.sql", "features.sql"):
        (defs / name).write_text((tmp_path / "defs" / name).read_text())

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=root, env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shop.insert(shop.order(1, 0), shop.order(2, 1))
    assert "2 rows of table orders landed, 2 were read" in run("ml-patterns", "land", "shop")
    shop.update(2, 9, returned=False)
    report = json.loads(run("ml-patterns", "run", "shop", "--steps",
                            "land,ingest,aggregates,features", "--json"))  # fmt: skip
    assert [step["step"] for step in report["steps"]] == [
        "land",
        "ingest",
        "aggregates",
        "features",
    ]
    rows = json.loads(run("ml-patterns", "sql", "SELECT event_id, label FROM shop.event_features "
                          "ORDER BY event_id", "--json"))  # fmt: skip
    assert rows == [{"event_id": "1", "label": None}, {"event_id": "2", "label": False}]
    assert "validated successfully" in run("dg", "check", "yaml")
