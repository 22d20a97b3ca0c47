"""The answer to a batch while it is put together, row by row.

Belongs here: the columns of an answer, and which rows still wait for one. Does not: where answers
come from (`client.py`).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

COLUMNS = ("prediction", "source", "age_s", "model_version", "reason", "attempts")


@dataclass
class Answers:
    """One entry per row.

    Attributes:
        prediction: probability; NaN while a row waits.
        source: `live`, `cache`, `champion` or `base_rate`.
        age_s: age of the answer in seconds; 0 unless cached.
        model_version: whose answer it is; None without a model.
        reason: why it is not live; empty if it is.
        attempts: HTTP attempts of the requests that the row was part of.
    """

    prediction: np.ndarray
    source: np.ndarray
    age_s: np.ndarray
    model_version: np.ndarray
    reason: np.ndarray
    attempts: np.ndarray

    @classmethod
    def waiting_for(cls, rows: int, reason: str = "") -> Self:
        """No row has an answer yet."""
        return cls(
            prediction=np.full(rows, np.nan),
            source=np.full(rows, "", dtype=object),
            age_s=np.zeros(rows),
            model_version=np.full(rows, None, dtype=object),
            reason=np.full(rows, reason, dtype=object),
            attempts=np.zeros(rows, dtype=np.int64),
        )

    @property
    def waiting(self) -> np.ndarray:
        """Positions of the rows without an answer."""
        return np.flatnonzero(np.isnan(self.prediction))

    def give(
        self,
        rows: np.ndarray,
        predictions: np.ndarray | float,
        source: str,
        *,
        version: str | None,
        age_s: np.ndarray | float = 0.0,
    ) -> None:
        """Answers rows; a NaN leaves its row waiting."""
        given = np.broadcast_to(np.asarray(predictions, dtype=np.float64), rows.shape)
        ages = np.broadcast_to(np.asarray(age_s, dtype=np.float64), rows.shape)
        answered = ~np.isnan(given)
        rows = rows[answered]
        self.prediction[rows] = given[answered]
        self.age_s[rows] = ages[answered]
        self.source[rows] = source
        self.model_version[rows] = version

    def frame(self, index: pd.Index) -> pd.DataFrame:
        """COLUMNS, one row per row asked for, in its order."""
        return pd.DataFrame({name: getattr(self, name) for name in COLUMNS}, index=index)
