"""Promise: the cache returns what was said about these features, and stays within its bounds."""

import math
from datetime import timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st

from ml_patterns.circuit_breaker.cache import PredictionCache, feature_hashes
from ml_patterns.circuit_breaker.tables import prediction_cache
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.retry.virtual import VirtualTime


@pytest.fixture
def engine(url: str) -> sa.Engine:
    return engine_for(url)


def cache_on(engine: sa.Engine, time: VirtualTime, rows: int = 100) -> PredictionCache:
    return PredictionCache(engine, max_age=timedelta(hours=1), max_rows=rows, clock=time.now)


def size(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(prediction_cache)) or 0


def test_an_answer_comes_back_with_its_age_until_it_is_too_old(engine: sa.Engine) -> None:
    time = VirtualTime()
    cache = cache_on(engine, time)
    cache.put("p.eu", "1", ["a", "b", "a"], [0.1, 0.2, 0.3])
    time.sleep(3600)
    found = cache.get("p.eu", "1", ["a", "b", "c"])
    assert {key: (hit.prediction, hit.age_s) for key, hit in found.items()} == {
        "a": (0.3, 3600),
        "b": (0.2, 3600),
    }
    time.sleep(1)
    assert cache.get("p.eu", "1", ["a", "b"]) == {}


def test_models_and_versions_do_not_mix(engine: sa.Engine) -> None:
    cache = cache_on(engine, VirtualTime())
    cache.put("p.eu", "1", ["a"], [0.1])
    assert cache.get("p.eu", "2", ["a"]) == {}
    assert cache.get("p.us", "1", ["a"]) == {}


def test_a_newer_answer_replaces_an_older_one(engine: sa.Engine) -> None:
    time = VirtualTime()
    cache = cache_on(engine, time)
    cache.put("p.eu", "1", ["a"], [0.1])
    time.sleep(10)
    cache.put("p.eu", "1", ["a"], [0.9])
    hit = cache.get("p.eu", "1", ["a"])["a"]
    assert (hit.prediction, hit.age_s) == (0.9, 0)
    assert size(engine) == 1


def test_the_oldest_go_first_and_old_ones_leave(engine: sa.Engine) -> None:
    time = VirtualTime()
    cache = cache_on(engine, time, rows=100)
    for number in range(30):
        cache.put("p.eu", "1", [f"{number}-{row}" for row in range(10)], [0.5] * 10)
        time.sleep(1)
        assert size(engine) <= 110
    assert len(cache.get("p.eu", "1", ["29-0"])) == 1
    assert cache.get("p.eu", "1", ["0-0"]) == {}
    time.sleep(3600)
    cache.put("p.eu", "1", [f"new-{row}" for row in range(5)], [0.5] * 5)
    assert size(engine) == 5


def test_no_rows_means_no_cache(engine: sa.Engine) -> None:
    cache = cache_on(engine, VirtualTime(), rows=0)
    cache.put("p.eu", "1", ["a"], [0.1])
    assert size(engine) == 0


def test_thousands_of_rows_are_found_at_once(engine: sa.Engine) -> None:
    cache = cache_on(engine, VirtualTime(), rows=10_000)
    keys = [str(number) for number in range(3000)]
    cache.put("p.eu", "1", keys, list(np.linspace(0, 1, 3000)))
    assert len(cache.get("p.eu", "1", keys)) == 3000


@example([(0.0, 1.0), (-0.0, 1.0), (math.nan, 0.0), (-math.nan, 0.0)])
@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=20))
def test_rows_have_the_same_hash_exactly_if_a_model_cannot_tell_them_apart(
    rows: list[tuple[float, float]],
) -> None:
    hashes = feature_hashes(np.array(rows, dtype=np.float64))
    for left, one in zip(rows, hashes, strict=True):
        for right, other in zip(rows, hashes, strict=True):
            same = all(a == b or (a != a and b != b) for a, b in zip(left, right, strict=True))
            assert (one == other) == same
