"""The files of a deployment say what they are read as."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_cloud_cli.config.models import load_dagster_cloud_yaml

from ml_patterns.installation import Installation
from ml_patterns.project import INSTANCE_TEMPLATE

PROJECT = Path(__file__).parents[2]


def document(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / path).read_text())
    return found


def test_dagster_reads_every_block_but_the_database(tmp_path: Path) -> None:
    """The database itself is in `test_postgresql.py`."""
    production = document("deploy/dagster.yaml")
    assert production.pop("storage") == {
        "postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(production))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled


def test_production_limits_what_a_developers_machine_limits() -> None:
    """One writer of the warehouse at a time, wherever it runs."""
    assert (
        document("deploy/dagster.yaml")["concurrency"]
        == (yaml.safe_load(INSTANCE_TEMPLATE)["concurrency"])
    )


def test_dagster_plus_finds_the_code_location() -> None:
    text = (PROJECT / "dagster_cloud.yaml").read_text()
    (location,) = load_dagster_cloud_yaml(text).locations
    assert location.code_source
    (here,) = document("workspace.yaml")["load_from"]
    assert location.location_name == here["python_module"]["location_name"]
    assert location.code_source.module_name == here["python_module"]["module_name"]


@pytest.mark.parametrize("field", list(Installation.__dataclass_fields__))
def test_every_place_of_an_installation_is_spoken_of(field: str) -> None:
    """Where a disk is ephemeral, a store that nobody thought of is lost."""
    variable = f"ML_PATTERNS_{field.upper()}"
    for path in ("dagster_cloud.yaml", "deploy/kubernetes/values.yaml", "docs/production.md"):
        assert variable in (PROJECT / path).read_text(), path


def test_the_chart_says_what_the_file_says() -> None:
    values, file = document("deploy/kubernetes/values.yaml"), document("deploy/dagster.yaml")
    daemon, extra = values["dagsterDaemon"], values["additionalInstanceConfig"]
    assert extra["concurrency"] == file["concurrency"]
    assert extra["run_retries"] == file["run_retries"]
    assert not daemon["runRetries"]["enabled"]  # or the chart would write the block a second time
    monitoring = {_snake(name): value for name, value in daemon["runMonitoring"].items()}
    assert monitoring.pop("max_resume_run_attempts") == 0
    assert monitoring == file["run_monitoring"]
    for name, block in file["retention"].items():
        chart = values["retention"][name if name != "auto_materialize" else "autoMaterialize"]
        assert chart["purgeAfterDays"] == block["purge_after_days"]
    assert values["telemetry"] == file["telemetry"]
    assert "+psycopg2" in values["postgresql"]["postgresqlScheme"]


def test_runs_and_code_location_share_the_warehouses_node() -> None:
    values = document("deploy/kubernetes/values.yaml")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    assert launcher["runK8sConfig"]["podSpecConfig"]["nodeSelector"] == deployment["nodeSelector"]
    assert deployment["includeConfigInLaunchedRuns"]["enabled"]
    (mount,) = deployment["volumeMounts"]
    assert deployment["env"]["ML_PATTERNS_WAREHOUSE"].startswith(f"{mount['mountPath']}/")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
