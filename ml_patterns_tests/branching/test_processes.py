"""The gate as CI and the daemon meet it: real `dagster` processes on one installation."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ml_patterns.installation import Installation
from ml_patterns.partitions import region_partitions
from ml_patterns.pipeline import build_defs
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import OperationalResource
from ml_patterns_tests.fan_out.conftest import made_up, settings_for, write_features

pytestmark = pytest.mark.slow

NOISE = {"eu": 0.02, "uk": 0.03, "us_east": 0.17, "us_west": 0.45}
"""Share of labels turned round: two regions that pass, one for a human, one that is rejected."""
MODEL, DEPLOYED = "parcels/regional_model", "parcels/deployed_model"
DEFINITIONS = """
from pathlib import Path
from ml_patterns.pipeline import build_defs
from ml_patterns.settings import PipelineSettings
settings = PipelineSettings.model_validate_json(Path(__file__).with_name("gate.json").read_text())
defs = build_defs(settings)
"""


@pytest.fixture
def code(installation: Path) -> Path:
    """A code location whose four regions have features and are known to Dagster."""
    settings = settings_for()
    (installation / "gate.json").write_text(settings.model_dump_json())
    (installation / "parcels_location.py").write_text(DEFINITIONS)
    regions = [made_up(region, 1500, noise=noise) for region, noise in NOISE.items()]
    write_features(installation / "warehouse.duckdb", *regions)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(str(region_partitions(settings).name), list(NOISE))
    return installation / "parcels_location.py"


@pytest.fixture
def registry(code: Path) -> Registry:
    return Registry(engine_for(Installation.from_environment().state_url))


def dagster(code: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dagster", *arguments, "-f", str(code)]
    return subprocess.run(command, cwd=code.parent, capture_output=True, text=True, check=False)


def materialized(code: Path, selection: str, *partition: str) -> int:
    """Exit code of `dagster asset materialize`."""
    done = dagster(code, "asset", "materialize", "--select", selection, *partition)
    print(done.stderr[-3000:])  # pytest shows it if the test fails
    return done.returncode


def serving(registry: Registry) -> list[str]:
    return [champion.region for champion in registry.champions("parcels")]


def requested() -> list[str]:
    """The regions that the deployment sensor asks for."""
    definitions = build_defs(settings_for())
    sensor = definitions.resolve_sensor_def("parcels_deployment_sensor")
    operational = OperationalResource(url=Installation.from_environment().state_url)
    with (
        dg.DagsterInstance.get() as instance,
        dg.build_sensor_context(
            instance=instance, definitions=definitions, resources={"operational": operational}
        ) as context,
    ):
        result = sensor(context)
    if isinstance(result, dg.SkipReason):
        return []
    assert isinstance(result, dg.RunRequest)
    regions: list[str] = result.run_config["ops"]["parcels__deployed_model"]["config"]["regions"]
    return regions


def test_after_a_batch_exactly_the_regions_that_passed_are_deployed(
    code: Path, registry: Registry
) -> None:
    assert materialized(code, MODEL, "--partition-range", "eu...us_west") == 0
    verdicts = {each.region: str(each.verdict) for each in registry.decisions("parcels")}
    assert verdicts == {"eu": "deploy", "uk": "deploy", "us_east": "review", "us_west": "reject"}
    assert serving(registry) == []
    assert requested() == ["eu", "uk"]
    (review,) = registry.reviews("parcels")
    registry.decide_review(review.id, approve=True, reviewer="ada", reason="a hard region")
    assert requested() == ["eu", "uk", "us_east"]
    assert materialized(code, DEPLOYED, "--partition-range", "eu...us_west") == 0
    assert serving(registry) == ["eu", "uk", "us_east"]
    assert requested() == []


@pytest.mark.parametrize(
    ("region", "exit_code", "state"),
    [("eu", 0, "champion"), ("us_east", 0, "pending_review"), ("us_west", 1, "rejected")],
)
def test_one_region_by_name_is_a_gate_in_ci(
    code: Path, registry: Registry, region: str, exit_code: int, state: str
) -> None:
    """As a job of CI would: the deployment runs only if the model's run ended with 0."""
    assert materialized(code, MODEL, "--partition", region) == exit_code
    if exit_code == 0:
        assert materialized(code, DEPLOYED, "--partition", region) == 0
    assert registry.version("parcels", region, 1).state == state
    assert serving(registry) == ([region] if state == "champion" else [])
