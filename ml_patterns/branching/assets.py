"""Pattern 3 in Dagster: `deployed_model`, one partition per region.

Belongs here: the asset's shell. Does not: what may be deployed (`deploy.py`), the gate, which runs
where the model is trained (`checks.py`).
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ml_patterns.branching.deploy import Deployment, deploy
from ml_patterns.errors import ConflictError
from ml_patterns.partitions import region_partitions
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import ArtifactsResource, OperationalResource


class DeploymentConfig(dg.Config):
    """Which of a range of regions to deploy."""

    regions: list[str] = []  # noqa: RUF012 - Dagster reads a field's default
    """Only these; empty: every region of the run."""


def build_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The asset of this room."""
    regions = region_partitions(settings)

    @dg.asset(
        key=dg.AssetKey([settings.name, "deployed_model"]),
        description=(
            "The model that a region serves. Only a version that passed its gate or that a "
            "reviewer approved gets here; its decision is read again and verified first, and the "
            "champion moves by compare-and-set. A region under review or rejected keeps the "
            "champion it has."
        ),
        deps=[dg.AssetKey([settings.name, "regional_model"])],
        partitions_def=regions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
        group_name="branching",
        kinds={"lightgbm", "sqlalchemy"},
        owners=list(settings.owners),
    )
    def deployed_model(
        context: dg.AssetExecutionContext,
        config: DeploymentConfig,
        operational: OperationalResource,
        artifacts: ArtifactsResource,
    ) -> Iterator[dg.AssetMaterialization]:
        from ml_patterns.branching.notify import deliver, webhook_url

        registry, store = Registry(operational.engine()), artifacts.store()
        failures = []
        for region in config.regions or context.partition_keys:
            try:
                deployment = deploy(
                    registry,
                    store,
                    settings.gate,
                    settings.name,
                    region,
                    actor=f"dagster run {context.run.run_id}",
                )
            except ConflictError as error:
                context.log.error(str(error))
                failures.append(str(error))
                continue
            context.log.info(deployment.sentence)
            if deployment.champion is not None:
                yield dg.AssetMaterialization(
                    asset_key=context.asset_key, partition=region, metadata=_metadata(deployment)
                )
        sent = deliver(
            registry.engine,
            webhook_url(settings.notifications),
            pipeline=settings.name,
            log=context.log.log,
        )
        if sent.failed:
            context.log.warning(f"{sent.failed} notifications stay pending: {sent.error}")
        if failures:
            raise dg.Failure("; ".join(failures), allow_retries=False)

    return [deployed_model]


def _metadata(deployment: Deployment) -> dict[str, Any]:
    champion, decision = deployment.champion, deployment.decision
    assert champion is not None
    metadata: dict[str, Any] = {
        "version": champion.version,
        "generation": champion.generation,
        "promoted_in_this_run": deployment.promoted,
        "promoted_at": dg.MetadataValue.timestamp(champion.promoted_at),
        "artifact": champion.artifact,
        "why": deployment.sentence,
    }
    if decision is not None:
        metrics = decision.evidence["metrics"]
        metadata |= {name: value for name, value in metrics.items() if value is not None}
    return metadata
