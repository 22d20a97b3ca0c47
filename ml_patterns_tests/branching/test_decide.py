"""decide(): three-valued, inclusive at its thresholds, and never a pass without evidence."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_patterns.branching.decide import decide
from ml_patterns.branching.evidence import ChampionEvidence, Evidence, ProbeResult
from ml_patterns.branching.guards import Answer
from ml_patterns.branching.policy import Metric, Policy
from ml_patterns.branching.slices import Slices
from ml_patterns.branching.statistics import rows_to_pass
from ml_patterns.registry.records import Verdict

WORKS = ProbeResult(True)
ORDER = {Verdict.REJECT: 0, Verdict.REVIEW: 1, Verdict.DEPLOY: 2}
METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "auc", "gain_over_majority")


def answered(right: int, wrong: int, **changes: Any) -> Evidence:
    """Evidence of a model that answers that many rows right and wrong, half of each class."""
    rows = right + wrong
    labels = np.arange(rows) % 2 == 0
    correct = np.ones(rows, dtype=bool)
    correct[np.linspace(0, rows - 1, wrong, dtype=int)] = False
    said = np.where(correct == labels, 0.9, 0.1)
    values: dict[str, Any] = {"labels": labels, "probabilities": said, "probe": WORKS}
    return Evidence(**(values | changes))


def champion(evidence: Evidence, probabilities: Any = None, **changes: Any) -> ChampionEvidence:
    """A champion that was asked about all rows."""
    rows = np.ones(evidence.rows, dtype=bool)
    said = evidence.probabilities if probabilities is None else probabilities
    values: dict[str, Any] = {"version": 1, "generation": 1, "rows": rows, "probabilities": said}
    return ChampionEvidence(**(values | changes))


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [
        (950, 50, Verdict.DEPLOY),
        (949, 51, Verdict.REVIEW),
        (900, 100, Verdict.REVIEW),
        (899, 101, Verdict.REJECT),
    ],
)
def test_the_missions_thresholds_are_inclusive(right: int, wrong: int, verdict: Verdict) -> None:
    decision = decide(answered(right, wrong), Policy(), None)
    assert (decision.verdict, decision.point_verdict) == (verdict, verdict)


def test_a_threshold_is_reached_in_decimal_too() -> None:
    """0.85 of one class and 0.95 of the other make 0.9, but 0.8999999999999999 in binary."""
    labels = np.array([True] * 40 + [False] * 40)
    said = np.array([0.9] * 34 + [0.1] * 6 + [0.1] * 38 + [0.9] * 2)
    policy = Policy(metric="balanced_accuracy", deploy_at=0.9, review_at=0.9)
    decision = decide(Evidence(labels, said, probe=WORKS), policy, None)
    assert decision.value is not None
    assert decision.value < 0.9
    assert decision.verdict is Verdict.DEPLOY


def test_both_rules_are_always_shown() -> None:
    evidence = answered(192, 8)
    by_point = decide(evidence, Policy(), None)
    by_bound = decide(evidence, Policy(rule="lower_bound"), None)
    assert (by_point.verdict, by_bound.verdict) == (Verdict.DEPLOY, Verdict.REVIEW)
    assert by_point.bound_verdict is by_bound.verdict
    assert by_bound.point_verdict is by_point.verdict
    assert by_bound.more_rows is not None
    assert f"about {by_bound.more_rows} more labelled rows" in by_bound.sentence


def test_the_missing_rows_are_the_fewest_that_suffice() -> None:
    evidence = answered(192, 8)
    decision = decide(evidence, Policy(rule="lower_bound"), None)
    assert decision.lower_bound is not None
    more = rows_to_pass("accuracy", 0.96, decision.lower_bound, 0.95, 200, 0.95)
    assert more is not None
    enough = math.ceil((200 + more) / 25) * 25  # where 0.96 is a whole number of rows
    assert (
        decide(answered(enough * 24 // 25, enough // 25), Policy(rule="lower_bound"), None).verdict
        is Verdict.DEPLOY
    )
    assert (
        decide(
            answered((enough - 50) * 24 // 25, (enough - 50) // 25),
            Policy(rule="lower_bound"),
            None,
        ).verdict
        is Verdict.REVIEW
    )


@pytest.mark.parametrize(
    ("changes", "answer", "why"),
    [
        ({"probe": None}, Answer.CANNOT_JUDGE, "not probed"),
        ({"probe": ProbeResult(None, "it died")}, Answer.CANNOT_JUDGE, "it died"),
        ({"probe": ProbeResult(False, "it lies")}, Answer.NO, "it lies"),
        ({"problem": "no column x"}, Answer.CANNOT_JUDGE, "no column x"),
        ({"data_checks": {"rows": None}}, Answer.CANNOT_JUDGE, "rows has no result"),
        ({"data_checks": {"rows": False}}, Answer.NO, "rows failed"),
        ({"leak": ("answer", 0.995)}, Answer.CANNOT_JUDGE, "answer alone separates"),
        ({"rolled_back": "incident 7"}, Answer.CANNOT_JUDGE, "incident 7"),
        ({"probabilities": np.full(1000, np.nan)}, Answer.CANNOT_JUDGE, "1000 of 1000"),
        ({"probabilities": np.full(1000, 7.0)}, Answer.NO, "no probabilities"),
        ({"labels": np.ones(1000, dtype=bool)}, Answer.CANNOT_JUDGE, "one class only"),
    ],
)
def test_each_condition_stops_an_otherwise_good_model(
    changes: dict[str, Any], answer: Answer, why: str
) -> None:
    assert decide(answered(1000, 0), Policy(), None).verdict is Verdict.DEPLOY
    decision = decide(answered(1000, 0, **changes), Policy(), None)
    assert decision.verdict is not Verdict.DEPLOY
    assert answer in {finding.answer for finding in decision.findings}
    assert why in decision.sentence


def test_one_missing_prediction_is_enough_for_a_human() -> None:
    evidence = answered(1000, 0)
    evidence.probabilities[17] = np.nan
    decision = decide(evidence, Policy(), None)
    assert decision.verdict is Verdict.REVIEW
    assert "1 of 1000 test rows have no valid prediction" in decision.sentence


@pytest.mark.parametrize("rows", [0, 1, 49])
def test_too_few_rows_go_to_a_human(rows: int) -> None:
    decision = decide(answered(rows, 0), Policy(), None)
    assert decision.verdict is Verdict.REVIEW
    assert decision.more_rows is not None
    assert decision.more_rows >= 50 - rows


def test_a_bad_model_on_too_few_rows_is_not_rejected_either() -> None:
    assert decide(answered(30, 19), Policy(), None).verdict is Verdict.REVIEW


def test_the_first_model_can_be_left_to_a_human() -> None:
    evidence, policy = answered(1000, 0), Policy(first_model="review")
    assert decide(evidence, policy, None).verdict is Verdict.REVIEW
    assert decide(evidence, policy, champion(evidence)).verdict is Verdict.DEPLOY


def test_worse_than_the_champion_beyond_chance_is_rejected() -> None:
    evidence, perfect = answered(960, 40), answered(1000, 0).probabilities
    decision = decide(evidence, Policy(), champion(evidence, perfect))
    assert decision.verdict is Verdict.REJECT
    assert "worse than champion version 1" in decision.sentence
    allowed = Policy(max_regression=0.05)
    assert decide(evidence, allowed, champion(evidence, perfect)).verdict is Verdict.DEPLOY


def test_worse_by_chance_is_no_regression() -> None:
    """Four rows lost and none won: McNemar's p is 1/16."""
    evidence, perfect = answered(996, 4), answered(1000, 0).probabilities
    assert decide(evidence, Policy(), champion(evidence, perfect)).verdict is Verdict.DEPLOY
    evidence = answered(995, 5)  # five: 1/32
    assert decide(evidence, Policy(), champion(evidence, perfect)).verdict is Verdict.REJECT


