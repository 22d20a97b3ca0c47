"""The launchpad's way to answer a review."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_patterns.branching.jobs import build_jobs
from ml_patterns_tests.branching import test_assets
from ml_patterns_tests.serving.reviews.site import Site


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance:
        yield instance


def launch(
    site: Site, instance: dg.DagsterInstance, name: str = "shop", **config: Any
) -> dg.ExecuteInProcessResult:
    settings = test_assets.settings.__wrapped__()  # type: ignore[attr-defined]
    settings = settings.model_copy(update={"gate": site.policy, "name": name})
    definitions = dg.Definitions(
        jobs=build_jobs(settings), resources=test_assets.resources(site.shop)
    )
    return definitions.resolve_job_def(f"{name}_review_job").execute_in_process(
        run_config={"ops": {f"{name}_answer_review": {"config": config}}},
        instance=instance,
        raise_on_error=False,
    )


def why(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    return failure.step_failure_data.user_failure_data.description or ""  # type: ignore[union-attr]


@pytest.mark.parametrize(("answer", "state"), [("APPROVE", "approved"), ("REJECT", "rejected")])
def test_the_launchpad_answers_by_name_and_reason(
    site: Site, instance: dg.DagsterInstance, answer: str, state: str
) -> None:
    review = site.ask()
    result = launch(
        site, instance, review=review.id, answer=answer, reviewer="ada", reason="on call"
    )
    assert result.success
    done = site.house.registry.review(review.id)
    assert (done.state, done.reviewer, done.reason) == (state, "ada", "on call")


def test_what_cannot_be_answered_fails_in_one_sentence(
    site: Site, instance: dg.DagsterInstance
) -> None:
    review = site.ask()
    answer = {"review": review.id, "answer": "APPROVE", "reviewer": "ada"}
    assert "reason are mandatory" in why(launch(site, instance, **answer, reason=" "))
    other = launch(site, instance, "depot", **answer, reason="fine")
    assert "is of pipeline shop, not depot" in why(other)
    assert site.house.registry.review(review.id).state == "pending"
    assert launch(site, instance, **answer, reason="fine").success
    again = launch(site, instance, **{**answer, "reviewer": "grace"}, reason="me, too")
    assert "already approved by ada: fine" in why(again)
