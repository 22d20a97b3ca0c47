"""The checks of the overview say in the UI what `ml-patterns status` says."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_patterns.circuit_breaker.degraded import remember
from ml_patterns.overview import TOPICS, concerns
from ml_patterns.pipeline import build_defs
from ml_patterns.project import Project
from ml_patterns.status import Finding, status
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import storage_resources
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.ui.shop import make_shop


@pytest.fixture
def project(installation: Path, tmp_path: Path) -> Project:
    root = tmp_path / "shop"
    make_shop(root, "overview_shop")
    return Project.load(root)


def run(project: Project, job: str) -> dg.ExecuteInProcessResult:
    stores = storage_resources(project.installation)  # a process makes them once by itself
    definitions = build_defs(project.pipeline("shop"), stores)
    with dg.DagsterInstance.ephemeral() as instance:
        done = definitions.resolve_job_def(job).execute_in_process(instance=instance)
    assert done.success
    return done


def look(project: Project) -> dict[str, dg.AssetCheckEvaluation]:
    """What the overview's job finds, by check."""
    done = run(project, "shop_overview_job")
    return {each.check_name: each for each in done.get_asset_check_evaluations()}


def failed(found: dict[str, dg.AssetCheckEvaluation]) -> set[str]:
    return {name for name, each in found.items() if not each.passed}


def test_each_finding_fails_the_check_at_its_asset(project: Project) -> None:
    found = look(project)
    assert set(found) == {topic.name for topic in TOPICS}
    assert failed(found) == {"every_file_is_in"}
    assert found["every_file_is_in"].asset_key == dg.AssetKey(["shop", "event_files"])
    assert found["every_file_is_in"].description == "no file was registered yet"
    assert found["every_file_is_in"].metadata["next"].value == "ml-patterns run shop"

    done = run(project, "shop_ingest_job")
    names = {each.check_name for each in done.get_asset_check_evaluations()}
    assert not names & {topic.name for topic in TOPICS}  # they have a job of their own
    engine = engine_for(project.installation.state_url)
    start = datetime(2026, 6, 1, 3, tzinfo=UTC)
    remember(engine, "shop", {start: True}, datetime.now(UTC))

    found = look(project)
    assert failed(found) == {"nothing_is_due", "answers_are_live"}
    assert found["nothing_is_due"].severity is dg.AssetCheckSeverity.WARN
    said = status(project.pipeline("shop"), Warehouse(project.installation.warehouse), engine)
    sentences = [sentence for each in found.values() for sentence in each.metadata["found"].value]
    assert sorted(sentences) == sorted(each.sentence for each in said.findings)
    engine.dispose()


def test_a_file_that_went_away_is_asked_about(project: Project) -> None:
    run(project, "shop_ingest_job")
    (removed, *_) = sorted(Path(project.pipeline("shop").event_glob).parent.iterdir())
    removed.unlink()
    found = look(project)["every_file_is_in"]
    assert not found.passed
    assert f"{removed} was read before and is gone; its rows still count" in (
        found.description or ""
    )


def test_what_no_run_would_start_on_is_too_big(project: Project) -> None:
    """The budget stops a run before it starts; an operator hears of it without trying."""
    run(project, "shop_ingest_job")
    settings, engine = project.pipeline("shop"), engine_for(project.installation.state_url)
    warehouse = Warehouse(project.installation.warehouse)
    assert "too big" not in {each.subject for each in status(settings, warehouse, engine).findings}
    events = settings.events.model_copy(update={"max_rows_per_run": 1})
    said = status(settings.model_copy(update={"events": events}), warehouse, engine)
    (too_big, *_) = [each for each in said.findings if each.subject == "too big"]
    assert "more than events.max_rows_per_run 1" in too_big.sentence
    assert too_big.command == "ml-patterns plan shop"
    engine.dispose()


def test_a_finding_of_a_new_kind_is_not_lost() -> None:
    """Who adds a subject to the status and no topic for it still sees it in the UI."""
    new = Finding("too loud", "the machine hums")
    assert [t.name for t in TOPICS if concerns(new, t)] == ["nothing_else_wants_attention"]
    for topic in TOPICS:
        for subject in topic.subjects:
            finding = Finding(subject, "…")
            assert [each for each in TOPICS if concerns(finding, each)] == [topic]
