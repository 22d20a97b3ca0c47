"""The verdict: a pure function of evidence and policy.

Belongs here: the conditions, how their answers combine, and the sentence why. Does not: gathering
the evidence (`evidence.py`), recording the verdict (`gate.py`).

Every condition answers yes, no or *cannot judge*. One no rejects; otherwise one "cannot judge" goes
to a human; only when all say yes does a model deploy. Missing or NaN evidence can never pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ml_patterns.branching.evidence import ChampionEvidence, Evidence
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.statistics import (
    is_worse,
    lower_bound,
    p_better_than_chance,
    rows_to_pass,
    value,
)
from ml_patterns.registry.records import Verdict

_ROUNDING = 1e-12
"""Thresholds are inclusive in decimal, too: (0.9 + 1.0) / 2 is to reach 0.95."""


class Answer(StrEnum):
    """What a condition says."""

    YES = "yes"
    NO = "no"
    CANNOT_JUDGE = "cannot judge"


@dataclass(frozen=True)
class Finding:
    """A condition's answer, and why."""

    condition: str
    answer: Answer
    why: str


@dataclass(frozen=True)
class Decision:
    """A verdict and all that a person needs to understand it.

    Attributes:
        point_verdict: what `rule: point` says.
        bound_verdict: what `rule: lower_bound` says.
        value: the policy's metric on the test slice; None: undefined.
        lower_bound: its one-sided lower confidence bound; None: undefined.
        more_rows: labelled rows still missing until the lower bound could reach `deploy_at`; 0:
            none; None: rows alone do not help.
    """

    verdict: Verdict
    sentence: str
    point_verdict: Verdict
    bound_verdict: Verdict
    metric: str
    value: float | None
    lower_bound: float | None
    rows: int
    more_rows: int | None
    findings: tuple[Finding, ...]


def decide(evidence: Evidence, policy: Policy, champion: ChampionEvidence | None) -> Decision:
    """Judges a version.

    Args:
        evidence: about the version.
        policy: thresholds and rule.
        champion: what the champion says about the same rows; None: there is no other champion.
    """
    enough = evidence.rows >= policy.min_test_rows
    metric = evidence.metrics[policy.metric]
    bound = lower_bound(policy.metric, evidence.labels, evidence.probabilities, policy.confidence)
    findings = tuple(_conditions(evidence, policy, champion))
    point = _verdict(metric if enough else None, policy, findings)
    by_bound = _verdict(bound if enough else None, policy, findings)
    verdict = point if policy.rule == "point" else by_bound
    more_rows = _more_rows(evidence, policy, metric, bound)
    return Decision(
        verdict=verdict,
        sentence=_sentence(verdict, evidence, policy, metric, bound, more_rows, findings),
        point_verdict=point,
        bound_verdict=by_bound,
        metric=policy.metric,
        value=metric,
        lower_bound=bound,
        rows=evidence.rows,
        more_rows=more_rows,
        findings=findings,
    )


def reaches(measured: float, threshold: float) -> bool:
    """Whether a value is at or above a threshold, written in decimal."""
    return measured >= threshold or math.isclose(measured, threshold, rel_tol=0, abs_tol=_ROUNDING)


def _verdict(measured: float | None, policy: Policy, findings: tuple[Finding, ...]) -> Verdict:
    answers = {finding.answer for finding in findings}
    below = measured is not None and not reaches(measured, policy.review_at)
    if Answer.NO in answers or below:
        return Verdict.REJECT
    if (
        Answer.CANNOT_JUDGE in answers
        or measured is None
        or not reaches(measured, policy.deploy_at)
    ):
        return Verdict.REVIEW
    return Verdict.DEPLOY


def _conditions(
    evidence: Evidence, policy: Policy, champion: ChampionEvidence | None
) -> Iterator[Finding]:
    yield _artifact_works(evidence)
    yield from _data_checks(evidence)
    yield _answers_every_row(evidence)
    yield _enough_rows(evidence, policy)
    yield from _knows_something(evidence, policy)
    yield _no_leak(evidence, policy)
    yield _first_model(policy, champion)
    if champion is not None:
        yield _no_regression(evidence, policy, champion)
    if evidence.rolled_back is not None:
        yield Finding(
            "not rolled back",
            Answer.CANNOT_JUDGE,
            f"it was taken out of service before: {evidence.rolled_back}",
        )


def _artifact_works(evidence: Evidence) -> Finding:
    name, probe = "artifact works", evidence.probe
    if probe is None:
        return Finding(name, Answer.CANNOT_JUDGE, "the artifact was not probed")
    if probe.reproduces is None:
        return Finding(name, Answer.CANNOT_JUDGE, probe.problem)
    if not probe.reproduces:
        return Finding(name, Answer.NO, probe.problem)
    return Finding(name, Answer.YES, "a clean process reproduced its golden predictions")


def _data_checks(evidence: Evidence) -> Iterator[Finding]:
    for check, passed in sorted(evidence.data_checks.items()):
        name = f"data check {check}"
        if passed is None:
            yield Finding(name, Answer.CANNOT_JUDGE, f"the data check {check} has no result")
        elif passed:
            yield Finding(name, Answer.YES, f"the data check {check} passed")
        else:
            yield Finding(name, Answer.NO, f"the data check {check} failed")


def _answers_every_row(evidence: Evidence) -> Finding:
    name = "answers every row"
    if evidence.problem:
        return Finding(name, Answer.CANNOT_JUDGE, evidence.problem)
    missing = int((~np.isfinite(evidence.probabilities)).sum())
    if missing:
        return Finding(
            name,
            Answer.CANNOT_JUDGE,
            f"{missing} of {evidence.rows} test rows have no valid prediction",
        )
    outside = int(((evidence.probabilities < 0) | (evidence.probabilities > 1)).sum())
    if outside:
        return Finding(name, Answer.NO, f"{outside} predictions are no probabilities")
    return Finding(name, Answer.YES, "every test row has a probability")


