"""Our statistics against SciPy's, which are too slow for the gate but too simple to be wrong."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, mannwhitneyu

from ml_patterns.branching.policy import Metric
from ml_patterns.branching.statistics import (
    all_metrics,
    binomial_bound,
    binomial_upper_bound,
    is_worse,
    lower_bound,
    p_better_than_chance,
    value,
)


def sample(rows: int, seed: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.random(rows) < share
    said = np.round(labels * 0.4 + random.random(rows) * 0.6, 2)  # rounded, so that there are ties
    return labels, said


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_the_auc_is_the_mann_whitney_statistic(rows: int, seed: int) -> None:
    labels, said = sample(rows, seed)
    area = value("auc", labels, said)
    if labels.all() or not labels.any():
        assert math.isnan(area)
        return
    statistic = mannwhitneyu(said[labels], said[~labels]).statistic
    assert area == pytest.approx(statistic / (labels.sum() * (~labels).sum()), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.integers(0, 10_000))
def test_better_than_chance_is_mann_and_whitneys(rows: int, seed: int) -> None:
    labels, said = sample(rows, seed)
    ours = p_better_than_chance(labels, said)
    if labels.all() or not labels.any():
        assert ours is None
    elif np.ptp(said) > 0:
        test = mannwhitneyu(said[labels], said[~labels], alternative="greater", method="asymptotic")
        assert ours == pytest.approx(test.pvalue, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 500), st.data())
def test_bounds_of_a_share_are_clopper_and_pearsons(rows: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, rows))
    low = binomtest(right, rows, alternative="greater").proportion_ci(0.9, "exact").low
    high = binomtest(right, rows, alternative="less").proportion_ci(0.9, "exact").high
    assert binomial_bound(right, rows, 0.9) == pytest.approx(low, abs=1e-9)
    assert binomial_upper_bound(right, rows, 0.9) == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize("metric", ["auc", "balanced_accuracy", "gain_over_majority"])
def test_bootstrap_bounds_agree_with_scipys(metric: Metric) -> None:
    labels, said = sample(400, 3)
    theirs = bootstrap(
        (labels, said),
        lambda drawn, answers: value(metric, drawn.astype(bool), answers),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        confidence_level=0.95,
        alternative="greater",
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval.low
    ours = lower_bound(metric, labels, said, 0.95)
    assert ours == pytest.approx(theirs, abs=0.01)
    assert ours < value(metric, labels, said)  # type: ignore[operator]


def test_the_bound_of_an_accuracy_holds_as_often_as_it_promises() -> None:
    """Clopper and Pearson: a model of true accuracy 0.93 is bounded above it in at most 5 %."""
    draws = np.random.default_rng(2).binomial(200, 0.93, size=2000)
    bounds = {right: binomial_bound(int(right), 200, 0.95) for right in np.unique(draws)}
    above = np.mean([bounds[right] > 0.93 for right in draws])
    assert 0.01 < above < 0.06


def test_a_lost_comparison_is_mcnemars() -> None:
    labels = np.ones(100, dtype=bool)
    champion = np.full(100, 0.9)
    for lost in range(9):
        challenger = np.where(np.arange(100) < lost, 0.1, 0.9)
        expected = lost > 0 and binomtest(lost, lost, alternative="greater").pvalue <= 0.05
        worse = is_worse("accuracy", labels, challenger, champion, confidence=0.95, tolerance=0.0)
        assert worse == expected


def test_metrics_of_nothing_or_of_nan_are_unknown() -> None:
    nothing = all_metrics(np.empty(0, dtype=bool), np.empty(0))
    broken = all_metrics(np.array([True, False]), np.array([0.5, math.nan]))
    assert set(nothing.values()) == set(broken.values()) == {None}


def test_metrics_of_three_rows_by_hand() -> None:
    metrics = all_metrics(np.array([True, False, False]), np.array([0.8, 0.6, 0.1]))
    assert metrics == pytest.approx(
        {
            "accuracy": 2 / 3,
            "balanced_accuracy": 0.75,
            "auc": 1.0,
            "gain_over_majority": 0.0,
            "majority_accuracy": 2 / 3,
            "log_loss": -(math.log(0.8) + math.log(0.4) + math.log(0.9)) / 3,
            "brier": (0.04 + 0.36 + 0.01) / 3,
        }
    )
