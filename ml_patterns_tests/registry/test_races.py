"""Several processes at once, and processes that are killed, on both databases."""

import multiprocessing
import multiprocessing.synchronize
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import ConflictError
from ml_patterns.registry import tables
from ml_patterns.registry.outbox import notifications
from ml_patterns.registry.records import DecisionRecord, ModelVersion
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for

PROCESSES = 4
context = multiprocessing.get_context("spawn")

Barrier = multiprocessing.synchronize.Barrier
Results = Any  # multiprocessing's queue has no public type


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    engine = engine_for(url)
    yield Registry(engine)
    engine.dispose()


def at_once(work: Callable[..., None], *arguments: object) -> list[str]:
    """Runs the work in several processes that start together; what each of them reports."""
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=work, args=(barrier, results, *arguments)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    reports = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return sorted(reports)


def create_schema(barrier: Barrier, results: Results, url: str) -> None:
    barrier.wait()
    try:
        engine = engine_for(url)
        with engine.begin() as connection:
            connection.execute(sa.select(tables.audit))
        results.put("created")
    except Exception as error:
        results.put(repr(error))


def promote(
    barrier: Barrier, results: Results, url: str, version: ModelVersion, decision: DecisionRecord
) -> None:
    registry = Registry(engine_for(url))
    barrier.wait()
    try:
        registry.promote(
            version,
            expected_generation=decision.champion_generation,
            decision=decision,
            actor=f"process {os.getpid()}",
            reason="race",
        )
        results.put("promoted")
    except ConflictError:
        results.put("conflict")


def register(barrier: Barrier, results: Results, url: str) -> None:
    registry = Registry(engine_for(url))
    barrier.wait()
    for artifact in ("a1", "a2", "a3"):
        registered(registry, artifact)
    results.put("registered")


def registered(registry: Registry, artifact: str) -> ModelVersion:
    return registry.register(
        pipeline="shop", region="eu", artifact=artifact, kind="own", training_key=artifact
    )


def judged(registry: Registry, version: ModelVersion, verdict: str = "deploy") -> DecisionRecord:
    return registry.record_decision(
        version,
        verdict=verdict,
        reason="figures",
        evidence={},
        policy=Policy(),
        test_fingerprint="rows",
        champion_generation=registry.generation("shop", "eu"),
    )


def test_processes_that_start_together_create_the_schema_once(url: str) -> None:
    assert at_once(create_schema, url) == ["created"] * PROCESSES


def test_a_race_has_one_promotion_one_audit_row_and_one_notification(
    url: str, registry: Registry
) -> None:
    version = registered(registry, "a1")
    decision = judged(registry, version)
    reports = at_once(promote, url, version, decision)
    assert reports == ["conflict"] * (PROCESSES - 1) + ["promoted"]
    assert registry.generation("shop", "eu") == 1
    actions = [row.action for row in registry.audit("shop", "eu")]
    assert actions.count("promoted") == 1
    assert [note.kind for note in notifications(registry.engine)] == ["promoted"]
    assert len(registry.generations("shop", "eu")) == 1


def test_an_artifact_registered_by_many_has_one_number(url: str, registry: Registry) -> None:
    assert at_once(register, url) == ["registered"] * PROCESSES
    assert sorted(version.number for version in registry.versions("shop")) == [1, 2, 3]


STEPS = (
    "registry_champions",
    "registry_generations",
    "registry_audit",
    "registry_outbox",
    "COMMIT",
)


def die_at(results: Results, url: str, step: str, version: ModelVersion, verdict: str) -> None:
    """Judges and promotes, and is killed right after the first write to `step`."""
    engine = engine_for(url)
    registry = Registry(engine)

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def after_write(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("INSERT", "UPDATE")) and f" {step} " in f"{statement} ":
            kill()

    if verdict:
        decision = judged_when_killed(engine, registry, version, verdict, step, after_write, kill)
    else:
        decision = registry.latest_decision("shop", "eu", version.number)
        assert decision is not None
        arm(engine, step, after_write, kill)
        registry.promote(
            version, expected_generation=0, decision=decision, actor="ada", reason="passed"
        )
    results.put("survived")


def judged_when_killed(
    engine: sa.Engine,
    registry: Registry,
    version: ModelVersion,
    verdict: str,
    step: str,
    after_write: Callable[..., None],
    kill: Callable[..., None],
) -> DecisionRecord:
    arm(engine, step, after_write, kill)
    return judged(registry, version, verdict)


def arm(
    engine: sa.Engine, step: str, after_write: Callable[..., None], kill: Callable[..., None]
) -> None:
    if step == "COMMIT":
        sa.event.listen(engine, "commit", kill)  # called right before the database commits
    else:
        sa.event.listen(engine, "after_cursor_execute", after_write)


def killed(url: str, step: str, version: ModelVersion, verdict: str = "") -> None:
    results = context.Queue()
    process = context.Process(target=die_at, args=(results, url, step, version, verdict))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def counts(registry: Registry) -> tuple[int, ...]:
    with registry.engine.connect() as connection:
        return tuple(
            connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in (
                tables.decisions,
                tables.reviews,
                tables.generations,
                tables.audit,
                tables.outbox,
            )
        )


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_that_is_killed_anywhere_is_done_once_when_run_again(
    url: str, registry: Registry, step: str
) -> None:
    version = registered(registry, "a1")
    decision = judged(registry, version)
    before = counts(registry)
    registry.engine.dispose()
    killed(url, step, version)
    assert counts(registry) == before
    registry.promote(
        version, expected_generation=0, decision=decision, actor="ada", reason="passed"
    )
    assert [row.action for row in registry.audit("shop", "eu")].count("promoted") == 1
    assert [note.kind for note in notifications(registry.engine)] == ["promoted"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    ["registry_decisions", "registry_reviews", "registry_audit", "registry_outbox", "COMMIT"],
)
def test_a_decision_that_is_killed_anywhere_is_recorded_once_when_run_again(
    url: str, registry: Registry, step: str
) -> None:
    version = registered(registry, "a1")
    before = counts(registry)
    registry.engine.dispose()
    killed(url, step, version, "review")
    assert counts(registry) == before
    assert registry.version("shop", "eu", 1).state == "candidate"
    judged(registry, version, "review")
    assert [note.kind for note in notifications(registry.engine)] == ["review_requested"]
    assert len(registry.reviews("shop")) == 1
