"""Promise: a wait never undercuts the server's wish, and never exceeds the cap but for it."""

import random
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_patterns.retry.waits import Backoff, parse_retry_after
from ml_patterns_tests.retry.virtual import START, highest

SECONDS = st.floats(0, 1e4, allow_nan=False)


@given(
    multiplier=st.floats(0.001, 1e3),
    bounds=st.tuples(SECONDS, SECONDS).map(sorted),
    attempt=st.integers(1, 10_000),
    retry_after=st.none() | SECONDS,
    seed=st.integers(),
)
def test_a_wait_lies_between_floor_and_cap_unless_the_server_asks_for_more(
    multiplier: float,
    bounds: list[float],
    attempt: int,
    retry_after: float | None,
    seed: int,
) -> None:
    floor, cap = bounds
    wait = Backoff(multiplier, floor, cap).wait(attempt, random.Random(seed).uniform, retry_after)
    assert wait >= floor
    assert wait >= (retry_after or 0)
    assert wait <= max(cap, retry_after or 0)


def test_the_missions_numbers_give_these_waits() -> None:
    backoff = Backoff(multiplier=1, floor=4, cap=300)
    assert [backoff.wait(attempt, highest) for attempt in range(1, 12)] == [
        *(4, 4, 4, 8, 16, 32, 64, 128, 256, 300, 300)
    ]


@given(st.integers(0, 10**6))
def test_retry_after_reads_what_http_allows(seconds: int) -> None:
    date = format_datetime(datetime.fromtimestamp(START.timestamp() + seconds, UTC), usegmt=True)
    assert parse_retry_after(str(seconds), START) == seconds
    assert parse_retry_after(date, START) == seconds


@pytest.mark.parametrize("text", [None, "", "soon", "-5", "1.5", "inf", "nan", "٣", "1e9"])
def test_a_retry_after_that_says_nothing_is_ignored(text: str | None) -> None:
    assert parse_retry_after(text, START) is None


def test_a_date_in_the_past_asks_for_no_wait() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", START) == 0
