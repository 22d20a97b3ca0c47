"""One YAML file is one pipeline, and a mistake in it is one sentence with file and line."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from ml_patterns.errors import SettingsError
from ml_patterns.project import Project
from ml_patterns_tests.conftest import MARKER

PROJECT = Path(__file__).parents[1]
EVENTS = str(PROJECT / "data" / "deliveries" / "events")

MISTAKES = {
    "unknown_metric": ("  owners:", "  gate: {metric: f1}\n  owners:", "accuracy"),
    "review_above_deploy": (
        "  owners:",
        "  gate: {deploy_at: 0.9, review_at: 0.95}\n  owners:",
        "gate.review_at 0.95 is above gate.deploy_at 0.9",
    ),
    "grace_below_grain": (
        "    grace: 12h",
        "    grace: 30m",
        "events.grace 30m is shorter than the grain",
    ),
    "grace_below_label_delay": (
        "    grace: 12h",
        "    grace: 6h",
        "events.grace 6h is shorter than events.label_delay 12h",
    ),
    "sql_missing": ("sql: features.sql", "sql: nowhere.sql", "names nowhere.sql, but"),
    "column_missing": ("    id: parcel_id", "    id: parcel", "no column parcel (events.id)"),
    "no_duration": ("    grace: 12h", "    grace: soon", "'soon' is not a duration"),
    "no_name": ("  name: deliveries", "  name: De liveries", "is not a name"),
    "unknown_zone": ("    grain: hour", "    grain: hour\n    timezone: Mars", "not an IANA zone"),
    "dataset_parameter": (
        "  owners:",
        "  training: {candidates: [{max_bin: 15}]}\n  owners:",
        "training.candidates[0].max_bin belongs to the dataset",
    ),
}


@pytest.fixture(autouse=True)
def _events(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PATTERNS_EVENTS", EVENTS)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, make_project: Callable[..., Path]) -> None:
    old, new, sentence = MISTAKES[mistake]
    root = make_project(f"project_{mistake}", (old, new))
    with pytest.raises(SettingsError) as found:
        Project.load(root).pipeline("deliveries")
    assert sentence in str(found.value)
    assert "\n" not in str(found.value)


def test_a_wrong_key_shows_file_and_line(make_project: Callable[..., Path]) -> None:
    root = make_project("project_wrong_key", ("    grace: 12h", "    grase: 12h"))
    file = root / "project_wrong_key" / "defs" / "deliveries" / "defs.yaml"
    line = file.read_text().splitlines().index("    grase: 12h") + 1
    with pytest.raises(SettingsError, match=f"events.grase at {file}:{line}"):
        Project.load(root).pipeline("deliveries")


def test_no_file_yet_is_a_warning(
    make_project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PATTERNS_EVENTS", str(tmp_path / "not started"))
    root = make_project("project_not_started")
    with pytest.warns(UserWarning, match="matches no file yet"):
        settings = Project.load(root).pipeline("deliveries")
    assert settings.name == "deliveries"


def test_a_bad_file_does_not_keep_the_code_location_from_loading(
    make_project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = tmp_path / "landing"
    landing.mkdir()
    for file in sorted(Path(EVENTS).iterdir())[:2]:
        shutil.copy(file, landing)
    (landing / "zz.parquet").write_bytes(b"PAR1 truncated")
    monkeypatch.setenv("ML_PATTERNS_EVENTS", str(landing))
    assert Project.load(make_project("project_bad_file")).pipeline("deliveries")


def test_an_unknown_pipeline_is_answered_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no pipeline nothing .*; there are: deliveries"):
        Project.load(PROJECT).pipeline("nothing")


def test_a_project_without_its_modules_names_the_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(MARKER.format(name="project_of_nothing"))
    with pytest.raises(SettingsError, match=r"pyproject.toml leads to project_of_nothing, and"):
        Project.load(tmp_path)
    (tmp_path / "project_of_nothing").mkdir()
    (tmp_path / "project_of_nothing" / "__init__.py").touch()
    with pytest.raises(SettingsError, match=r"leads to project_of_nothing.defs, and"):
        Project.load(tmp_path)


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Project.load(PROJECT).definitions


def test_groups_are_the_patterns(definitions: dg.Definitions) -> None:
    specs = definitions.resolve_all_asset_specs()
    assert {spec.group_name for spec in specs} == {
        "incremental", "fan_out", "branching", "retry", "circuit_breaker",
    }  # fmt: skip


def test_every_asset_explains_itself(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.kinds, spec.key
        assert spec.owners, spec.key


def test_every_job_resolves(definitions: dg.Definitions) -> None:
    for step in ("ingest", "build", "external", "training", "leaderboard", "deployment",
                 "predictions", "quality", "audit"):  # fmt: skip
        assert definitions.resolve_job_def(f"deliveries_{step}_job")


def test_nothing_runs_by_itself_unless_it_is_asked_to(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    assert repository.sensor_defs
    assert repository.schedule_defs
    for sensor in repository.sensor_defs:
        assert sensor.default_status is dg.DefaultSensorStatus.STOPPED, sensor.name
    for schedule in repository.schedule_defs:
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED, schedule.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate", "-m", "ml_patterns.definitions"],
        ["dagster", "definitions", "validate", "-w", "workspace.yaml"],
        ["dg", "check", "yaml"],
        ["dg", "check", "defs"],
    ],
    ids=" ".join,
)
def test_dagsters_own_checks_pass(command: list[str]) -> None:
    program = Path(sys.executable).parent / command[0]
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(program), *command[1:]],
        cwd=PROJECT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
