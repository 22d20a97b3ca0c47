"""Promise: all processes together retry no more than the budget allows."""

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_patterns.retry.budget import RetryBudget
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.retry.virtual import VirtualTime

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def noon() -> datetime:
    return NOON


def spend_in_a_process(url: str, requests: int, granted: "multiprocessing.Queue[int]") -> None:
    # Patient: what a process does that cannot have the database soon is another test's matter.
    budget = RetryBudget(engine_for(url), ratio=0.1, floor=10, clock=noon, patience_ms=60_000)
    count = 0
    for _ in range(requests):
        budget.requested()
        count += budget.spend()
    granted.put(count)


def test_processes_share_one_budget(url: str) -> None:
    """Four processes of 100 requests that all fail: 40 retries, not 4 x 10 and 4 x 10."""
    engine_for(url)
    spawn = multiprocessing.get_context("spawn")
    granted: multiprocessing.Queue[int] = spawn.Queue()
    processes = [
        spawn.Process(target=spend_in_a_process, args=(url, 100, granted)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    total = sum(granted.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert total <= 40
    assert total >= 10


def test_one_process_gets_a_tenth_or_the_floor(url: str) -> None:
    engine = engine_for(url)
    few = RetryBudget(engine, ratio=0.1, floor=10, name="few", clock=noon)
    many = RetryBudget(engine, ratio=0.1, floor=10, name="many", clock=noon)
    for _ in range(20):
        few.requested()
    for _ in range(1000):
        many.requested()
    assert sum(few.spend() for _ in range(50)) == 10
    assert sum(many.spend() for _ in range(500)) == 100


def test_a_new_minute_brings_a_new_budget(url: str) -> None:
    time = VirtualTime()
    budget = RetryBudget(engine_for(url), ratio=0, floor=2, clock=time.now)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    time.sleep(60)
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_a_request_that_needs_no_retry_writes_nothing(url: str) -> None:
    engine, statements = engine_for(url), []
    sa.event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    RetryBudget(engine, ratio=0.1, floor=10).requested()
    assert statements == []


def test_without_the_database_the_process_keeps_to_the_rule_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = sa.create_engine(f"sqlite:///{tmp_path / 'missing' / 'state.sqlite'}")
    budget = RetryBudget(nowhere, ratio=0.1, floor=3, clock=noon)
    assert sum(budget.spend() for _ in range(10)) == 3
    assert "this process alone" in caplog.text
