"""The guards of the gate: what holds for every version, whatever the rules say.

Belongs here: conditions that no policy can leave out. Does not: the rules that a policy chooses
(`conditions.py`), what the answers mean for the verdict (`decide.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ml_patterns.branching.evidence import ChampionEvidence, Evidence
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.rules import ArtifactRule
from ml_patterns.branching.statistics import p_better_than_chance


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


def guards(
    evidence: Evidence, policy: Policy, champion: ChampionEvidence | None
) -> Iterator[Finding]:
    """Asks everything that is asked of every version."""
    yield artifact_works(evidence)
    for check, passed in sorted(evidence.data_checks.items()):
        yield data_check(check, passed)
    yield _answers_every_row(evidence)
    yield enough_rows(evidence, policy)
    yield from _knows_something(evidence, policy)
    yield _no_leak(evidence, policy)
    yield _first_model(policy, champion)
    if evidence.rolled_back is not None:
        yield Finding(
            "not rolled back",
            Answer.CANNOT_JUDGE,
            f"it was taken out of service before: {evidence.rolled_back}",
        )


def artifact_works(evidence: Evidence, rule: ArtifactRule | None = None) -> Finding:
    """Whether a clean process reproduced its predictions, within the rule's limits."""
    name, probe = "artifact works", evidence.probe
    if probe is None:
        return Finding(name, Answer.CANNOT_JUDGE, "the artifact was not probed")
    if probe.reproduces is None:
        return Finding(name, Answer.CANNOT_JUDGE, probe.problem)
    if not probe.reproduces:
        return Finding(name, Answer.NO, probe.problem)
    limits = rule or ArtifactRule(artifact="works")
    megabytes = None if probe.size_bytes is None else probe.size_bytes / 1e6
    for what, measured, limit, unit in (
        ("latency", probe.milliseconds, limits.max_milliseconds, "ms"),
        ("size", megabytes, limits.max_megabytes, "MB"),
    ):
        if limit is not None and measured is None:
            return Finding(name, Answer.CANNOT_JUDGE, f"the artifact's {what} was not measured")
        if limit is not None and measured is not None and measured > limit:
            why = f"the artifact's {what} {measured:.3g} {unit} is above {limit:g} {unit}"
            return Finding(name, Answer.NO, why)
    return Finding(name, Answer.YES, "a clean process reproduced its golden predictions")


def data_check(check: str, passed: bool | None) -> Finding:
    """Whether a check of the data passed; None: it has no result."""
    name = f"data check {check}"
    if passed is None:
        return Finding(name, Answer.CANNOT_JUDGE, f"the data check {check} has no result")
    if passed:
        return Finding(name, Answer.YES, f"the data check {check} passed")
    return Finding(name, Answer.NO, f"the data check {check} failed")


def enough_rows(evidence: Evidence, policy: Policy) -> Finding:
    """Whether there are rows enough to judge anything by them."""
    why = f"{evidence.rows} labelled test rows of at least {policy.min_test_rows}"
    enough = evidence.rows >= policy.min_test_rows
    return Finding(
        "enough rows",
        Answer.YES if enough else Answer.CANNOT_JUDGE,
        f"only {why}" if not enough else why,
    )


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
