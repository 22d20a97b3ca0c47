"""Settings of notifications.

Belongs here: what the `notifications` block of a pipeline's YAML may say. Does not: the policy of
the gate (`policy.py`), sending (`notify.py`).
"""

from datetime import timedelta

from pydantic import Field

from ml_patterns.base import Duration, Settings


class NotificationsSettings(Settings):
    """Who is told of rejections, reviews and deployments. The log always is."""

    webhook_variable: str = Field(
        default="ML_PATTERNS_WEBHOOK",
        description="Environment variable with a URL that events are posted to as JSON.",
    )
    remind_before: Duration = Field(
        default=timedelta(days=1), description="How long before it expires a review is recalled."
    )
