"""A hundred models and none lost; a thousand in one run."""

import os
import signal
import time

import dagster as dg
import pandas as pd
import pytest

from ml_patterns.fan_out.pool import Job, Trained, train_job
from ml_patterns.registry.regions import add_regions
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for
from ml_patterns_tests.fan_out.test_assets import KEY, failure_of, run
from ml_patterns_tests.fan_out.test_leaderboard import board_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

SETTINGS = settings_for(workers=2, max_rounds=10, region_timeout="15s")
SOUND = [f"region_{number:03d}" for number in range(95)]
ODD = ["a_killed", "an_endless", "a_raising", "flat", "tiny"]
FAILING = {"a_killed", "an_endless", "a_raising"}


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
        assert all(f"{region}: " in failure_of(first) for region in FAILING)
        assert instance.get_materialized_partitions(KEY) == set(everyone) - FAILING
        kinds = {
            region: house.registry.latest("parcels", region).kind
            for region in [*SOUND, "flat", "tiny"]
        }
        assert kinds == {**dict.fromkeys(SOUND, "own"), "flat": "pooled", "tiny": "pooled"}
        assert house.registry.champions("parcels") == champions
        board = board_of(house, *everyone, **dict.fromkeys(FAILING, "failed"))
        assert {entry.region for entry in board} == set(everyone)
        assert {entry.region for entry in board if entry.problem} == FAILING

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
