"""A setting that could not work is refused with a sentence, not by LightGBM in a worker."""

import lightgbm as lgb
import numpy as np
import pytest
from lightgbm.basic import _ConfigAliases
from pydantic import ValidationError

from ml_patterns.fan_out.settings import (
    DATASET_PARAMETERS,
    RESERVED_PARAMETERS,
    TrainingSettings,
)


@pytest.mark.parametrize("name", ["max_bin", "subsample_for_bin", "linear_tree"])
def test_dataset_parameters_in_a_candidate_are_refused(name: str) -> None:
    """All candidates of a region share one binned dataset."""
    with pytest.raises(ValidationError, match=rf"training.candidates\[1\].{name} belongs to the"):
        TrainingSettings(candidates=({"num_leaves": 7}, {name: 1}))


@pytest.mark.parametrize("name", ["nthread", "random_state", "n_estimators", "objective"])
def test_parameters_that_the_training_sets_are_refused_under_any_alias(name: str) -> None:
    """Two threads in a worker would cost the byte identity, silently."""
    with pytest.raises(ValidationError, match=rf"{name} is set by the training itself"):
        TrainingSettings(candidates=({name: 2},))


def test_every_parameter_of_the_dataset_is_refused() -> None:
    """`precise_float_parser` once passed, and then every region failed in its worker."""
    known = _ConfigAliases._get_all_param_aliases()
    names = {*known, *(alias for aliases in known.values() for alias in aliases)}
    dataset = lgb.Dataset(np.zeros((1, 1)), params=dict.fromkeys(names, 0))
    of_the_dataset = sorted(dataset.get_params())
    assert "precise_float_parser" in of_the_dataset
    assert "min_data_in_leaf" not in of_the_dataset
    for name in of_the_dataset:
        with pytest.raises(
            ValidationError, match=rf"candidates\[0\].{name} belongs to the dataset"
        ):
            TrainingSettings(candidates=({name: 1},))


def test_no_alias_that_lightgbm_knows_is_missing() -> None:
    """An upgrade of LightGBM may add one."""
    known = _ConfigAliases._get_all_param_aliases()
    for ours in (DATASET_PARAMETERS, RESERVED_PARAMETERS):
        for name in sorted(ours & known.keys()):
            assert set(known[name]) <= ours, name
