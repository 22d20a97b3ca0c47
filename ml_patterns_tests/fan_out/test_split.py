"""Slices never overlap, never touch the watermark, and know no label that came later."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from ml_patterns.fan_out.split import split_by_time

START = datetime(2026, 1, 1, tzinfo=UTC)

histories = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=50)
delays = st.integers(0, 2_000_000).map(lambda seconds: timedelta(seconds=seconds))
shares = st.floats(0.01, 0.49)


def times_at(seconds: list[int]) -> pd.Series:
    """Event times that many seconds after the start."""
    start = pd.Timestamp(START.replace(tzinfo=None))
    return pd.Series(start + pd.to_timedelta(np.array(seconds), unit="s")).astype("datetime64[us]")


@given(histories, delays, shares, shares, st.integers(0, 10_000_000))
def test_every_label_of_a_slice_is_known_before_the_next_slice_begins(
    seconds: list[int], delay: timedelta, validation: float, test: float, watermark_at: int
) -> None:
    """And no row is in two slices, and none lies at or after the watermark."""
    times, watermark = times_at(seconds), START + timedelta(seconds=watermark_at)
    split = split_by_time(
        times,
        watermark=watermark,
        label_delay=delay,
        validation_share=validation,
        test_share=test,
    )
    below = times < pd.Timestamp(watermark.replace(tzinfo=None))
    if split is None:
        assert not below.any()
        return
    masks = [split.train(times), split.validation(times), split.test(times)]
    assert (sum(mask.astype(int) for mask in masks) <= 1).all()
    assert not (np.logical_or.reduce(masks) & ~below).any()
    assert masks[2].any(), "the newest row is always kept for the gate"
    for index, earlier in enumerate(masks):
        for later in masks[index + 1 :]:
            if earlier.any() and later.any():
                assert times[earlier].max() + delay < times[later].min()


@given(histories, delays, shares, shares)
def test_rows_after_the_watermark_change_nothing(
    seconds: list[int], delay: timedelta, validation: float, test: float
) -> None:
    """The split is a function of what lies below the watermark, in any order."""
    watermark = START + timedelta(seconds=5_000_000)
    options = {
        "watermark": watermark,
        "label_delay": delay,
        "validation_share": validation,
        "test_share": test,
    }
    kept = [second for second in seconds if second < 5_000_000]
    assert split_by_time(times_at(seconds[::-1]), **options) == split_by_time(
        times_at(kept), **options
    )


def test_the_shares_are_shares_of_the_time() -> None:
    """Ten days, a tenth for the test, two tenths for the validation, an hour between them."""
    times = times_at([hour * 3600 for hour in range(241)])
    split = split_by_time(
        times,
        watermark=None,
        label_delay=timedelta(hours=1),
        validation_share=0.2,
        test_share=0.1,
    )
    assert split is not None
    assert split.test_start == START + timedelta(hours=216)
    assert split.validation_end == START + timedelta(hours=215)
    assert split.validation_start == START + timedelta(hours=167)
    assert split.train_end == START + timedelta(hours=166)
    assert split.test(times).sum() == 25
