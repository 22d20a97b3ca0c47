"""What runs by itself: deployments, notifications, the expiry of reviews.

Belongs here: the sensors' shells. Does not: what may be deployed (`deploy.py`), sending
(`notify.py`), expiring (`Registry.expire_reviews`).
"""

import hashlib

import dagster as dg

from ml_patterns.automation import pipeline_sensor, under_way
from ml_patterns.base import utc_now
from ml_patterns.branching.deploy import deployable
from ml_patterns.partitions import range_tags, region_partitions
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The sensors of this room."""
    op = f"{settings.name}__deployed_model"

    @pipeline_sensor(
        settings.name,
        "deployment",
        job="deployment",
        seconds=30,
        description="Deploys exactly the regions that passed or that a reviewer approved, in one "
        "run.",
    )
    def deployment_sensor(
        context: dg.SensorEvaluationContext, operational: OperationalResource
    ) -> dg.RunRequest | dg.SkipReason:
        if under_way(context.instance, settings.name, "deployment"):
            return dg.SkipReason("a deployment is under way; what it leaves is requested after it")
        decisions = deployable(Registry(operational.engine()), settings.name, settings.gate)
        passed = {decision.region for decision in decisions}
        keys = context.instance.get_dynamic_partitions(region_partitions(settings).name or "")
        regions = [key for key in keys if key in passed]
        if not regions:
            return dg.SkipReason("no region passed or was approved since the last look")
        made = ",".join(f"{decision.id}-{decision.policy_hash}" for decision in decisions)
        return dg.RunRequest(
            # What could not be deployed is asked for again, once an hour.
            run_key=f"{hashlib.sha256(made.encode()).hexdigest()[:16]}-{utc_now():%Y%m%d%H}",
            tags=range_tags(regions[0], regions[-1]),
            run_config={"ops": {op: {"config": {"regions": regions}}}},
        )

    @pipeline_sensor(
        settings.name,
        "outbox",
        seconds=30,
        description="Sends pending notifications again, reminds of reviews and expires them.",
    )
    def outbox_sensor(
        context: dg.SensorEvaluationContext, operational: OperationalResource
    ) -> dg.SkipReason:
        from ml_patterns.branching.channels.configured import configured_channels
        from ml_patterns.branching.channels.passing import tell
        from ml_patterns.branching.notify import deliver, webhook_url

        registry = Registry(operational.engine())
        expired = registry.expire_reviews(settings.name)
        registry.remind_of_reviews(settings.notifications.remind_before, settings.name)
        sent = deliver(registry.engine, webhook_url(settings.notifications), pipeline=settings.name)
        summary = (
            f"{len(expired)} reviews expired, {sent.delivered} notifications sent, "
            f"{sent.failed} pending {sent.error}".rstrip()
        )
        for channel in configured_channels(registry):
            told = tell(registry.engine, channel, pipeline=settings.name)
            summary += f"; {channel.name}: {told.delivered} sent, {told.failed} pending"
            summary += f" {told.error}".rstrip()
        return dg.SkipReason(summary)

    return [deployment_sensor, outbox_sensor]
