"""A hundred models and none lost; a thousand in one run."""

import os
import signal
import time
from collections.abc import Iterable

import dagster as dg
import pandas as pd
import pytest

from ml_patterns.fan_out.pool import Job, Trained, train_job
from ml_patterns.registry.regions import add_regions
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for
from ml_patterns_tests.fan_out.test_assets import KEY, failure_of, run
from ml_patterns_tests.fan_out.test_leaderboard import fan_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

SETTINGS = settings_for(workers=2, max_rounds=10, region_timeout="15s")
SOUND = [f"region_{number:03d}" for number in range(95)]
ODD = ["a_killed", "an_endless", "a_raising", "flat", "tiny"]
WHY = {
    "a_killed": "its worker was killed by signal 9 twice",
    "an_endless": "it took longer than training.region_timeout 15s",
    "a_raising": "training raised ArithmeticError: no such luck",
}
FAILING = set(WHY)
POOLED = {
    "flat": "pooled model of all regions: its 300 labelled rows are all of one class",
    "tiny": "pooled model of all regions: its 3 labelled rows are fewer than training.min_rows 200",
}


def mostly(job: Job) -> tuple[Trained, ...]:
    """Trains, but for three regions."""
    match job.regions[0]:
        case "a_killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "an_endless":
            while True:
                time.sleep(60)
        case "a_raising":
            raise ArithmeticError("no such luck")
    return train_job(job)


def models_of(house: House, regions: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Region -> kind of its newest model, and why, as its card says."""
    store, found = ArtifactStore(house.artifacts), {}
    for region in regions:
        card = store.get(house.registry.latest("parcels", region).artifact).card
        found[region] = (card.kind, card.reason)
    return found


def assert_the_board_is_complete(house: House, everyone: list[str]) -> None:
    """97 regions with a new model, and the three others with what they serve and what happened."""
    with house.warehouse.connect(read_only=True) as connection:
        rows = connection.execute(
            "SELECT rank, region, version, kind, served_version, problem "
            "FROM parcels.leaderboard ORDER BY rank"
        ).fetchall()
    assert [row[0] for row in rows] == list(range(1, 101))
    assert sorted(row[1] for row in rows) == everyone
    got_one = {region: tuple(rest) for _, region, *rest, problem in rows if not problem}
    assert got_one == {
        **dict.fromkeys(SOUND, (1, "own", None)),
        **dict.fromkeys(POOLED, (1, "pooled", None)),
    }
    failed = {region: (tuple(rest), problem) for _, region, *rest, problem in rows if problem}
    assert failed.keys() == FAILING
    for region, (stands, problem) in failed.items():
        assert stands == (1, "own", 1), "what it serves"
        assert WHY[region] in problem


def test_of_a_hundred_regions_three_fail_and_none_is_lost(house: House) -> None:
    """95 own models, two regions on the pooled one, three named failures with their champions."""
    flat = made_up("flat", 300).assign(label=pd.array([False] * 300, dtype="boolean"))
    sound = [made_up(region, 400) for region in SOUND]
    failing = [made_up(region, 400) for region in sorted(FAILING)]
    everyone = sorted([*SOUND, *ODD])
    add_regions(house.registry.engine, "parcels", everyone)
    house.holds(*failing, made_up("tiny", 3), flat, *sound)
    before = house.train(*sorted(FAILING), settings=SETTINGS)
    for result in before.values():
        house.registry.promote(
            result.version, expected_generation=0, decision=result.decision, actor="me", reason="t"
        )
    champions = house.registry.champions("parcels")
    changed = [made_up(region, 410) for region in sorted(FAILING)]
    house.holds(*changed, made_up("tiny", 3), flat, *sound)

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parcels_region", everyone)
        first = run(instance, house, everyone[0], everyone[-1], settings=SETTINGS, work=mostly)

        assert not first.success
        assert "3 of 100 regions failed" in failure_of(first)
        for region, why in WHY.items():
            assert f"{region}: {why}" in failure_of(first)
        assert instance.get_materialized_partitions(KEY) == set(everyone) - FAILING
        own, pooled = models_of(house, SOUND), models_of(house, POOLED)
        assert {kind for kind, _ in own.values()} == {"own"}
        assert all(why.startswith("own model: 400 labelled rows") for _, why in own.values())
        assert pooled == {region: ("pooled", why) for region, why in POOLED.items()}
        assert house.registry.champions("parcels") == champions
        assert fan_in(instance, house, SETTINGS).success
        assert_the_board_is_complete(house, everyone)

        again = run(instance, house, everyone[0], everyone[-1], settings=SETTINGS)

        assert again.success
        statuses = {
            event.partition: event.step_materialization_data.materialization.metadata["status"]
            for event in again.all_events
            if event.is_step_materialization
        }
        trained = {region for region, status in statuses.items() if status.value == "trained"}
        assert trained == FAILING


def test_a_thousand_regions_in_one_run(house: House) -> None:
    """Every one has its materialization and its verdict."""
    regions = [f"region_{number:04d}" for number in range(1000)]
    house.holds(*(made_up(region, 120) for region in regions))
    settings = settings_for(workers=2, max_rounds=3, min_rows=50, min_positives=5)

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parcels_region", regions)
        assert run(instance, house, regions[0], regions[-1], settings=settings).success
        assert instance.get_materialized_partitions(KEY) == set(regions)
    decided = {decision.region for decision in house.registry.decisions("parcels")}
    assert decided == set(regions)
