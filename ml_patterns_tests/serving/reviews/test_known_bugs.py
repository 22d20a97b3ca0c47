"""What went wrong with human decisions in Airflow, as promises of ours.

A response at the moment of the time-out; a clock that starts before the question can be seen; a
question that occupies a worker; one that is pending after its run is gone; a route without auth.
"""

import multiprocessing
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import httpx
import pytest
from fastapi.routing import APIRoute

from ml_patterns.branching import commands
from ml_patterns.branching.policy import Policy
from ml_patterns.errors import StaleDecisionError
from ml_patterns.registry.journal import RegionLock
from ml_patterns.registry.registry import Registry
from ml_patterns.serving.app import create_app
from ml_patterns.serving.settings import ServerSettings
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.registry.conftest import postgres, url
from ml_patterns_tests.serving.conftest import Server
from ml_patterns_tests.serving.reviews.site import Site
from ml_patterns_tests.serving.reviews.test_races import ask

__all__ = ["postgres", "url"]

context = multiprocessing.get_context("spawn")


def clocked(site: Site, now: datetime) -> Registry:
    return Registry(site.house.registry.engine, lambda: now)


def test_an_answer_at_the_moment_of_the_time_out_is_an_expiry(site: Site) -> None:
    review = site.ask()
    with pytest.raises(StaleDecisionError, match=r"was not answered by .* and expired"):
        commands.approve(
            clocked(site, review.expires_at), review.id, reviewer="ada", reason="just in time"
        )
    assert site.house.registry.review(review.id).state == "expired"
    assert not site.deploy().promoted


def test_an_answer_just_before_the_time_out_counts_even_if_the_expiry_looks_first(
    site: Site,
) -> None:
    review = site.ask()
    before = review.expires_at - timedelta(microseconds=1)
    assert clocked(site, before).expire_reviews() == []
    commands.approve(clocked(site, before), review.id, reviewer="ada", reason="just in time")
    assert clocked(site, review.expires_at).expire_reviews() == []
    assert site.deploy().promoted


def test_the_clock_starts_when_the_review_can_be_seen(url: str) -> None:
    """Whoever waits for the region's lock has not asked yet."""
    engine = engine_for(url)
    times = [datetime(2026, 1, 5, hour, tzinfo=UTC) for hour in range(10, 20)]
    hour = iter(times)
    registry = Registry(engine, lambda: next(hour))
    waiting = threading.Event()

    with engine.begin() as connection:
        held = RegionLock.take(connection, "shop", "eu", lambda: times[0])
        assert held.now == times[0]

        def work() -> None:
            waiting.set()
            ask(registry, "eu", "a", "rows")

        worker = threading.Thread(target=work)
        worker.start()
        waiting.wait(30)
        worker.join(0.5)  # until it waits for the lock, or has wrongly got through
        assert worker.is_alive()
        released_at = next(hour)  # nobody but us has looked at the clock so far
        assert released_at == times[0]
    worker.join()
    (review,) = registry.reviews("shop")
    assert review.requested_at > released_at
    assert review.expires_at - review.requested_at == Policy().review_expires_after
    engine.dispose()


def test_a_waiting_review_occupies_no_run_and_no_thread(site: Site, tmp_path: Path) -> None:
    from ml_patterns_tests.branching import test_assets

    settings = test_assets.settings.__wrapped__()  # type: ignore[attr-defined]
    settings = settings.model_copy(update={"gate": site.policy})
    review = site.ask()
    threads = threading.active_count()
    (tmp_path / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance:
        instance.add_dynamic_partitions("shop_region", ["eu"])
        asked = test_assets.run(settings, site.shop, instance, "eu")
        assert asked.success
        assert test_assets.deployed(asked) == []
        running = [run for run in instance.get_runs() if not run.is_finished]
        assert (running, site.house.registry.review(review.id).state) == ([], "pending")
        assert threading.active_count() <= threads

        commands.approve(site.house.registry, review.id, reviewer="ada", reason="looks right")
        assert test_assets.deployed(test_assets.run(settings, site.shop, instance, "eu")) == ["eu"]


def judge_and_die(folder: str) -> None:
    """A run that is killed the moment after it asked."""
    Site(Path(folder)).ask()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_review_outlives_the_run_that_asked(site: Site) -> None:
    process = context.Process(target=judge_and_die, args=(str(site.folder),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (review,) = site.house.registry.reviews("shop")
    commands.approve(site.house.registry, review.id, reviewer="ada", reason="looks right")
    assert site.deploy().promoted


def test_nothing_is_pending_for_what_can_no_longer_be_deployed(site: Site) -> None:
    """Another model was deployed by force meanwhile: the question is closed, not forgotten."""
    review = site.ask(seed=1)
    site.shop.registry.register(
        pipeline="shop", region="eu", artifact="forced", kind="own", training_key="forced"
    )
    forced = site.shop.registry.latest("shop", "eu")
    assert forced is not None
    decision = site.shop.registry.record_decision(
        forced,
        verdict="deploy",
        reason="an emergency",
        evidence={},
        policy=site.policy,
        test_fingerprint="other rows",
        champion_generation=0,
    )
    site.shop.registry.promote(
        forced, expected_generation=0, decision=decision, actor="ops", reason="an emergency"
    )
    closed = site.house.registry.review(review.id)
    assert (closed.state, site.house.registry.reviews()) == ("voided", [])
    assert "changed since it was requested" in (closed.reason or "")


def test_every_route_of_the_pages_asks_who_it_is(site: Site, server: Server) -> None:
    """A route that is added later is asked, too."""
    review = site.ask()
    app = create_app(site.house.registry, site.shop.store, ServerSettings())
    routes = [
        (method, route.path.replace("{number:int}", str(review.id)))
        for route in _routes(app.routes)
        if route.path.startswith("/reviews") and not route.path.endswith("/login")
        for method in sorted(route.methods)
    ]
    assert len(routes) >= 4
    for method, path in routes:
        data = {"answer": "approve", "reason": "hm"} if method == "POST" else None
        response = httpx.request(method, server.url + path, data=data, timeout=30)
        assert response.status_code == 401, (method, path)
    assert site.house.registry.review(review.id).state == "pending"


def _routes(routes: object) -> list[APIRoute]:
    """All routes; newer versions of FastAPI keep those of a router together."""
    found: list[APIRoute] = []
    for route in routes:  # type: ignore[attr-defined]
        if isinstance(route, APIRoute):
            found.append(route)
        elif hasattr(route, "original_router"):
            found += _routes(route.original_router.routes)
        elif hasattr(route, "routes"):
            found += _routes(route.routes)
    return found
