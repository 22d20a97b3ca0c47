"""Settings of the training of one model per region.

Belongs here: what the `training` block of a pipeline's YAML may say. Does not: training
(`training.py`), the thresholds of the gate (`branching/policy.py`).
"""

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator

from ml_patterns.base import Duration, Settings

Candidate = dict[str, float | int | str | bool]

_DATASET_PARAMETERS = """
max_bin max_bins max_bin_by_feature min_data_in_bin bin_construct_sample_cnt subsample_for_bin
data_random_seed data_seed is_enable_sparse is_sparse enable_sparse sparse enable_bundle
is_enable_bundle bundle use_missing zero_as_missing feature_pre_filter pre_partition
is_pre_partition precise_float_parser two_round two_round_loading use_two_round_loading header
has_header linear_tree linear_trees label_column label weight_column weight group_column group
ignore_column ignore_feature blacklist categorical_feature cat_feature categorical_column cat_column
categorical_features forcedbins_filename group_id query query_column query_id
"""
_OWN_PARAMETERS = """
objective objective_type app application loss num_threads num_thread nthread nthreads n_jobs seed
random_seed random_state deterministic force_col_wise force_row_wise verbosity verbose metric
metrics metric_types num_iterations num_iteration n_iter num_tree num_trees num_round num_rounds
nrounds num_boost_round n_estimators max_iter early_stopping_round early_stopping_rounds
early_stopping n_iter_no_change num_class num_classes device_type device
"""
DATASET_PARAMETERS = frozenset(_DATASET_PARAMETERS.split())
"""LightGBM's parameters of the binned dataset, with their aliases."""
RESERVED_PARAMETERS = frozenset(_OWN_PARAMETERS.split())
"""Parameters that the training sets itself, with their aliases."""

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
    backend: Literal["processes", "dask"] = Field(
        default="processes",
        description="Where regions are trained: processes of this machine, or the Dask cluster "
        "that DASK_SCHEDULER_ADDRESS names.",
    )
    workers: int = Field(default=0, ge=0, description="Worker processes; 0: one per core.")
    region_timeout: Duration = Field(
        default=timedelta(minutes=10), description="Time after which a region's worker is ended."
    )
    regions_per_run: int = Field(
        default=1000,
        ge=1,
        description="Most regions that one run trains; a larger fleet is cut into even runs.",
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
    retrain_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of the feature rows that must have been rebuilt since the fleet was "
        "last trained for the sensor to ask for a training between two schedules.",
    )

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
