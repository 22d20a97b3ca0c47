"""The verdict: a pure function of evidence, policy and champion.

Belongs here: what the answers of guards and rules mean, and the sentence why. Does not: the answers
(`guards.py`, `conditions.py`), gathering the evidence (`evidence.py`), recording the verdict
(`gate.py`).

Every condition answers yes, no or *cannot judge*. A guard that says no rejects, and so do the rules
for review; only when all guards, the rules for review and those for deploying say yes does a model
deploy; all else goes to a human. Missing or NaN evidence can never pass.
"""

from dataclasses import dataclass

from ml_patterns.branching.conditions import By, Case, Ruling
from ml_patterns.branching.evidence import ChampionEvidence, Evidence
from ml_patterns.branching.guards import Answer, Finding
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.statistics import rows_to_pass
from ml_patterns.registry.records import Verdict

_RULES: tuple[By, ...] = ("point", "lower_bound")


@dataclass(frozen=True)
class Decision:
    """A verdict and all that a person needs to understand it.

    Attributes:
        point_verdict: what `rule: point` says.
        bound_verdict: what `rule: lower_bound` says.
        value: the policy's metric on the test slice; None: undefined.
        lower_bound: its one-sided lower confidence bound; None: undefined.
        guards: what is asked of every version.
        reviews: the rules for review, by the policy's rule.
        deploys: the rules for deploying, by the policy's rule.
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
    guards: tuple[Finding, ...]
    reviews: Ruling
    deploys: Ruling

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every condition that was asked about, each once."""
        asked = (*self.guards, *self.reviews.findings, *self.deploys.findings)
        return tuple(dict.fromkeys(asked))


def decide(evidence: Evidence, policy: Policy, champion: ChampionEvidence | None) -> Decision:
    """Judges a version.

    Args:
        evidence: about the version.
        policy: thresholds and rule.
        champion: what the champion says about the same rows; None: there is no other champion.
    """
    case = Case(evidence, policy, champion)
    metric, bound = evidence.metrics[policy.metric], case.bound(policy.metric)
    rulings = {
        by: (
            case.ruling(policy.reviews, "review_at", by),
            case.ruling(policy.deploys, "deploy_at", by),
        )
        for by in _RULES
    }
    verdicts = {by: _verdict(case.guards, *both) for by, both in rulings.items()}
    verdict, (reviews, deploys) = verdicts[policy.rule], rulings[policy.rule]
    more_rows = _more_rows(evidence, policy, metric, bound)
    reasons = _reasons(verdict, case.guards, reviews, deploys)
    return Decision(
        verdict=verdict,
        sentence=_sentence(verdict, evidence, policy, metric, bound, more_rows, reasons),
        point_verdict=verdicts["point"],
        bound_verdict=verdicts["lower_bound"],
        metric=policy.metric,
        value=metric,
        lower_bound=bound,
        rows=evidence.rows,
        more_rows=more_rows,
        guards=case.guards,
        reviews=reviews,
        deploys=deploys,
    )


def _verdict(guards: tuple[Finding, ...], reviews: Ruling, deploys: Ruling) -> Verdict:
    answers = {finding.answer for finding in guards}
    if Answer.NO in answers or reviews.answer is Answer.NO:
        return Verdict.REJECT
    if answers <= {Answer.YES} and reviews.answer is deploys.answer is Answer.YES:
        return Verdict.DEPLOY
    return Verdict.REVIEW


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


def _reasons(
    verdict: Verdict, guards: tuple[Finding, ...], reviews: Ruling, deploys: Ruling
) -> list[str]:
    """What the verdict is due to, the strongest first, each once."""
    if verdict is Verdict.DEPLOY:
        # Which threshold was reached; that nothing else was wrong goes without saying.
        return [found.why for found in deploys.findings if found.condition.startswith("metric ")]
    rules = reviews.reasons if reviews.answer is Answer.NO else reviews.reasons + deploys.reasons
    found = [*rules]
    for answer in (Answer.NO, Answer.CANNOT_JUDGE):
        found += [finding for finding in guards if finding.answer is answer]
    return list(dict.fromkeys(finding.why for finding in found))


def _sentence(
    verdict: Verdict,
    evidence: Evidence,
    policy: Policy,
    value: float | None,
    bound: float | None,
    more_rows: int | None,
    reasons: list[str],
) -> str:
    name = policy.metric.replace("_", " ")
    measured = (
        f"{name} {_figure(value)} (lower bound {_figure(bound)}) on {evidence.rows} test rows"
    )
    parts = [*reasons]
    if policy.rule == "lower_bound" and verdict is Verdict.REVIEW and more_rows:
        parts.append(f"about {more_rows} more labelled rows could settle it")
    return "; ".join([f"{verdict}: {measured}", *parts])


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
