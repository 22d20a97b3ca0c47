"""The deployed models of a process: which, their cards, and scoring without a server.

Belongs here: finding a region's champion, also while the registry cannot be asked. Does not:
labelling answers (`client.py`).
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml_patterns.registry.registry import Champion, Registry
from ml_patterns.storage.artifacts import Artifact, ArtifactStore
from ml_patterns.storage.encoding import encode

_LOG = logging.getLogger(__name__)
_KEPT = 256


@dataclass(frozen=True, eq=False)
class Deployed:
    """A champion and its artifact."""

    champion: Champion
    artifact: Artifact

    @property
    def version(self) -> str:
        """The registry's version number as text."""
        return str(self.champion.version)

    @cached_property
    def booster(self) -> Any:
        """The model itself, loaded on first use."""
        import lightgbm

        return lightgbm.Booster(model_str=self.artifact.model_text)

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """The frame as this model's matrix; infinite values are missing, as JSON has none.

        Raises:
            KeyError: the frame lacks a feature.
        """
        matrix = encode(frame, self.artifact.card.features)
        matrix[~np.isfinite(matrix)] = np.nan
        return matrix

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """Probabilities, computed in this process by one thread; shape (rows,)."""
        return np.asarray(self.booster.predict(matrix, num_threads=1), dtype=np.float64)


class DeployedModels:
    """Champions by region; remembers the last one it saw for when the registry is gone."""

    def __init__(self, registry: Registry, artifacts: ArtifactStore) -> None:
        self._registry, self._artifacts = registry, artifacts
        self._known: dict[tuple[str, str], Deployed] = {}

    def find(self, pipeline: str, region: str) -> Deployed | None:
        """The region's champion, read anew; None if it has none.

        Raises:
            ArtifactError: its artifact is missing or altered.
            sqlalchemy.exc.SQLAlchemyError: the registry cannot be asked, and never could be.
        """
        key = (pipeline, region)
        known = self._known.get(key)
        try:
            champion = self._registry.champion(pipeline, region)
        except sa.exc.SQLAlchemyError as error:
            if known is None:
                raise
            _LOG.warning("registry not reachable, keeping champion %s: %s", known.version, error)
            return known
        if champion is None:
            self._known.pop(key, None)
            return None
        if known is None or known.champion != champion:
            known = Deployed(champion, self._artifacts.get(champion.artifact))
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = known
        return known
