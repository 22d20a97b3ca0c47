"""Settings of the training of one model per region.

Belongs here: what the `training` block of a pipeline's YAML may say. Does not: training
(`training.py`), the thresholds of the gate (`branching/policy.py`).
"""

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator

from ml_patterns.base import Duration, Settings

Candidate = dict[str, float | int | str | bool]

DATASET_PARAMETERS = frozenset(
    {
        "max_bin",
        "min_data_in_bin",
        "categorical_feature",
        "feature_pre_filter",
        "bin_construct_sample_cnt",
    }
)
RESERVED_PARAMETERS = frozenset(
    {"objective", "num_threads", "seed", "deterministic", "verbosity", "metric", "num_iterations"}
)

DEFAULT_CANDIDATES: tuple[Candidate, ...] = (
    {"num_leaves": 7, "learning_rate": 0.1, "min_data_in_leaf": 20},
    {"num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 20},
    {"num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 20},
)


class TrainingSettings(Settings):
    """How the fleet is trained."""

    candidates: tuple[Candidate, ...] = Field(
        default=DEFAULT_CANDIDATES,
        min_length=1,
        description="LightGBM settings to choose from, simplest first.",
    )
    max_rounds: int = Field(default=200, ge=1, description="Most boosting rounds of a model.")
    early_stopping_rounds: int = Field(default=20, ge=1, description="Rounds without gain.")
    validation_share: float = Field(default=0.2, gt=0, lt=0.5, description="Share of the time.")
    test_share: float = Field(default=0.2, gt=0, lt=0.5, description="Share of the time, newest.")
    min_rows: int = Field(
        default=500, ge=1, description="Labelled rows below which a region has no own model."
    )
    min_positives: int = Field(
        default=20, ge=1, description="Rows of the rarer class below which there is no own model."
    )
    class_weights: bool = Field(default=False, description="Weigh both classes equally.")
    seed: int = Field(default=7, ge=0, description="Seed of every random choice.")
    backend: Literal["processes"] = Field(
        default="processes", description="Where regions are trained: processes of this machine."
    )
    workers: int = Field(default=0, ge=0, description="Worker processes; 0: one per core.")
    region_timeout: Duration = Field(
        default=timedelta(minutes=10), description="Time after which a region's worker is ended."
    )
    min_success: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the regions that must get a model for the leaderboard to succeed.",
    )
    must_have: tuple[str, ...] = Field(
        default=(), description="Regions without which the leaderboard does not succeed."
    )
    schedule: str = Field(default="0 6 * * 1", description="When the fleet is trained (cron, UTC).")

    @field_validator("candidates")
    @classmethod
    def _model_parameters_only(cls, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        for number, candidate in enumerate(candidates):
            for name in candidate:
                if name in DATASET_PARAMETERS:
                    raise ValueError(
                        f"training.candidates[{number}].{name} belongs to the dataset, which all "
                        "candidates of a region share; remove it"
                    )
                if name in RESERVED_PARAMETERS:
                    raise ValueError(
                        f"training.candidates[{number}].{name} is set by the training itself; "
                        "remove it (rounds: training.max_rounds, seed: training.seed)"
                    )
        return candidates
