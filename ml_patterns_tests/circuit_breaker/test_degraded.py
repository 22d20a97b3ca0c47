"""Promise: what was served degraded is asked for again, exactly that, and once it can help."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from ml_patterns.circuit_breaker.degraded import (
    Degraded,
    contiguous,
    degraded,
    degraded_partitions,
    remember,
    to_heal,
)
from ml_patterns.circuit_breaker.transitions import Circuit
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.retry.virtual import START

HOURS = [datetime(2026, 6, 1, hour, tzinfo=UTC) for hour in range(6)]
LATER = START + timedelta(hours=1)


@pytest.fixture
def engine(url: str) -> sa.Engine:
    return engine_for(url)


def test_a_partition_is_remembered_until_it_heals(engine: sa.Engine) -> None:
    assert remember(engine, "p", {HOURS[0]: True, HOURS[1]: False, HOURS[2]: True}, START) == []
    assert degraded_partitions(engine, "p") == [HOURS[0], HOURS[2]]
    assert degraded_partitions(engine, "other") == []
    assert remember(engine, "p", {HOURS[0]: False, HOURS[2]: True}, LATER) == [HOURS[0]]
    assert degraded(engine, "p") == [Degraded(HOURS[2], START)], "degraded since it first was"
    assert remember(engine, "p", {HOURS[0]: False}, LATER) == [], "healed once"
    remember(engine, "p", {HOURS[0]: True}, LATER)
    assert degraded(engine, "p")[0] == Degraded(HOURS[0], LATER), "and may degrade again"


WAITING = [Degraded(hour, START) for hour in HOURS[:3]]
OPEN = Circuit(state="open", retry_at=LATER)
PROBED = Circuit(state="half-open", lease_until=LATER)
FORCED = Circuit(state="open", retry_at=LATER, forced=True)


@pytest.mark.parametrize(
    ("circuit", "now", "asked"),
    [
        (Circuit(), START, 3),
        (OPEN, START, 0),
        (OPEN, LATER, 1),
        (PROBED, START, 0),
        (PROBED, LATER, 1),
        (FORCED, LATER, 0),
    ],
)
def test_what_is_asked_for_depends_on_the_circuit(
    circuit: Circuit, now: datetime, asked: int
) -> None:
    assert to_heal(circuit, WAITING, now) == WAITING[:asked]


def test_ranges_have_no_gaps_and_nothing_else_in_them() -> None:
    entries = [Degraded(HOURS[number], START) for number in (0, 1, 3, 5)]
    groups = contiguous(entries, timedelta(hours=1))
    assert [[entry.partition_start.hour for entry in group] for group in groups] == [
        [0, 1],
        [3],
        [5],
    ]
    assert contiguous([], timedelta(hours=1)) == []
