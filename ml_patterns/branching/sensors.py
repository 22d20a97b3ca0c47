"""What runs by itself: deployments, notifications, the expiry of reviews.

Belongs here: the sensors' shells. Does not: what may be deployed (`deploy.py`), sending
(`notify.py`), expiring (`Registry.expire_reviews`).
"""

import dagster as dg

from ml_patterns.automation import sensor_status
from ml_patterns.branching.channels.configured import configured_channels
from ml_patterns.branching.channels.passing import tell
from ml_patterns.branching.deploy import deployable
from ml_patterns.branching.notify import deliver, webhook_url
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource


def build_sensors(settings: PipelineSettings) -> list[dg.SensorDefinition]:
    """The sensors of this room."""
    deployed_model = dg.AssetKey([settings.name, "deployed_model"])

    @dg.sensor(
        name=f"{settings.name}_deployment_sensor",
        default_status=sensor_status(),
        target=dg.AssetSelection.assets(deployed_model),
        minimum_interval_seconds=30,
        description="Deploys exactly the regions that passed or that a reviewer approved.",
    )
    def deployment_sensor(
        context: dg.SensorEvaluationContext, operational: OperationalResource
    ) -> dg.SensorResult | dg.SkipReason:
        decisions = deployable(Registry(operational.engine()), settings.name, settings.gate)
        if not decisions:
            return dg.SkipReason("no region passed or was approved since the last look")
        return dg.SensorResult(
            # One decision is requested once: if it turns out stale, a new one has to be made.
            run_requests=[
                dg.RunRequest(
                    run_key=f"decision-{decision.id}-{decision.policy_hash[:12]}",
                    partition_key=decision.region,
                )
                for decision in decisions
            ]
        )

    @dg.sensor(
        name=f"{settings.name}_outbox_sensor",
        default_status=sensor_status(),
        minimum_interval_seconds=30,
        description="Sends pending notifications again, reminds of reviews and expires them.",
    )
    def outbox_sensor(
        context: dg.SensorEvaluationContext, operational: OperationalResource
    ) -> dg.SkipReason:
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