@pytest.mark.parametrize("metric", ["auc", "balanced_accuracy"])
def test_other_metrics_are_compared_by_a_paired_bootstrap(metric: Metric) -> None:
    evidence, perfect = answered(960, 40), answered(1000, 0).probabilities
    policy = Policy(metric=metric)
    assert decide(evidence, policy, champion(evidence, perfect)).verdict is Verdict.REJECT
    assert decide(evidence, policy, champion(evidence)).verdict is Verdict.DEPLOY


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rows": np.arange(1000) < 49, "probabilities": np.full(49, 0.5)}, "only 49 test rows"),
        ({"problem": "the file is gone"}, "the file is gone"),
        ({"probabilities": np.full(1000, np.nan)}, "cannot be compared"),
    ],
)
def test_a_champion_that_cannot_be_compared_with_goes_to_a_human(
    changes: dict[str, Any], why: str
) -> None:
    evidence = answered(1000, 0)
    decision = decide(evidence, Policy(), champion(evidence, **changes))
    assert decision.verdict is Verdict.REVIEW
    assert why in decision.sentence


@st.composite
def cases(draw: st.DrawFn) -> tuple[Evidence, Policy, ChampionEvidence | None]:
    rows = draw(st.integers(0, 120))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.random(rows) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    noise = draw(st.sampled_from([0.0, 0.03, 0.1, 0.5]))
    flipped = labels ^ (random.random(rows) < noise)
    said = np.where(flipped, 0.5 + random.random(rows) / 2, random.random(rows) / 2)
    if rows and draw(st.booleans()):
        said[random.integers(rows)] = draw(st.sampled_from([math.nan, math.inf, 2.0, 0.5]))
    evidence = Evidence(
        labels=labels,
        probabilities=said.astype(np.float32).astype(np.float64),
        problem=draw(st.sampled_from(["", "", "", "broken"])),
        leak=draw(st.sampled_from([None, ("f", 0.6), ("f", 1.0)])),
        probe=draw(
            st.sampled_from([None, WORKS, WORKS, ProbeResult(None, "?"), ProbeResult(False, "!")])
        ),
        data_checks=draw(st.sampled_from([{}, {"c": True}, {"c": False}, {"c": None}])),
        rolled_back=draw(st.sampled_from([None, None, "incident"])),
        slices=draw(
            st.sampled_from(
                [{}, {"wind": Slices(("calm", "gale"), (np.arange(rows) % 2).astype(np.int8))}]
            )
        ),
    )
    low, high = sorted(draw(st.tuples(*[st.sampled_from([-1.0, 0.0, 0.5, 0.9, 0.95, 1.0])] * 2)))
    policy = Policy(
        metric=draw(st.sampled_from(METRICS)),
        deploy_at=high,
        review_at=low,
        rule=draw(st.sampled_from(["point", "lower_bound"])),
        min_test_rows=draw(st.sampled_from([1, 50])),
        first_model=draw(st.sampled_from(["judge", "review"])),
    )
    serving = None
    if draw(st.booleans()):
        asked = random.random(rows) < draw(st.sampled_from([0.0, 0.9, 1.0]))
        theirs = random.random(int(asked.sum()))
        serving = ChampionEvidence(3, 4, asked, theirs.astype(np.float32).astype(np.float64))
    return evidence, policy, serving


