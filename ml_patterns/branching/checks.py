"""The gate as Dagster's asset check `quality_gate`.

Belongs here: the check's specification, and a judgement as its evaluation. Does not: judging
(`gate.py`); running it, which the asset that trains does (`fan_out/assets.py`).
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_patterns.dagster_internals import AssetCheckEvaluationTargetMaterializationData
from ml_patterns.partitions import region_partitions
from ml_patterns.registry.records import Verdict
from ml_patterns.settings import PipelineSettings

if TYPE_CHECKING:
    from ml_patterns.branching.evidence import Evidence
    from ml_patterns.branching.gate import Judgement

CHECK_NAME = "quality_gate"

_SEVERITY = {
    Verdict.DEPLOY: dg.AssetCheckSeverity.WARN,
    Verdict.REVIEW: dg.AssetCheckSeverity.WARN,
    Verdict.REJECT: dg.AssetCheckSeverity.ERROR,
}


def quality_gate_spec(settings: PipelineSettings) -> dg.AssetCheckSpec:
    """The check of `regional_model`, per region."""
    gate = settings.gate
    return dg.AssetCheckSpec(
        CHECK_NAME,
        asset=dg.AssetKey([settings.name, "regional_model"]),
        partitions_def=region_partitions(settings),
        description=(
            f"{gate.metric} on the test slice: {gate.deploy_at:g} or more deploys, "
            f"{gate.review_at:g} or more goes to a human, less is rejected ({gate.rule} rule). "
            "What cannot be judged goes to a human and never passes."
        ),
    )


def gate_evaluation(
    settings: PipelineSettings,
    region: str,
    judgement: "Judgement",
    target: AssetCheckEvaluationTargetMaterializationData | None,
) -> dg.AssetCheckEvaluation:
    """A judgement as the check's result: review warns, reject is an error.

    Args:
        target: the materialization that was judged; without it the result never counts as current.
    """
    verdict = judgement.verdict
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey([settings.name, "regional_model"]),
        check_name=CHECK_NAME,
        passed=verdict is Verdict.DEPLOY,
        severity=_SEVERITY[verdict],
        blocking=False,
        partition=region,
        description=judgement.sentence,
        metadata=gate_metadata(judgement),
        target_materialization_data=target,
    )


def gate_metadata(judgement: "Judgement") -> dict[str, dg.MetadataValue[Any]]:
    """Everything that a person needs to understand the verdict."""
    outcome, policy = judgement.outcome, judgement.decision.policy
    metadata: dict[str, dg.MetadataValue[Any]] = {
        "verdict": dg.MetadataValue.text(str(outcome.verdict)),
        "why": dg.MetadataValue.text(judgement.sentence),
        "point_verdict": dg.MetadataValue.text(str(outcome.point_verdict)),
        "lower_bound_verdict": dg.MetadataValue.text(str(outcome.bound_verdict)),
        "metric": dg.MetadataValue.text(outcome.metric),
        "deploy_at": dg.MetadataValue.float(policy["deploy_at"]),
        "review_at": dg.MetadataValue.float(policy["review_at"]),
        "test_rows": dg.MetadataValue.int(outcome.rows),
        "evidence": _metrics_table(judgement.evidence),
        "conditions": _conditions_table(judgement),
        "decision": dg.MetadataValue.int(judgement.decision.id),
        "version": dg.MetadataValue.int(judgement.decision.version),
    }
    for name, value in (("value", outcome.value), ("lower_bound", outcome.lower_bound)):
        if value is not None:
            metadata[name] = dg.MetadataValue.float(value)
    if outcome.more_rows:
        metadata["more_rows_needed"] = dg.MetadataValue.int(outcome.more_rows)
    return metadata


def _metrics_table(evidence: "Evidence") -> dg.TableMetadataValue:
    records = [dg.TableRecord({"measure": "positives", "value": str(evidence.positives)})]
    records += [
        dg.TableRecord({"measure": name, "value": "undefined" if value is None else f"{value:.4f}"})
        for name, value in evidence.metrics.items()
    ]
    return dg.MetadataValue.table(records)


def _conditions_table(judgement: "Judgement") -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "condition": finding.condition,
                    "answer": str(finding.answer),
                    "why": finding.why,
                }
            )
            for finding in judgement.outcome.findings
        ]
    )
