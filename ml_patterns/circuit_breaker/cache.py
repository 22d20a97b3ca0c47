"""Predictions that the model server once gave, for when it does not answer.

Belongs here: keeping validated live answers by model version and features, bounded by age and rows.
Does not: when the cache is asked (`client.py`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ml_patterns.base import Clock, utc_now
from ml_patterns.circuit_breaker.tables import prediction_cache
from ml_patterns.retry.patience import soon_or_never
from ml_patterns.storage.operational import reading

_AT_ONCE = 500


@dataclass(frozen=True)
class Cached:
    """A prediction and its age in seconds."""

    prediction: float
    age_s: float


def feature_hashes(matrix: np.ndarray) -> list[str]:
    """A hash per row of an encoded matrix (hex, 32 characters); all NaN and both zeros are one."""
    canonical = np.where(np.isnan(matrix), np.nan, matrix + 0.0)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in canonical]


class PredictionCache:
    """Live answers by (model, version, features).

    Args:
        max_age: older ones are never returned, and removed in time.
        max_rows: beyond that the oldest go; one hundredth more may lie there for a while.
    """

    def __init__(
        self, engine: sa.Engine, *, max_age: timedelta, max_rows: int, clock: Clock = utc_now
    ) -> None:
        self._engine, self._max_age, self._max_rows = engine, max_age, max_rows
        self._clock = clock
        self._written_since_pruning = max_rows

    def get(self, model: str, version: str, hashes: Sequence[str]) -> dict[str, Cached]:
        """What is known for these features, by hash."""
        table, now = prediction_cache, self._clock()
        found: dict[str, Cached] = {}
        with reading(self._engine) as connection:
            for start in range(0, len(hashes), _AT_ONCE):
                rows = connection.execute(
                    sa.select(table.c.features_hash, table.c.prediction, table.c.made_at).where(
                        table.c.model == model,
                        table.c.version == version,
                        table.c.features_hash.in_(hashes[start : start + _AT_ONCE]),
                        table.c.made_at >= now - self._max_age,
                    )
                )
                for key, prediction, made_at in rows:
                    age = (now - made_at).total_seconds()
                    found[key] = Cached(prediction, max(0.0, age))
        return found

    def put(
        self,
        model: str,
        version: str,
        hashes: Sequence[str],
        predictions: Sequence[float] | np.ndarray,
    ) -> None:
        """Keeps validated live answers; a newer answer replaces an older one."""
        if not self._max_rows or not hashes:
            return
        now = self._clock()
        rows = {
            key: {
                "model": model,
                "version": version,
                "features_hash": key,
                "prediction": float(prediction),
                "made_at": now,
            }
            # Sorted: two writers of the same rows must lock them in the same order.
            for key, prediction in sorted(zip(hashes, predictions, strict=True))
        }
        dialect: Any = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(prediction_cache)
        statement = statement.on_conflict_do_update(
            index_elements=["model", "version", "features_hash"],
            set_={
                "prediction": statement.excluded.prediction,
                "made_at": statement.excluded.made_at,
            },
        )
        with soon_or_never(self._engine) as connection:
            connection.execute(statement, list(rows.values()))
            self._written_since_pruning += len(rows)
            if self._written_since_pruning * 100 > self._max_rows:
                self._prune(connection, now)
                self._written_since_pruning = 0

    def _prune(self, connection: sa.Connection, now: datetime) -> None:
        table = prediction_cache
        connection.execute(sa.delete(table).where(table.c.made_at < now - self._max_age))
        oldest_kept = connection.scalar(
            sa.select(table.c.made_at)
            .order_by(table.c.made_at.desc())
            .offset(self._max_rows - 1)
            .limit(1)
        )
        if oldest_kept is not None:
            connection.execute(sa.delete(table).where(table.c.made_at < oldest_kept))