@settings(max_examples=150, deadline=None)
@given(cases())
def test_a_pass_means_that_every_condition_was_judged_and_met(
    case: tuple[Evidence, Policy, ChampionEvidence | None],
) -> None:
    evidence, policy, serving = case
    decision = decide(evidence, policy, serving)
    answers = {finding.answer for finding in decision.findings}
    if decision.verdict is Verdict.DEPLOY:
        judged = decision.value if policy.rule == "point" else decision.lower_bound
        assert answers == {Answer.YES}
        assert judged is not None
        assert judged >= policy.deploy_at - 1e-9
        assert np.isfinite(evidence.probabilities).all()
        assert evidence.rows >= policy.min_test_rows
    rejecting = [*decision.guards, *decision.reviews.findings]
    if Answer.NO in {finding.answer for finding in rejecting}:
        assert decision.verdict is Verdict.REJECT
    assert decision.verdict in (decision.point_verdict, decision.bound_verdict)
    assert decision.sentence.startswith(f"{decision.verdict}: ")


@settings(max_examples=100, deadline=None)
@given(cases())
def test_the_bound_is_never_above_the_value_and_its_verdict_never_kinder(
    case: tuple[Evidence, Policy, ChampionEvidence | None],
) -> None:
    decision = decide(*case)
    if case[1].metric != "accuracy" or decision.value is None:
        return
    assert decision.lower_bound is not None
    assert decision.lower_bound <= decision.value
    assert ORDER[decision.bound_verdict] <= ORDER[decision.point_verdict]


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]))
def test_a_stricter_threshold_never_gives_a_kinder_verdict(
    case: tuple[Evidence, Policy, ChampionEvidence | None], threshold: float
) -> None:
    evidence, policy, serving = case
    stricter = policy.model_copy(update={"deploy_at": max(policy.deploy_at, threshold)})
    assert (
        ORDER[decide(evidence, stricter, serving).verdict]
        <= ORDER[decide(evidence, policy, serving).verdict]
    )


@settings(max_examples=100, deadline=None)
@given(cases())
def test_recorded_evidence_leads_to_the_same_decision(
    case: tuple[Evidence, Policy, ChampionEvidence | None],
) -> None:
    evidence, policy, serving = case
    again, champion_again = Evidence.from_json(evidence.to_json(serving))
    replayed = decide(again, Policy.model_validate(policy.model_dump(mode="json")), champion_again)
    original = decide(evidence, policy, serving)
    assert (replayed.verdict, replayed.sentence) == (original.verdict, original.sentence)