def _enough_rows(evidence: Evidence, policy: Policy) -> Finding:
    why = f"{evidence.rows} labelled test rows of at least {policy.min_test_rows}"
    enough = evidence.rows >= policy.min_test_rows
    return Finding(
        "enough rows",
        Answer.YES if enough else Answer.CANNOT_JUDGE,
        f"only {why}" if not enough else why,
    )


def _knows_something(evidence: Evidence, policy: Policy) -> Iterator[Finding]:
    name, values = "better than chance", evidence.probabilities
    if not np.isfinite(values).all() or evidence.rows == 0:
        yield Finding(name, Answer.CANNOT_JUDGE, "without predictions nothing can be compared")
        return
    if evidence.rows > 1 and np.ptp(values) == 0:
        yield Finding(name, Answer.NO, "it gives every row the same answer")
        return
    p = p_better_than_chance(evidence.labels, values)
    if p is None:
        yield Finding(name, Answer.CANNOT_JUDGE, "the test slice holds one class only")
    elif p > 1 - policy.confidence:
        yield Finding(
            name,
            Answer.CANNOT_JUDGE,
            f"its ranking of the rows is no better than chance (p = {p:.2g})",
        )
    else:
        yield Finding(name, Answer.YES, f"its ranking is better than chance (p = {p:.2g})")


def _no_leak(evidence: Evidence, policy: Policy) -> Finding:
    name = "no leak"
    if evidence.leak is None:
        return Finding(name, Answer.YES, "too few rows of a class to look for one")
    feature, area = evidence.leak
    if area >= policy.leak_auc:
        return Finding(
            name,
            Answer.CANNOT_JUDGE,
            f"feature {feature} alone separates the classes (AUC {area:.4f}): it may know the "
            "label",
        )
    return Finding(name, Answer.YES, f"no feature alone is suspicious ({feature}: AUC {area:.3f})")


def _first_model(policy: Policy, champion: ChampionEvidence | None) -> Finding:
    name = "first model"
    if champion is None and policy.first_model == "review":
        return Finding(name, Answer.CANNOT_JUDGE, "a region's first model always goes to a human")
    return Finding(name, Answer.YES, "judged like any other")


def _no_regression(evidence: Evidence, policy: Policy, champion: ChampionEvidence) -> Finding:
    name, who = "no regression", f"champion version {champion.version}"
    if champion.problem:
        return Finding(name, Answer.CANNOT_JUDGE, f"{who} cannot be asked: {champion.problem}")
    shared = int(champion.rows.sum())
    if shared < policy.min_test_rows:
        return Finding(
            name,
            Answer.CANNOT_JUDGE,
            f"only {shared} test rows lie after the training of {who}, of at least "
            f"{policy.min_test_rows}",
        )
    labels, challenger = evidence.labels[champion.rows], evidence.probabilities[champion.rows]
    worse = is_worse(
        policy.metric,
        labels,
        challenger,
        champion.probabilities,
        confidence=policy.confidence,
        tolerance=policy.max_regression,
    )
    if worse is None:
        return Finding(name, Answer.CANNOT_JUDGE, f"it cannot be compared with {who}")
    ours, theirs = (
        value(policy.metric, labels, said) for said in (challenger, champion.probabilities)
    )
    figures = f"{ours:.3f} against {theirs:.3f} on the same {shared} rows"
    if worse:
        return Finding(name, Answer.NO, f"it is worse than {who}, beyond chance ({figures})")
    return Finding(name, Answer.YES, f"it is not worse than {who} ({figures})")


def _more_rows(
    evidence: Evidence, policy: Policy, value: float | None, bound: float | None
) -> int | None:
    missing = max(0, policy.min_test_rows - evidence.rows)
    if value is None or bound is None:
        return missing or None
    needed = rows_to_pass(
        policy.metric, value, bound, policy.deploy_at, evidence.rows, policy.confidence
    )
    return None if needed is None else max(needed, missing)


def _sentence(
    verdict: Verdict,
    evidence: Evidence,
    policy: Policy,
    value: float | None,
    bound: float | None,
    more_rows: int | None,
    findings: tuple[Finding, ...],
) -> str:
    judged, by = (value, "") if policy.rule == "point" else (bound, "lower bound of ")
    name = policy.metric.replace("_", " ")
    measured = (
        f"{name} {_figure(value)} (lower bound {_figure(bound)}) on {evidence.rows} test rows"
    )
    parts = [
        finding.why
        for answer in (Answer.NO, Answer.CANNOT_JUDGE)
        for finding in findings
        if finding.answer is answer
    ]
    if judged is None:
        parts.append(f"the {by}{name} cannot be measured")
    elif not reaches(judged, policy.review_at):
        parts.insert(0, f"the {by}{name} is below review_at {policy.review_at:g}")
    elif not reaches(judged, policy.deploy_at):
        parts.insert(0, f"the {by}{name} is below deploy_at {policy.deploy_at:g}")
    elif verdict is Verdict.DEPLOY:
        parts.append(f"the {by}{name} reaches deploy_at {policy.deploy_at:g}")
    if policy.rule == "lower_bound" and verdict is Verdict.REVIEW and more_rows:
        parts.append(f"about {more_rows} more labelled rows could settle it")
    return f"{verdict}: {measured}; {'; '.join(parts)}"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
