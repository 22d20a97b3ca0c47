"""Loaded models, kept within a bound.

Belongs here: loading an artifact once however many ask for it, and forgetting the least recently
used. Does not: which artifact is asked for (`models.py`).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import lightgbm
import numpy as np

from ml_patterns.errors import ArtifactError
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import ModelCard


@dataclass(frozen=True)
class LoadedModel:
    """A verified model in memory; may be used by many threads at once."""

    address: str
    card: ModelCard
    booster: lightgbm.Booster
    size: int

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Probabilities of the positive class, equal to LightGBM's own bit for bit.

        Args:
            matrix: float64, shape (rows, features), as `encode` makes it; NaN is missing.

        Returns:
            float64, shape (rows,).
        """
        if not len(matrix):
            return np.empty(0)
        # One thread each: requests run side by side, and a fork of OpenMP's pool per request
        # would cost more than a small batch.
        return np.asarray(self.booster.predict(matrix, num_threads=1))


class ModelCache:
    """Models by address; the least recently used go first when a bound is passed."""

    def __init__(
        self,
        artifacts: ArtifactStore,
        *,
        max_models: int,
        max_bytes: int,
        on_load: Callable[[bool], None] = lambda succeeded: None,
    ) -> None:
        self._artifacts = artifacts
        self._max_models = max_models
        self._max_bytes = max_bytes
        self._on_load = on_load
        self._lock = threading.Lock()
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._loading: dict[str, Future[LoadedModel]] = {}
        self._bytes = 0

    def get(self, address: str) -> LoadedModel:
        """The model of an address; those who ask while it is being loaded wait for that load.

        Raises:
            ArtifactError: it is missing, altered or unreadable.
        """
        with self._lock:
            model = self._models.get(address)
            if model is not None:
                self._models.move_to_end(address)
                return model
            pending = self._loading.get(address)
            mine: Future[LoadedModel] | None = None
            if pending is None:
                mine = self._loading[address] = Future()
        if mine is None:
            assert pending is not None
            return pending.result()
        try:
            model = self._load(address)
        except BaseException as error:
            with self._lock:
                del self._loading[address]
            self._on_load(False)
            mine.set_exception(error)
            raise
        with self._lock:
            del self._loading[address]
            self._keep(model)
        self._on_load(True)
        mine.set_result(model)
        return model

    @property
    def models(self) -> int:
        """How many models are in memory."""
        return len(self._models)

    @property
    def bytes(self) -> int:
        """The length of their texts together."""
        return self._bytes

    def _load(self, address: str) -> LoadedModel:
        try:
            artifact = self._artifacts.get(address)
            booster = lightgbm.Booster(model_str=artifact.model_text)
        except ArtifactError:
            raise
        except (lightgbm.basic.LightGBMError, OSError, ValueError) as error:
            raise ArtifactError(f"artifact {address[:12]} cannot be loaded: {error}") from error
        if booster.num_feature() != len(artifact.card.features):
            raise ArtifactError(
                f"artifact {address[:12]} has {booster.num_feature()} features, but its card "
                f"names {len(artifact.card.features)}"
            )
        return LoadedModel(address, artifact.card, booster, len(artifact.model_text))

    def _keep(self, model: LoadedModel) -> None:
        self._models[model.address] = model
        self._bytes += model.size
        # The newest stays even where it alone passes the bound: it is about to answer.
        while len(self._models) > 1 and (
            len(self._models) > self._max_models or self._bytes > self._max_bytes
        ):
            _, forgotten = self._models.popitem(last=False)
            self._bytes -= forgotten.size
