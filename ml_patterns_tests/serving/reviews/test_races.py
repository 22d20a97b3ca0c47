"""Two reviewers, the expiry and a retraining at the same moment, in real processes."""

import multiprocessing
import multiprocessing.synchronize
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ml_patterns.base import utc_now
from ml_patterns.branching import commands
from ml_patterns.branching.policy import Policy
from ml_patterns.errors import ConflictError
from ml_patterns.registry.outbox import notifications
from ml_patterns.registry.records import Review
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.registry.conftest import postgres, url

__all__ = ["postgres", "url"]

ROUNDS = 12
WHO = ("ada", "grace", "expiry", "retraining")
context = multiprocessing.get_context("spawn")
Barrier = multiprocessing.synchronize.Barrier
Queue = Any  # multiprocessing's queue has no public type


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    engine = engine_for(url)
    yield Registry(engine)
    engine.dispose()


def ask(registry: Registry, region: str, artifact: str, rows: str, pipeline: str = "shop") -> None:
    version = registry.register(
        pipeline=pipeline, region=region, artifact=artifact, kind="own", training_key=artifact
    )
    registry.record_decision(
        version,
        verdict="review",
        reason="accuracy 0.93",
        evidence={},
        policy=Policy(),
        test_fingerprint=rows,
        champion_generation=0,
    )


def compete(barrier: Barrier, reports: Queue, url: str, who: str) -> None:
    """One of those who want the same review, round after round."""
    registry = Registry(engine_for(url))
    for turn in range(ROUNDS):
        barrier.wait()  # the review of this round is there
        (review,) = registry.reviews(f"shop{turn}")
        barrier.wait()  # everybody has seen it
        reports.put((turn, who, attempt(registry, review, who)))
        barrier.wait()  # everybody is done


def attempt(registry: Registry, review: Review, who: str) -> str:
    try:
        if who == "ada":
            commands.approve(registry, review.id, reviewer=who, reason="looks right")
        elif who == "grace":
            commands.reject(registry, review.id, reviewer=who, reason="looks wrong")
        elif who == "expiry":
            at = review.expires_at
            late = Registry(registry.engine, lambda: at)
            return "won" if late.expire_reviews(review.pipeline) else "lost: answered before"
        else:
            ask(registry, review.region, "newer", "newer rows", review.pipeline)
            return "done"
    except ConflictError as error:
        return f"lost: {error}"
    return "won"


def test_one_wins_and_the_others_learn_who_when_and_why(
    url: str,
    registry: Registry,
) -> None:
    barrier, reports = context.Barrier(len(WHO) + 1), context.Queue()
    processes = [context.Process(target=compete, args=(barrier, reports, url, who)) for who in WHO]
    for process in processes:
        process.start()
    said: dict[int, dict[str, str]] = {turn: {} for turn in range(ROUNDS)}
    try:
        for turn in range(ROUNDS):
            ask(registry, "eu", "first", "rows", f"shop{turn}")
            barrier.wait(60)
            barrier.wait(60)
            for _ in WHO:
                number, who, report = reports.get(timeout=60)
                said[number][who] = report
            barrier.wait(60)
    except BaseException:
        barrier.abort()
        raise
    finally:
        for process in processes:
            process.join(30)
    assert [process.exitcode for process in processes] == [0] * len(WHO)

    winners: Counter[str] = Counter()
    for turn, reports_of in said.items():
        winners[check_round(registry, f"shop{turn}", reports_of)] += 1
    assert sum(winners.values()) == ROUNDS
    kinds = Counter(note.kind for note in notifications(registry.engine))
    assert kinds["review_requested"] == 2 * ROUNDS
    assert registry.champions() == []


def check_round(registry: Registry, pipeline: str, said: dict[str, str]) -> str:
    """Holds what everybody was told against the audit log; who won."""
    trail = [row for row in registry.audit(pipeline) if row.version == 1]
    (first,) = (row for row in trail if row.from_state == "pending_review")
    closed = first.action.removeprefix("review_")
    winner = {"approved": "ada", "rejected": "grace", "expired": "expiry", "voided": "retraining"}[
        closed
    ]
    assert [who for who in WHO[:3] if said[who] == "won"] == [winner] * (winner in WHO[:3])
    assert said["retraining"] == "done"
    (review,) = (each for each in registry.reviews(pipeline, None) if each.version == 1)
    # An approval that was not deployed yet is void, too, when the model is trained anew.
    after = [row.action for row in trail[trail.index(first) + 1 :]]
    assert after == (["review_voided"] if winner == "ada" else [])
    assert review.state == ("voided" if after else closed)
    for loser in {"ada", "grace"} - {winner}:
        report = said[loser]
        assert report.startswith("lost: review "), report
        assert any(word in report for word in ("already", "void", "expired")), report
    assert [newer.version for newer in registry.reviews(pipeline)] == [2]
    return winner


def test_the_expiry_takes_nothing_back(registry: Registry) -> None:
    """It once counted a review among the expired that was answered while it waited."""
    ask(registry, "eu", "first", "rows")
    (review,) = registry.reviews("shop")

    class Overtaken(Registry):
        def reviews(self, *arguments: Any, **named: Any) -> list[Review]:
            found = super().reviews(*arguments, **named)
            commands.approve(registry, review.id, reviewer="ada", reason="looks right")
            return found

    late = Overtaken(registry.engine, lambda: review.expires_at + timedelta(days=1))
    assert late.expire_reviews("shop") == []
    assert registry.review(review.id).state == "approved"


def test_a_reminder_is_sent_once_and_only_while_it_helps(registry: Registry) -> None:
    ask(registry, "eu", "first", "rows")
    (review,) = registry.reviews("shop")
    day = timedelta(days=1)
    for left, due in ((2 * day, False), (day, True), (day / 2, True), (timedelta(0), False)):
        at = review.expires_at - left
        reminded = Registry(registry.engine, lambda at=at: at).remind_of_reviews(day)
        assert bool(reminded) == due
    (note,) = (n for n in notifications(registry.engine) if n.kind == "review_reminder")
    assert note.payload["review"] == review.id
    assert utc_now() < review.expires_at
