"""`ml-patterns status` as asset checks: what wants attention, where in the graph it does.

Belongs here: each finding at the asset that it concerns. Does not: the findings (`status.py`), when
they are looked for (`jobs.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from ml_patterns.settings import PipelineSettings
from ml_patterns.status import Finding, status
from ml_patterns.storage.resources import OperationalResource, WarehouseResource

_SHOWN = 20


@dataclass(frozen=True)
class Topic:
    """A check.

    Attributes:
        subjects: of the findings that fail it; none: those of no other topic.
    """

    name: str
    asset: str
    subjects: frozenset[str]
    description: str


TOPICS = (
    Topic(
        "every_file_is_in",
        "event_files",
        frozenset({"start", "unreadable file", "removed file"}),
        "Files were registered, and each of them is there and can be read.",
    ),
    Topic(
        "nobody_waits_for_late_rows",
        "landed_events",
        frozenset({"dead letter"}),
        "No row lies in the dead letter that nobody replayed or acknowledged.",
    ),
    Topic(
        "nothing_is_due",
        "event_features",
        frozenset({"due", "too big"}),
        "Every partition is up to date, or can be brought there in one run.",
    ),
    Topic(
        "no_review_waits",
        "regional_model",
        frozenset({"review"}),
        "No model waits for a human's answer.",
    ),
    Topic(
        "team_was_told",
        "deployed_model",
        frozenset({"notification"}),
        "No notification of a verdict or a deployment is stuck.",
    ),
    Topic(
        "answers_are_live",
        "predictions",
        frozenset({"degraded", "circuit"}),
        "No partition waits to be asked again, and no circuit is open.",
    ),
    Topic(
        "nothing_else_wants_attention",
        "leaderboard",
        frozenset(),
        "`ml-patterns status` has nothing else to say.",
    ),
)
_KNOWN = frozenset[str]().union(*(topic.subjects for topic in TOPICS))


def overview_checks(settings: PipelineSettings) -> list[dg.AssetCheckKey]:
    """Keys of all checks of the overview; they have a job and a schedule of their own."""
    return [spec.key for spec in _specs(settings)]


def build_checks(settings: PipelineSettings) -> list[dg.AssetChecksDefinition]:
    """The overview, as one step with a check per topic."""

    @dg.multi_asset_check(
        name=f"{settings.name}_overview",
        specs=_specs(settings),
        can_subset=True,
        description="Asks every room once what is late, failing, waiting, degraded or too big.",
    )
    def overview(
        context: dg.AssetCheckExecutionContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> Iterator[dg.AssetCheckResult]:
        found = status(settings, warehouse.warehouse(), operational.engine()).findings
        for topic, spec in zip(TOPICS, _specs(settings), strict=True):
            if spec.key in context.selected_asset_check_keys:
                yield _result(spec, [each for each in found if concerns(each, topic)])

    return [overview]


def _specs(settings: PipelineSettings) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            topic.name,
            asset=dg.AssetKey([settings.name, topic.asset]),
            description=topic.description,
        )
        for topic in TOPICS
    ]


def concerns(finding: Finding, topic: Topic) -> bool:
    """Whether a finding fails a topic's check; each finding fails exactly one."""
    if topic.subjects:
        return finding.subject in topic.subjects
    return finding.subject not in _KNOWN


def _result(spec: dg.AssetCheckSpec, found: Sequence[Finding]) -> dg.AssetCheckResult:
    commands = list(dict.fromkeys(each.command for each in found if each.command))
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=found[0].sentence if found else None,
        metadata={
            "findings": len(found),
            "found": dg.MetadataValue.json([each.sentence for each in found[:_SHOWN]]),
            "next": dg.MetadataValue.text("; ".join(commands[:_SHOWN]) or "nothing to do"),
        },
    )
