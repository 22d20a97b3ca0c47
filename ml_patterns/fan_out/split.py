"""How a region's rows are divided by time.

Belongs here: the bounds train | gap | validation | gap | test. Does not: what is fitted on the
slices (`training.py`), judging the test slice (`branching/gate.py`).

A gap is as long as a label takes to arrive: every label of a slice is known before the next slice
begins, as it would have been on the day.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.storage.card import Window

Mask = npt.NDArray[np.bool_]
_STEP = timedelta(microseconds=1)


@dataclass(frozen=True)
class Split:
    """Bounds of the three slices, UTC; every slice includes its start and excludes its end."""

    train_start: datetime
    train_end: datetime
    validation_start: datetime
    validation_end: datetime
    test_start: datetime
    test_end: datetime

    def train(self, times: pd.Series) -> Mask:
        """Which rows the candidates are fitted on."""
        return between(times, self.train_start, self.train_end)

    def validation(self, times: pd.Series) -> Mask:
        """Which rows the candidates are compared on."""
        return between(times, self.validation_start, self.validation_end)

    def test(self, times: pd.Series) -> Mask:
        """Which rows are kept for the gate."""
        return between(times, self.test_start, self.test_end)


def split_by_time(
    times: pd.Series,
    *,
    watermark: datetime | None,
    label_delay: timedelta,
    validation_share: float,
    test_share: float,
) -> Split | None:
    """The bounds for rows with these event times.

    Args:
        times: event times of the labelled rows, UTC without a zone, in any order.
        watermark: rows at or after it belong to no slice (UTC); None: all rows are used.
        label_delay: length of each gap.
        validation_share: share of the time between the first and the last row, for validation.
        test_share: the same for the test slice, which is the newest.

    Returns:
        The bounds; None where no row lies below the watermark. Where the gaps leave no time for a
        slice, it is empty: `train_end` is never before `train_start`.
    """
    usable = times if watermark is None else times[times < naive(watermark)]
    if usable.empty:
        return None
    first, last = _utc(usable.min()), _utc(usable.max())
    span = last - first
    test_start = max(last - span * test_share, first)
    validation_end = max(test_start - label_delay, first)
    validation_start = max(validation_end - span * validation_share, first)
    return Split(
        train_start=first,
        train_end=max(validation_start - label_delay, first),
        validation_start=validation_start,
        validation_end=validation_end,
        test_start=test_start,
        test_end=last + _STEP,
    )


def split_rows(
    rows: pd.DataFrame,
    settings: TrainingSettings,
    *,
    label_delay: timedelta,
    watermark: datetime | None,
) -> Split | None:
    """The bounds of the slices of `usable_rows`."""
    return split_by_time(
        rows["event_time"],
        watermark=watermark,
        label_delay=label_delay,
        validation_share=settings.validation_share,
        test_share=settings.test_share,
    )


def window(rows: pd.DataFrame, inside: Mask, start: datetime, end: datetime) -> Window:
    """What the card says about a slice."""
    positives = int(rows.loc[inside, "label"].sum())
    return Window(start=start, end=end, rows=int(inside.sum()), positives=positives)


def between(times: pd.Series, start: datetime, end: datetime) -> Mask:
    """Which times lie in [start, end)."""
    inside = (times >= naive(start)) & (times < naive(end))
    return inside.to_numpy(dtype=np.bool_)


def naive(time: datetime) -> pd.Timestamp:
    """A UTC time as the warehouse writes it, without a zone."""
    return pd.Timestamp(time.astimezone(UTC).replace(tzinfo=None))


def _utc(time: pd.Timestamp) -> datetime:
    return time.to_pydatetime(warn=False).replace(tzinfo=UTC)
