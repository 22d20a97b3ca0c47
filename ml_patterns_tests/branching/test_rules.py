"""The tree of rules: read as written, answered in three values."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from ml_patterns.branching.decide import Decision, decide
from ml_patterns.branching.evidence import Evidence, ProbeResult
from ml_patterns.branching.guards import Answer
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.slices import Slices
from ml_patterns.registry.records import Verdict
from ml_patterns_tests.branching.test_decide import answered, champion

YES, NO, CANNOT = Answer.YES, Answer.NO, Answer.CANNOT_JUDGE


def policy(text: str, **keys: Any) -> Policy:
    """A policy as a pipeline's YAML file holds it."""
    return Policy.model_validate({**yaml.safe_load(text), **keys})


def in_slices(right: dict[str, int], wrong: dict[str, int]) -> Evidence:
    """Evidence whose rows lie in slices of the column `weather`."""
    names = tuple(right)
    parts = [answered(right[name], wrong[name]) for name in names]
    codes = np.repeat(np.arange(len(names)), [part.rows for part in parts]).astype(np.int8)
    return Evidence(
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        probe=ProbeResult(True, milliseconds=2.0, size_bytes=3_000_000),
        data_checks={"fresh": True},
        slices={"weather": Slices(names, codes)},
    )


def test_a_tree_is_read_as_it_is_written() -> None:
    written = """
    deploy_when:
      all:
        - metric: accuracy
        - slices: weather
          at_least: 0.85
          min_rows: 30
        - any:
            - champion: not_worse
            - data_check: fresh
        - not: {metric: auc, at_least: 0.999}
    """
    read = policy(written)
    assert Policy.model_validate(read.model_dump(mode="json")) == read
    assert read.fingerprint() != Policy().fingerprint()
    assert policy(written).fingerprint() == read.fingerprint()


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"metrics": "accuracy"}, "a rule begins with one of metric, slices"),
        ({"metric": "f1"}, "deploy_when.metric.metric"),
        ({"all": []}, "deploy_when.all.all"),
        ({"not": {"any": [{"slices": "weather", "at_leats": 1}]}}, "at_leats"),
        ({"metric": "auc", "slices": "weather"}, "deploy_when.metric.slices"),
    ],
)
def test_a_mistake_in_a_tree_is_named(rule: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Policy.model_validate({"deploy_when": rule})
    assert place in str(raised.value)


def test_the_page_about_branching_shows_the_default_tree_and_trees_that_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "branching.md").read_text()
    written = [
        yaml.safe_load(text)["gate"] for text in re.findall(r"```yaml\n(.*?)```", page, re.S)
    ]
    short, spelt_out, own = (Policy.model_validate(block) for block in written)
    assert short == Policy()
    assert (spelt_out.deploys, spelt_out.reviews) == (short.deploys, short.reviews)
    assert own.deploys != short.deploys


def leaf(answer: Answer) -> dict[str, Any]:
    """A rule with that answer for a model that is right in 0.96 of 1000 rows."""
    return {
        YES: {"metric": "accuracy", "at_least": 0.9},
        NO: {"metric": "accuracy", "at_least": 0.99},
        CANNOT: {"data_check": "unknown"},
    }[answer]


def ruled(rule: dict[str, Any]) -> Decision:
    return decide(answered(960, 40), Policy.model_validate({"deploy_when": rule}), None)


@pytest.mark.parametrize("answers", list(product(Answer, repeat=2)))
def test_all_any_and_not_are_three_valued(answers: tuple[Answer, Answer]) -> None:
    """Kleene's tables: no < cannot judge < yes; all is the least, any the greatest."""
    order = [NO, CANNOT, YES]
    ranks = sorted(order.index(answer) for answer in answers)
    leaves = [leaf(answer) for answer in answers]
    assert ruled({"all": leaves}).deploys.answer is order[ranks[0]]
    assert ruled({"any": leaves}).deploys.answer is order[ranks[1]]
    assert ruled({"not": {"all": leaves}}).deploys.answer is order[2 - ranks[0]]


@pytest.mark.parametrize("answer", list(Answer))
def test_only_a_yes_deploys_and_what_is_not_met_is_named(answer: Answer) -> None:
    decision = ruled({"all": [leaf(YES), leaf(answer)]})
    assert (decision.verdict is Verdict.DEPLOY) == (answer is YES)
    named = {NO: "below 0.99", CANNOT: "unknown has no result", YES: "reaches 0.9"}[answer]
    assert named in decision.sentence


def test_a_rule_of_its_own_for_review_rejects_what_does_not_meet_it() -> None:
    strict = Policy.model_validate({"review_when": {"metric": "auc", "at_least": 0.999}})
    assert decide(answered(960, 40), strict, None).verdict is Verdict.REJECT


