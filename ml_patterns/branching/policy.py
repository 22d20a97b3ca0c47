"""The policy of the gate: which metric, which thresholds, which rule.

Belongs here: what the `gate` block of a pipeline's YAML may say, and the policy's hash. Does not:
judging a model (`decide.py`), measuring one (`evidence.py`).
"""

import hashlib
import json
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from ml_patterns.base import Duration, Settings

Metric = Literal["accuracy", "balanced_accuracy", "auc", "gain_over_majority"]


class Policy(Settings):
    """When a model deploys, goes to a human, or is rejected. Thresholds are inclusive."""

    metric: Metric = Field(default="accuracy", description="What the thresholds are about.")
    deploy_at: float = Field(default=0.95, ge=-1, le=1, description="At or above: deploy.")
    review_at: float = Field(default=0.90, ge=-1, le=1, description="At or above: human review.")
    rule: Literal["point", "lower_bound"] = Field(
        default="point",
        description="Judge the measured value, or its one-sided lower confidence bound.",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of the lower bound.")
    min_test_rows: int = Field(
        default=50, ge=1, description="Test rows below which nothing can be judged."
    )
    max_regression: float = Field(
        default=0.0,
        ge=0,
        description="How much worse than the champion, beyond chance, a model may be.",
    )
    leak_auc: float = Field(
        default=0.99,
        gt=0.5,
        le=1.01,
        description="A feature that alone separates the classes this well may know the label: "
        "human review. Above 1: never.",
    )
    first_model: Literal["judge", "review"] = Field(
        default="judge", description="A region's first model: as any other, or always to a human."
    )
    review_expires_after: Duration = Field(
        default=timedelta(days=7), description="An unanswered review is then rejected."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.review_at > self.deploy_at:
            raise ValueError(
                f"gate.review_at {self.review_at} is above gate.deploy_at {self.deploy_at}: no "
                "model could reach a human; lower review_at"
            )
        return self

    def fingerprint(self) -> str:
        """Hash of everything that can change a verdict (hex, 64 characters)."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
