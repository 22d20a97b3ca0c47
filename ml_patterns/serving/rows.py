"""Large batches on all cores that would otherwise be idle.

Belongs here: how many threads one request's rows may have. Does not: predicting (`cache.py`).

LightGBM predicts each row by itself, on one thread: parts of a batch, predicted side by side and
put together, are the same bits. A busy server splits nothing, and no request waits for another's
parts: they share a core instead.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from ml_patterns.serving.cache import LoadedModel

# Below this, handing a part to another thread costs more than it saves.
ROWS_OF_A_PART = 250


class RowParts:
    """Predicts with as many threads as are idle, at least the caller's.

    Args:
        threads: predictions that may run at a time before nothing is split any more.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._running = 0
        self._lock = threading.Lock()
        self._others = ThreadPoolExecutor(threads, thread_name_prefix="part")

    def predict(self, model: LoadedModel, matrix: np.ndarray) -> np.ndarray:
        """Probabilities of the positive class, those of `LoadedModel.predict` bit for bit.

        Args:
            matrix: float64, shape (rows, features).

        Returns:
            float64, shape (rows,).
        """
        with self._taken(len(matrix) // ROWS_OF_A_PART) as threads:
            if threads == 1:
                return model.predict(matrix)
            first, *rest = np.array_split(matrix, threads)
            waiting = [self._others.submit(model.predict, part) for part in rest]
            try:
                answers = [model.predict(first)]
            finally:
                answered = [part.result() for part in waiting]
        return np.concatenate(answers + answered)

    def close(self) -> None:
        """Lets the threads go."""
        self._others.shutdown()

    @contextmanager
    def _taken(self, wanted: int) -> Iterator[int]:
        """Threads for a request: its own, and idle ones up to `wanted` in all."""
        with self._lock:
            threads = max(1, min(wanted, self._threads - self._running))
            self._running += threads
        try:
            yield threads
        finally:
            with self._lock:
                self._running -= threads