def test_no_rule_can_leave_out_the_guards() -> None:
    lax = Policy.model_validate(
        {name: {"metric": "accuracy", "at_least": 0} for name in ("deploy_when", "review_when")}
    )
    assert decide(answered(500, 500), lax, None).verdict is Verdict.REVIEW  # chance
    assert decide(answered(900, 100, probe=None), lax, None).verdict is Verdict.REVIEW
    lying = ProbeResult(False, "it lies")
    assert decide(answered(900, 100, probe=lying), lax, None).verdict is Verdict.REJECT
    assert decide(answered(900, 100), lax, None).verdict is Verdict.DEPLOY


def test_one_bad_slice_goes_to_a_human_and_is_named() -> None:
    evidence = in_slices({"dry": 900, "snow": 60}, {"dry": 10, "snow": 30})
    assert evidence.metrics["accuracy"] == 0.96
    decision = decide(evidence, Policy(), None)
    assert decision.verdict is Verdict.REVIEW
    assert (
        "in slice weather=snow the accuracy is 0.667 on 90 rows, below 0.9 beyond chance"
        in decision.sentence
    )


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [
        ({"dry": 940, "snow": 20}, {"dry": 11, "snow": 29}, "too few rows to look at"),
        ({"dry": 913, "snow": 44}, {"dry": 37, "snow": 6}, "below 0.9 by chance"),
    ],
)
def test_a_slice_that_may_be_bad_by_chance_stops_nothing(
    right: dict[str, int], wrong: dict[str, int], why: str
) -> None:
    assert decide(in_slices(right, wrong), Policy(), None).verdict is Verdict.DEPLOY, why


def test_the_chance_is_shared_by_all_slices_that_are_looked_at() -> None:
    """Of twenty slices one lies below by chance in every second look, at 95 % each."""
    alone = in_slices({"dry": 800, "snow": 39}, {"dry": 20, "snow": 12})
    many = {f"kind {number}": 100 for number in range(19)}
    among = in_slices({**many, "snow": 39}, {**dict.fromkeys(many, 1), "snow": 12})
    assert decide(alone, Policy(), None).verdict is Verdict.REVIEW
    assert decide(among, Policy(), None).verdict is Verdict.DEPLOY


def test_for_other_metrics_a_slice_must_not_be_worse_than_no_model() -> None:
    evidence = in_slices({"dry": 900, "snow": 20}, {"dry": 30, "snow": 50})
    by_auc = Policy(metric="auc", deploy_at=0.9, review_at=0.8)
    decision = decide(evidence, by_auc, None)
    assert decision.verdict is Verdict.REVIEW
    assert "worse than always giving its commoner answer" in decision.sentence
    fair = in_slices({"dry": 900, "snow": 60}, {"dry": 30, "snow": 30})
    assert decide(fair, by_auc, None).verdict is Verdict.DEPLOY


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"slices": "wind"}, "no text column wind"),
        ({"slices": "weather", "min_rows": 5000}, "no slice by weather has 5000"),
    ],
)
def test_slices_that_are_asked_for_and_missing_cannot_be_judged(
    rule: dict[str, Any], why: str
) -> None:
    evidence = in_slices({"dry": 960}, {"dry": 40})
    decision = decide(evidence, Policy.model_validate({"deploy_when": rule}), None)
    assert decision.deploys.answer is CANNOT
    assert why in decision.sentence


@pytest.mark.parametrize(
    ("limits", "verdict", "why"),
    [
        ({"max_milliseconds": 2}, Verdict.DEPLOY, ""),
        ({"max_milliseconds": 1}, Verdict.REVIEW, "latency 2 ms is above 1 ms"),
        ({"max_megabytes": 2.5}, Verdict.REVIEW, "size 3 MB is above 2.5 MB"),
    ],
)
def test_an_artifact_may_be_limited(limits: dict[str, float], verdict: Verdict, why: str) -> None:
    rule = {"artifact": "works", **limits}
    evidence = in_slices({"dry": 960}, {"dry": 40})
    evidence = Evidence(evidence.labels, evidence.probabilities, probe=evidence.probe)
    decision = decide(evidence, Policy.model_validate({"deploy_when": rule}), None)
    assert decision.verdict is verdict
    assert why in decision.sentence
    unmeasured = Evidence(evidence.labels, evidence.probabilities, probe=ProbeResult(True))
    unsure = decide(unmeasured, Policy.model_validate({"deploy_when": rule}), None)
    assert unsure.deploys.answer is CANNOT


def test_a_champion_may_be_allowed_to_be_better_by_a_margin() -> None:
    evidence, perfect = answered(960, 40), answered(1000, 0).probabilities
    serving = champion(evidence, perfect)
    for margin, answer in ((0.0, NO), (0.05, YES)):
        rule = {"champion": "not_worse", "max_regression": margin}
        tree = Policy.model_validate({"deploy_when": rule, "review_when": leaf(YES)})
        assert decide(evidence, tree, serving).deploys.answer is answer
