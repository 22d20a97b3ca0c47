"""The rules of the gate: a small tree that people read and write in YAML.

Belongs here: what a rule may say. Does not: answering it (`conditions.py`), what holds whatever the
rules say (`conditions.guards`), thresholds and defaults (`policy.py`).

    deploy_when:
      all:
        - metric: accuracy            # reaches deploy_at
        - slices: weather             # in no kind of weather worse than this, beyond chance
          at_least: 0.85
          min_rows: 30
        - champion: not_worse
        - any:
            - metric: auc
              at_least: 0.9
            - data_check: no_gap_is_silent
        - not:
            metric: gain_over_majority
            at_least: 0.4             # too good to be true

A rule's answer is yes, no or *cannot judge*; `not` of what cannot be judged cannot be judged.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_serializer

from ml_patterns.base import Settings

Metric = Literal["accuracy", "balanced_accuracy", "auc", "gain_over_majority"]
EVERY = "*"
"""Names all text columns in a rule about slices."""


class MetricRule(Settings):
    """A metric of the test slice reaches a threshold, by the policy's `rule`."""

    metric: Metric
    at_least: float | None = Field(
        default=None, ge=-1, le=1, description="Default: the gate's deploy_at or review_at."
    )


class SliceRule(Settings):
    """In no slice of the test rows is the accuracy too low, beyond chance.

    Beyond chance: at the policy's confidence, shared by all slices that are looked at
    (Bonferroni).
    """

    slices: str = Field(description="A text column of the features; '*': each of them.")
    at_least: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Accuracy; default: what always giving the slice's commoner answer reaches.",
    )
    min_rows: int = Field(default=50, ge=1, description="Smaller slices are left out.")


class ChampionRule(Settings):
    """Not worse than the champion on the same rows, beyond chance."""

    champion: Literal["not_worse"]
    max_regression: float | None = Field(
        default=None, ge=0, description="Default: the gate's max_regression."
    )


class DataCheckRule(Settings):
    """A check of the data has passed."""

    data_check: str = Field(description="Name of the check.")


class ArtifactRule(Settings):
    """The artifact works in a clean process, and is quick and small enough."""

    artifact: Literal["works"]
    max_milliseconds: float | None = Field(
        default=None, gt=0, description="Median of answering the golden rows."
    )
    max_megabytes: float | None = Field(default=None, gt=0, description="Of model text and card.")


class AllRule(Settings):
    """All of these."""

    all: tuple["Rule", ...] = Field(min_length=1)


class AnyRule(Settings):
    """One of these at least."""

    any: tuple["Rule", ...] = Field(min_length=1)


class NotRule(Settings):
    """Not this."""

    model_config = ConfigDict(populate_by_name=True)

    rule: "Rule" = Field(alias="not")

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {"not": self.rule.model_dump(mode="json")}


_KINDS = ("metric", "slices", "champion", "data_check", "artifact", "all", "any", "not")


def _kind(value: Any) -> str | None:
    """The first word of a rule that says what it is about."""
    if isinstance(value, Settings):
        return _kind(value.model_dump(mode="json"))
    if not isinstance(value, dict):
        return None
    return next((kind for kind in _KINDS if kind in value), None)


Rule = Annotated[
    Annotated[MetricRule, Tag("metric")]
    | Annotated[SliceRule, Tag("slices")]
    | Annotated[ChampionRule, Tag("champion")]
    | Annotated[DataCheckRule, Tag("data_check")]
    | Annotated[ArtifactRule, Tag("artifact")]
    | Annotated[AllRule, Tag("all")]
    | Annotated[AnyRule, Tag("any")]
    | Annotated[NotRule, Tag("not")],
    Discriminator(
        _kind,
        custom_error_type="rule",
        custom_error_message=f"a rule begins with one of {', '.join(_KINDS)}",
    ),
]
"""One node of the tree."""

for _model in (AllRule, AnyRule, NotRule):
    _model.model_rebuild()
