"""`ml-patterns dev` left alone while files land: everything follows, once, without a click."""

from pathlib import Path

import pandas as pd
import pytest

from ml_patterns.sandbox.upstream import serve_upstream
from ml_patterns_tests.operations.platform import Platform, running_platform
from ml_patterns_tests.operations.shop import ORDERS, REGIONS, Shop, orders, unlabelled

pytestmark = pytest.mark.slow

DAYS = 12
"""Days that land first; one more lands later."""

LATE = 4
"""Orders of the last of those days that land with the day after, per region."""


def forgotten() -> pd.DataFrame:
    """Orders of the last of the first days that nobody had told of."""
    rows = unlabelled(orders(99, LATE))
    back = pd.Timedelta(days=99 - (DAYS - 1))
    return rows.assign(ordered_at=rows["ordered_at"] - back, recorded_at=rows["recorded_at"] - back)


def predicted(platform: Platform, day: int) -> int:
    """Orders of a day that were answered."""
    ((count,),) = platform.query(
        "SELECT count(DISTINCT event_id) FROM shop.predictions "
        f"WHERE partition_start = TIMESTAMP '2025-01-06' + INTERVAL {day} DAYS"
    ) or [(0,)]
    return int(count)


def built(platform: Platform, layer: str, since: int = 0) -> list[int]:
    """Days that were computed, in order, all but the first `since`."""
    rows = platform.query(
        "SELECT date_diff('day', TIMESTAMP '2025-01-06', partition_start) FROM shop.run_cost "
        f"WHERE layer = '{layer}' ORDER BY computed_at, partition_start"
    )
    return [row[0] for row in rows][since:]


def test_what_lands_is_followed_to_its_predictions_and_nothing_runs_twice(tmp_path: Path) -> None:
    shop = Shop.build(tmp_path / "shop")
    with serve_upstream() as weather:
        environment = {
            "SHOP_WEATHER": f"{weather.url}/v1/archive?daily=rain_sum",
            "ML_PATTERNS_SENSOR_SECONDS": "3",
        }
        for day in range(DAYS):
            shop.land(day)
        with running_platform(shop.root, environment) as platform:
            the_first_days_are_followed(platform)
            a_later_day_costs_what_changed(platform, shop)
            assert platform.failed_looks() == []
            assert "code location name" not in platform.log()  # Dagster warned of ours at each load


def the_first_days_are_followed(platform: Platform) -> None:
    everyone = len(REGIONS) * ORDERS
    platform.await_("aggregates", lambda: len(set(built(platform, "aggregates"))) == DAYS)
    platform.await_("features", lambda: len(set(built(platform, "features"))) == DAYS)
    platform.await_("champions", lambda: len(platform.registry().champions("shop")) == 2)
    platform.await_("predictions", lambda: predicted(platform, DAYS - 1) == everyone)
    platform.await_quiet()

    champions = platform.registry().champions("shop")
    assert {champion.region for champion in champions} == {"north", "south"}
    rejected = platform.registry().latest_decision("shop", "west")
    assert rejected is not None
    assert str(rejected.verdict) == "reject"
    board = platform.query("SELECT region, served_version FROM shop.leaderboard ORDER BY region")
    assert board == [("north", 1), ("south", 1), ("west", None)]
    sources = platform.query("SELECT DISTINCT region, source FROM shop.predictions ORDER BY region")
    assert sources == [("north", "live"), ("south", "live"), ("west", "base_rate")]
    assert platform.query("SELECT sum(rows) FROM shop.prediction_quality") == [(everyone,)]
    assert platform.query("SELECT count(rain) FROM shop.event_features") == [(DAYS * everyone,)]


def a_later_day_costs_what_changed(platform: Platform, shop: Shop) -> None:
    runs = len(platform.runs())
    before = {layer: len(built(platform, layer)) for layer in ("aggregates", "features")}
    shop.land(DAYS, forgotten())
    everyone = len(REGIONS) * ORDERS
    platform.await_("its predictions", lambda: predicted(platform, DAYS) == everyone)
    platform.await_quiet()

    assert predicted(platform, DAYS - 1) == everyone + len(REGIONS) * LATE
    assert sorted(built(platform, "aggregates", before["aggregates"])) == [DAYS - 1, DAYS]
    # The new day once more where its weather came after its orders.
    assert set(built(platform, "features", before["features"])) == {DAYS - 1, DAYS}
    # The overview looks once an hour, whatever happens.
    jobs = [name for name in platform.jobs(since=runs) if name != "shop_overview_job"]
    assert jobs.count("shop_ingest_job") == 1
    assert jobs.count("shop_external_job") == 1
    assert "shop_quality_job" in jobs
    assert "shop_training_job" not in jobs  # training.retrain_share asks for half of the rows
    assert len(jobs) <= 12, jobs
