"""The policy of the gate: which metric, which thresholds, which rules.

Belongs here: what the `gate` block of a pipeline's YAML may say, its defaults, and the policy's
hash. Does not: the tree of rules (`rules.py`), judging a model (`decide.py`).
"""

import hashlib
import json
from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from ml_patterns.base import Duration, Settings
from ml_patterns.branching.rules import (
    EVERY,
    AllRule,
    ChampionRule,
    Metric,
    MetricRule,
    Rule,
    SliceRule,
)

__all__ = ["Metric", "Policy"]


class Policy(Settings):
    """When a model deploys, goes to a human, or is rejected. Thresholds are inclusive.

    Without rules of its own: it deploys when the metric reaches `deploy_at` and no slice of the
    test rows is bad; it is rejected when the metric is below `review_at` or it is worse than the
    champion.
    """

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
    slice_min_rows: int = Field(
        default=50, ge=1, description="Test rows below which a slice is not looked at."
    )
    deploy_when: Rule | None = Field(
        default=None, description="Rules of your own for deploying; replace the default ones."
    )
    review_when: Rule | None = Field(
        default=None,
        description="Rules of your own for human review; a model that does not meet them is "
        "rejected.",
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

    @property
    def deploys(self) -> Rule:
        """When a model may deploy; it must meet `reviews`, too."""
        if self.deploy_when is not None:
            return self.deploy_when
        # Thresholds of other metrics say nothing about a part of the rows: a slice may well hold
        # nearly one class only. What a model must nowhere be is worse than no model.
        floor = max(0, self.review_at) if self.metric == "accuracy" else None
        bad_slice = SliceRule(slices=EVERY, at_least=floor, min_rows=self.slice_min_rows)
        return AllRule(all=(MetricRule(metric=self.metric), bad_slice))

    @property
    def reviews(self) -> Rule:
        """When a model is worth a human's time."""
        if self.review_when is not None:
            return self.review_when
        return AllRule(all=(MetricRule(metric=self.metric), ChampionRule(champion="not_worse")))

    def fingerprint(self) -> str:
        """Hash of everything that can change a verdict (hex, 64 characters)."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
