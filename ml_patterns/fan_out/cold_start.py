"""Which model a region gets: its own, the pooled one, the incumbent, none.

Belongs here: the hierarchy and its reasons. Does not: training (`training.py`).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import pandas as pd

from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.fan_out.split import split_rows

Kind = Literal["own", "pooled", "incumbent", "none"]


@dataclass(frozen=True)
class Choice:
    """What a region gets, and why, as one sentence."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class Standing:
    """What there is to learn from.

    Attributes:
        rows: labelled rows below the watermark.
        rarer: how many of them are of the rarer class.
        learnable: the training slice holds both classes and the validation slice has rows.
    """

    rows: int
    rarer: int
    learnable: bool

    @classmethod
    def of(
        cls,
        rows: pd.DataFrame,
        settings: TrainingSettings,
        *,
        label_delay: timedelta,
        watermark: datetime | None,
    ) -> "Standing":
        """Counts the rows that `usable_rows` returned."""
        positives = int(rows["label"].sum())
        split = split_rows(rows, settings, label_delay=label_delay, watermark=watermark)
        if split is None:
            return cls(0, 0, learnable=False)
        labels = rows.loc[split.train(rows["event_time"]), "label"]
        learnable = labels.nunique() == 2 and split.validation(rows["event_time"]).any()
        return cls(len(rows), min(positives, len(rows) - positives), learnable=bool(learnable))

    def shortfall(self, settings: TrainingSettings) -> str | None:
        """Why these rows do not carry a model; None if they do."""
        if not self.rows:
            return "it has no labelled rows below the watermark"
        if not self.rarer:
            return f"its {_rows(self.rows)} are all of one class"
        if self.rows < settings.min_rows:
            return f"its {_rows(self.rows)} are fewer than training.min_rows {settings.min_rows:,}"
        if self.rarer < settings.min_positives:
            return (
                f"its rarer class has {self.rarer:,} rows, fewer than training.min_positives "
                f"{settings.min_positives:,}"
            )
        if not self.learnable:
            return "its training slice holds one class only, or its validation slice no rows"
        return None


def choose(
    region: Standing, everybody: Standing | None, settings: TrainingSettings, *, champion: bool
) -> Choice:
    """Goes down the hierarchy until something carries.

    Args:
        region: the region itself.
        everybody: all regions together; None where they were not looked at.
        champion: whether the region has a model deployed.
    """
    shortfall = region.shortfall(settings)
    if shortfall is None:
        return Choice(
            "own", f"own model: {_rows(region.rows)}, {region.rarer:,} of the rarer class"
        )
    # Without a row of its own nothing could ever judge the pooled model for this region.
    if region.rows and everybody is not None and everybody.shortfall(settings) is None:
        return Choice("pooled", f"pooled model of all regions: {shortfall}")
    if champion:
        return Choice("incumbent", f"the deployed model stays: {shortfall}")
    return Choice("none", f"no model: {shortfall}")


def _rows(count: int) -> str:
    return f"{count:,} labelled rows" if count != 1 else "1 labelled row"
