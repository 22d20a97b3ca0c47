"""Metrics against definitions that are too simple to be wrong."""

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_patterns.fan_out.metrics import (
    auc,
    balanced_accuracy,
    brier,
    calibration_error,
    measure,
    persistence,
    row_losses,
)

rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.9, 1.0])), min_size=1
)


def arrays(pairs: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities."""
    return np.array([label for label, _ in pairs]), np.array([value for _, value in pairs])


@given(rows)
def test_auc_is_the_chance_that_a_positive_ranks_above_a_negative(
    pairs: list[tuple[bool, float]],
) -> None:
    """Counted pair by pair."""
    wins = [
        (high > low) + (high == low) / 2
        for label, high in pairs
        if label
        for other, low in pairs
        if not other
    ]
    if wins:
        assert auc(*arrays(pairs)) == pytest.approx(sum(wins) / len(wins))


@given(rows)
def test_what_the_rows_do_not_define_is_absent(pairs: list[tuple[bool, float]]) -> None:
    """One class has no AUC; a metric is never a silent zero and never NaN."""
    measured = measure(*arrays(pairs))
    both = len({label for label, _ in pairs}) == 2
    assert ("auc" in measured) == ("balanced_accuracy" in measured) == both
    assert all(math.isfinite(value) for value in measured.values())
    assert measured["accuracy"] == pytest.approx(
        sum((value >= 0.5) == label for label, value in pairs) / len(pairs)
    )


def test_no_rows_measure_nothing() -> None:
    """An empty slice has no accuracy, not one of zero."""
    assert measure(np.array([], dtype=bool), np.array([])) == {}


def test_examples_by_hand() -> None:
    """Two of three positives and one of two negatives are guessed right."""
    labels = np.array([True, True, True, False, False])
    values = np.array([0.9, 0.8, 0.1, 0.2, 0.7])
    assert balanced_accuracy(labels, values) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert brier(labels, values) == pytest.approx((0.01 + 0.04 + 0.81 + 0.04 + 0.49) / 5)
    assert row_losses(labels, values)[0] == pytest.approx(-math.log(0.9))
    assert measure(labels, values)["majority_accuracy"] == pytest.approx(3 / 5)


@given(rows)
def test_calibration_compares_what_was_said_with_what_came_bin_by_bin(
    pairs: list[tuple[bool, float]],
) -> None:
    """Counted bin by bin."""
    total = 0.0
    for index in range(10):
        inside = [pair for pair in pairs if min(int(pair[1] * 10), 9) == index]
        if inside:
            observed = sum(label for label, _ in inside) / len(inside)
            said = sum(value for _, value in inside) / len(inside)
            total += len(inside) * abs(observed - said)
    assert calibration_error(*arrays(pairs)) == pytest.approx(total / len(pairs))


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1),
    st.integers(0, 10),
)
def test_persistence_knows_no_label_before_its_time(
    events: list[tuple[int, bool]], delay: int
) -> None:
    """For every row, looked up one by one: the newest label that had arrived."""
    events = sorted(events, key=lambda event: event[0])
    times = np.array([hour for hour, _ in events], dtype="datetime64[h]").astype("datetime64[us]")
    labels = np.array([label for _, label in events])
    hits = [
        known[-1] == label
        for hour, label in events
        if (known := [other for at, other in events if at < hour - delay])
    ]
    found = persistence(times, labels, np.ones(len(events), dtype=bool), timedelta(hours=delay))
    assert found == (pytest.approx(sum(hits) / len(hits)) if hits else None)
