"""Promise: a large batch uses idle cores, and its answer is LightGBM's own bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from ml_patterns.serving.cache import LoadedModel
from ml_patterns.serving.rows import ROWS_OF_A_PART, RowParts
from ml_patterns_tests.serving.conftest import card_of, sample_matrix, train

BOOSTER = train(1)


@dataclass(frozen=True)
class Watched(LoadedModel):
    """Notes the parts that it is asked for, and lets a test hold one back."""

    parts: list[int] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        self.parts.append(len(matrix))
        assert self.may_answer.wait(60)
        return super().predict(matrix)


def watched(*, free: bool = True) -> Watched:
    model = Watched("address", card_of("eu", 1), BOOSTER, 1)
    if free:
        model.may_answer.set()
    return model


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 2 * ROWS_OF_A_PART - 1, 2 * ROWS_OF_A_PART, 1001])
def test_parts_put_together_are_the_whole(rows: int, threads: int) -> None:
    matrix, model, parts = sample_matrix(rows), watched(), RowParts(threads)
    expected = BOOSTER.predict(matrix) if rows else np.empty(0)
    assert parts.predict(model, matrix).tobytes() == np.asarray(expected).tobytes()
    assert sum(model.parts) == rows
    assert len(model.parts) == max(1, min(threads, rows // ROWS_OF_A_PART))
    parts.close()


def test_a_busy_server_splits_nothing_and_an_idle_one_does_again() -> None:
    parts, slow, model = RowParts(2), watched(free=False), watched()
    matrix = sample_matrix(1000)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(parts.predict, slow, matrix[:1])
        while not slow.parts:
            threading.Event().wait(0.001)
        parts.predict(model, matrix)
        assert model.parts == [1000]
        slow.may_answer.set()
        assert len(running.result()) == 1
    parts.predict(model, matrix)
    assert sorted(model.parts) == [500, 500, 1000]
    parts.close()


def test_a_part_that_fails_fails_the_request_and_takes_no_thread_with_it() -> None:
    parts, model = RowParts(2), watched()
    too_wide = np.zeros((1000, 99))
    for _ in range(3):
        with pytest.raises(Exception, match="number of features"):
            parts.predict(model, too_wide)
    model.parts.clear()
    parts.predict(model, sample_matrix(1000))
    assert model.parts == [500, 500]
    parts.close()
