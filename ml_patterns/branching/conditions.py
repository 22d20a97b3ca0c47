"""The answers to a policy's rules, leaf by leaf and as a tree.

Belongs here: what is asked of a version and measured once for all rules. Does not: what no policy
can leave out (`guards.py`), what the answers mean for the verdict (`decide.py`), how a rule is
written (`rules.py`).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ml_patterns.branching.evidence import ChampionEvidence, Evidence
from ml_patterns.branching.guards import (
    Answer,
    Finding,
    artifact_works,
    data_check,
    enough_rows,
    guards,
)
from ml_patterns.branching.policy import Metric, Policy
from ml_patterns.branching.rules import (
    EVERY,
    AllRule,
    AnyRule,
    ChampionRule,
    DataCheckRule,
    MetricRule,
    NotRule,
    Rule,
    SliceRule,
)
from ml_patterns.branching.statistics import (
    Labels,
    binomial_upper_bound,
    is_worse,
    lower_bound,
    right_answers,
    value,
    worse_than_majority,
)

_ROUNDING = 1e-12
"""Thresholds are inclusive in decimal, too: (0.9 + 1.0) / 2 is to reach 0.95."""

By = Literal["point", "lower_bound"]


@dataclass(frozen=True)
class Ruling:
    """The answer to a tree of rules.

    Attributes:
        findings: of every leaf.
        reasons: of the leaves that the answer is due to; none if it is yes.
    """

    answer: Answer
    findings: tuple[Finding, ...]
    reasons: tuple[Finding, ...]


class Case:
    """A version before the gate: what is asked of it, measured once.

    Args:
        evidence: about the version.
        policy: thresholds and rules.
        champion: what the champion says about the same rows; None: there is no other champion.
    """

    def __init__(
        self, evidence: Evidence, policy: Policy, champion: ChampionEvidence | None
    ) -> None:
        self.evidence = evidence
        self.policy = policy
        self.champion = champion
        self._bounds: dict[Metric, float | None] = {}
        self._findings: dict[SliceRule | ChampionRule, Finding] = {}

    @cached_property
    def guards(self) -> tuple[Finding, ...]:
        """What holds for every version, whatever the rules say."""
        return tuple(guards(self.evidence, self.policy, self.champion))

    def bound(self, metric: Metric) -> float | None:
        """One-sided lower confidence bound of a metric; None where it is undefined."""
        if metric not in self._bounds:
            evidence = self.evidence
            self._bounds[metric] = lower_bound(
                metric, evidence.labels, evidence.probabilities, self.policy.confidence
            )
        return self._bounds[metric]

    def ruling(self, rule: Rule, asks: Literal["deploy_at", "review_at"], by: By) -> Ruling:
        """Answers a tree of rules.

        Args:
            asks: which threshold a metric without one is held against.
            by: the measured value, or its lower bound.
        """
        if isinstance(rule, NotRule):
            inner = self.ruling(rule.rule, asks, by)
            return _negated(inner)
        if isinstance(rule, AllRule | AnyRule):
            of_all = isinstance(rule, AllRule)
            rules = rule.all if isinstance(rule, AllRule) else rule.any
            return _combined([self.ruling(each, asks, by) for each in rules], of_all)
        if isinstance(rule, MetricRule):
            finding = _metric_reaches(self, rule, asks, by)
        elif isinstance(rule, SliceRule | ChampionRule):
            finding = self._measured_once(rule)
        elif isinstance(rule, DataCheckRule):
            finding = data_check(rule.data_check, self.evidence.data_checks.get(rule.data_check))
        else:
            finding = artifact_works(self.evidence, rule)
        reasons = () if finding.answer is Answer.YES else (finding,)
        return Ruling(finding.answer, (finding,), reasons)

    def _measured_once(self, rule: SliceRule | ChampionRule) -> Finding:
        if rule not in self._findings:
            self._findings[rule] = (
                _no_bad_slice(self, rule)
                if isinstance(rule, SliceRule)
                else _no_regression(self, rule)
            )
        return self._findings[rule]


def reaches(measured: float, threshold: float) -> bool:
    """Whether a value is at or above a threshold, written in decimal."""
    return measured >= threshold or math.isclose(measured, threshold, rel_tol=0, abs_tol=_ROUNDING)


def _combined(rulings: list[Ruling], of_all: bool) -> Ruling:
    """All: one no is a no. Any: one yes is a yes. Else one that cannot be judged decides."""
    answers = [ruling.answer for ruling in rulings]
    decisive, other = (Answer.NO, Answer.YES) if of_all else (Answer.YES, Answer.NO)
    if decisive in answers:
        answer = decisive
    else:
        answer = Answer.CANNOT_JUDGE if Answer.CANNOT_JUDGE in answers else other
    # What is no comes before what cannot be judged: it is the stronger reason.
    reasons = tuple(
        reason
        for kind in (Answer.NO, Answer.CANNOT_JUDGE)
        for ruling in rulings
        if ruling.answer is kind
        for reason in ruling.reasons
    )
    findings = tuple(finding for ruling in rulings for finding in ruling.findings)
    return Ruling(answer, findings, () if answer is Answer.YES else reasons)


_OPPOSITE = {
    Answer.YES: Answer.NO,
    Answer.NO: Answer.YES,
    Answer.CANNOT_JUDGE: Answer.CANNOT_JUDGE,
}


def _negated(inner: Ruling) -> Ruling:
    answer = _OPPOSITE[inner.answer]
    findings = tuple(
        Finding(f"not: {found.condition}", _OPPOSITE[found.answer], found.why)
        for found in inner.findings
    )
    if answer is Answer.YES:
        return Ruling(answer, findings, ())
    # A no is due to the leaves that are met; what cannot be judged keeps its reasons.
    reasons = findings if answer is Answer.NO else inner.reasons
    return Ruling(answer, findings, reasons)


# The leaves of the tree


def _metric_reaches(
    case: Case, rule: MetricRule, asks: Literal["deploy_at", "review_at"], by: By
) -> Finding:
    if rule.at_least is None:
        threshold, named = getattr(case.policy, asks), f"{asks} {getattr(case.policy, asks):g}"
    else:
        threshold, named = rule.at_least, f"{rule.at_least:g}"
    condition = f"metric {rule.metric} reaches {named}"
    enough = enough_rows(case.evidence, case.policy)
    if enough.answer is not Answer.YES:
        return Finding(condition, enough.answer, enough.why)
    measured = case.evidence.metrics[rule.metric] if by == "point" else case.bound(rule.metric)
    what = ("lower bound of " if by == "lower_bound" else "") + rule.metric.replace("_", " ")
    if measured is None:
        return Finding(condition, Answer.CANNOT_JUDGE, f"the {what} cannot be measured")
    if not reaches(measured, threshold):
        return Finding(condition, Answer.NO, f"the {what} is below {named}")
    return Finding(condition, Answer.YES, f"the {what} reaches {named}")


def _no_bad_slice(case: Case, rule: SliceRule) -> Finding:
    evidence = case.evidence
    every = rule.slices == EVERY
    name = "no bad slice" + ("" if every else f" by {rule.slices}")
    if not every and rule.slices not in evidence.slices:
        return Finding(
            name, Answer.CANNOT_JUDGE, f"the test rows have no text column {rule.slices}"
        )
    if not np.isfinite(evidence.probabilities).all():
        return Finding(name, Answer.CANNOT_JUDGE, "without predictions no slice can be judged")
    columns = sorted(evidence.slices) if every else [rule.slices]
    looked_at = [
        (f"{column}={value}", rows)
        for column in columns
        for value, rows in evidence.slices[column].of_at_least(rule.min_rows)
    ]
    if not looked_at and not every:
        return Finding(
            name,
            Answer.CANNOT_JUDGE,
            f"no slice by {rule.slices} has {rule.min_rows} test rows",
        )
    confidence = 1 - (1 - case.policy.confidence) / max(1, len(looked_at))
    bad = [why for slice_, rows in looked_at if (why := _bad(case, rule, slice_, rows, confidence))]
    if bad:
        return Finding(name, Answer.NO, "; ".join(bad))
    return Finding(name, Answer.YES, f"{len(looked_at)} slices looked at, none is bad")


def _bad(case: Case, rule: SliceRule, name: str, rows: Labels, confidence: float) -> str:
    """What is wrong with a slice; empty: nothing beyond chance."""
    labels, said = case.evidence.labels[rows], case.evidence.probabilities[rows]
    count, right = len(labels), int(right_answers(labels, said).sum())
    where = f"in slice {name} the accuracy is {right / count:.3f} on {count} rows"
    if rule.at_least is None:
        worse = worse_than_majority(labels, said, confidence)
        return f"{where}, worse than always giving its commoner answer" if worse else ""
    if reaches(right / count, rule.at_least):
        return ""
    if binomial_upper_bound(right, count, confidence) >= rule.at_least:
        return ""
    return f"{where}, below {rule.at_least:g} beyond chance"


def _no_regression(case: Case, rule: ChampionRule) -> Finding:
    evidence, policy, champion = case.evidence, case.policy, case.champion
    name = "no regression"
    if champion is None:
        return Finding(name, Answer.YES, "there is no other champion to compare it with")
    who = f"champion version {champion.version}"
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
    allowed = policy.max_regression if rule.max_regression is None else rule.max_regression
    worse = is_worse(
        policy.metric,
        labels,
        challenger,
        champion.probabilities,
        confidence=policy.confidence,
        tolerance=allowed,
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
