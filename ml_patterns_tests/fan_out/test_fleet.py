"""From rows to verdicts: every region ends somewhere, and what has not changed is not repeated."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import NothingToTrainError
from ml_patterns.fan_out.batch import read_batch
from ml_patterns.fan_out.fleet import Fleet
from ml_patterns.fan_out.pool import Job, Trained, train_job
from ml_patterns.fan_out.training import train
from ml_patterns.fan_out.unchanged import member_key
from ml_patterns.incremental import ledger
from ml_patterns.registry.records import Verdict
from ml_patterns_tests.fan_out.conftest import COLUMNS, House, made_up, settings_for

SETTINGS = settings_for()


def must_not_train(job: Job) -> tuple[Trained, ...]:
    """For runs in which nothing changed."""
    raise AssertionError(f"{job.regions} were trained again")


def kills_asia(job: Job) -> tuple[Trained, ...]:
    """Trains every region but one."""
    if "asia" in job.regions:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_job(job)


def constant(region: str) -> pd.DataFrame:
    """Rows of one class."""
    frame = made_up(region)
    return frame.assign(label=pd.array([False] * len(frame), dtype="boolean"))


def test_every_region_ends_somewhere_with_a_reason(house: House) -> None:
    """Own models, the pooled model for a constant label and three rows, a death, nothing at all."""
    house.holds(made_up("eu"), made_up("us"), made_up("asia"), constant("flat"), made_up("tiny", 3))

    found = house.train(
        "eu", "flat", "asia", "tiny", "us", "nowhere", settings=SETTINGS, work=kills_asia
    )

    assert {region: result.status for region, result in found.items()} == {
        "eu": "trained",
        "us": "trained",
        "flat": "trained",
        "tiny": "trained",
        "asia": "failed",
        "nowhere": "none",
    }
    assert found["eu"].card.kind == found["us"].card.kind == "own"
    assert found["flat"].card.kind == found["tiny"].card.kind == "pooled"
    assert "all of one class" in found["flat"].reason
    assert "3 labelled rows are fewer than training.min_rows 200" in found["tiny"].reason
    assert "killed by signal 9" in found["asia"].reason
    assert "no labelled rows" in found["nowhere"].reason
    assert found["eu"].decision.verdict is Verdict.DEPLOY
    assert found["tiny"].decision.verdict is not Verdict.DEPLOY, "too few rows to judge"
    with house.warehouse.connect() as connection:
        assert connection.execute("SELECT 1").fetchone(), "nobody holds the warehouse"


def test_the_same_range_again_trains_only_what_failed(house: House) -> None:
    """Unchanged regions keep their version and their verdict; the failed one is trained."""
    house.holds(made_up("eu"), made_up("asia"), made_up("tiny", 3))
    regions = ("eu", "asia", "tiny")
    first = house.train(*regions, settings=SETTINGS, work=kills_asia)
    decisions = len(house.registry.decisions("parcels"))

    again = house.train(*regions, settings=SETTINGS)

    assert [again[region].status for region in regions] == ["unchanged", "trained", "unchanged"]
    for region in ("eu", "tiny"):
        assert again[region].version.number == first[region].version.number
        assert again[region].decision == first[region].decision
    assert len(house.registry.decisions("parcels")) == decisions + 1
    house.train(*regions, settings=SETTINGS, work=must_not_train)


def test_the_key_that_a_batch_looks_up_is_the_one_that_training_finds(house: House) -> None:
    """The batch keeps its rows in Arrow, and a worker is told the key."""
    gaps = made_up("eu", 700).assign(weather=lambda rows: rows["weather"].where(rows.index % 7 > 0))
    house.holds(gaps, made_up("tiny", 3))
    found = house.train("eu", "tiny", settings=SETTINGS)

    options = {"label_delay": SETTINGS.events.label_delay, "watermark": None, "pipeline": "parcels"}
    own = train(gaps, COLUMNS, SETTINGS.training, region="eu", **options)
    everybody = pd.concat([made_up("tiny", 3), gaps])
    pooled = train(everybody, COLUMNS, SETTINGS.training, region="*", kind="pooled", **options)

    assert found["eu"].card.training_key == own.card.training_key
    assert found["tiny"].card.training_key == member_key(pooled.card.training_key, "tiny")


def test_a_batch_of_other_company_is_still_unchanged(house: House) -> None:
    """Pandas gives an integer column another type when a region of the batch misses a value."""
    gaps = made_up("gaps")
    gaps["parcels"] = gaps["parcels"].astype("Int64").where(gaps.index % 5 != 0)
    house.holds(made_up("eu").astype({"parcels": "Int64"}), gaps)
    together = house.train("eu", "gaps", settings=SETTINGS)

    alone = house.train("eu", settings=SETTINGS, work=must_not_train)

    assert alone["eu"].status == "unchanged"
    assert alone["eu"].decision == together["eu"].decision
    assert len(house.registry.versions("parcels", "eu")) == 1


def test_changed_rows_train_a_new_version_and_force_trains_anyway(trained: House) -> None:
    """Forced on the same rows, the artifact and so the version is the same."""
    first, _ = trained.newest("eu")
    forced = trained.train("eu", settings=SETTINGS, force=True)["eu"]
    trained.holds(made_up("eu", 700))
    changed = trained.train("eu", settings=SETTINGS)["eu"]

    assert (forced.status, forced.version.number) == ("trained", first.number)
    assert (changed.status, changed.version.number) == ("trained", first.number + 1)


def test_a_new_policy_judges_again_without_training(trained: House) -> None:
    """The model is the same; the verdict need not be."""
    assert trained.newest("eu")[1].verdict is Verdict.DEPLOY
    strict = SETTINGS.model_copy(update={"gate": Policy(deploy_at=0.999, review_at=0.998)})

    judged = trained.train("eu", settings=strict, work=must_not_train)["eu"]

    assert (judged.status, judged.decision.verdict) == ("unchanged", Verdict.REJECT)
    assert judged.decision.evidence["probe"]["reproduces"] is True


def test_a_champion_is_not_judged_again_for_having_become_one(trained: House) -> None:
    """A promotion changes the generation that the decision was bound to, not the evidence."""
    _, decision = trained.newest("eu")
    trained.promote_newest("eu")

    again = trained.train("eu", settings=SETTINGS, work=must_not_train)["eu"]

    assert again.decision == decision


def waits_for_the_verdict_on_eu(job: Job) -> tuple[Trained, ...]:
    """Trains region us only when a file says that eu is judged."""
    while job.regions == ("us",) and not (Path(job.artifacts) / "eu_is_judged").exists():
        time.sleep(0.01)
    return train_job(job)


def waits_for_somebody(job: Job) -> tuple[Trained, ...]:
    """Trains region eu; the others wait for what never comes."""
    while job.regions != ("eu",):
        time.sleep(60)
    return train_job(job)


def probes() -> list[str]:
    """Processes of ours that probe artifacts."""
    children = " ".join(each.read_text() for each in Path("/proc/self/task").glob("*/children"))
    started = [Path("/proc", child, "cmdline").read_text() for child in children.split()]
    return [command for command in started if "branching.probe" in command]


def test_what_is_done_is_judged_while_others_are_still_being_trained(house: House) -> None:
    """A verdict does not wait for the slowest region; here the slowest waits for the verdict."""
    house.holds(made_up("eu", 700), made_up("us"), made_up("asia", 650))
    settings = settings_for(region_timeout="60s")
    with house.warehouse.connect(read_only=True) as connection:
        batch = read_batch(connection, settings, ["eu", "us", "asia"])
    fleet = Fleet(house.registry, house.artifacts)
    results = fleet.train(batch, work=waits_for_the_verdict_on_eu)

    first = next(results)
    assert (first.region, first.decision.verdict) == ("eu", Verdict.DEPLOY)
    (Path(house.artifacts) / "eu_is_judged").touch()
    second = next(results)
    assert (second.region, second.status) == ("asia", "trained")
    assert len(probes()) == 1, "one process probes the whole batch"
    results.close()
    assert not multiprocessing.active_children(), "a cancelled run leaves no worker behind"
    assert not probes(), "nor the process that probes"


def test_a_run_that_ends_early_is_taken_up_where_it_ended(house: House) -> None:
    """What was judged before stays as it is; what was left is trained."""
    house.holds(made_up("eu", 700), made_up("us"), made_up("asia", 650))
    regions = ["asia", "eu", "us"]
    with house.warehouse.connect(read_only=True) as connection:
        batch = read_batch(connection, SETTINGS, regions)
    results = Fleet(house.registry, house.artifacts).train(batch, work=waits_for_somebody)
    first = next(results)
    results.close()
    assert {version.region for version in house.registry.versions("parcels")} == {first.region}

    again = house.train(*regions, settings=SETTINGS)

    assert again[first.region].decision == first.decision
    assert {region: result.status for region, result in again.items()} == {
        **dict.fromkeys(regions, "trained"),
        first.region: "unchanged",
    }


def test_a_region_that_fell_silent_keeps_its_champion(trained: House) -> None:
    """No rows of its own any more: what is deployed stays deployed."""
    trained.promote_newest("eu")
    trained.holds(made_up("us"))

    found = trained.train("eu", "us", settings=SETTINGS)["eu"]

    assert (found.status, found.version.number) == ("incumbent", 1)
    assert trained.registry.champion("parcels", "eu").version == 1


def test_regions_without_any_features_are_named_with_the_remedy(house: House) -> None:
    """Before the first features, and for a name that is misspelt."""
    with house.warehouse.connect():
        pass
    expected = "region uranus of pipeline parcels has no labelled features yet; materialize parcels"
    with pytest.raises(NothingToTrainError, match=expected):
        house.train("uranus", settings=SETTINGS)
    house.holds(made_up("eu"))
    with pytest.raises(NothingToTrainError, match=expected):
        house.train("uranus", settings=SETTINGS)


def test_a_batch_is_read_beside_the_ledger(house: House) -> None:
    """A warehouse that holds both, as every real one does: what is at the watermark is left out."""
    frame = made_up("eu")
    house.holds(frame)
    with house.warehouse.connect() as connection:
        ledger.ensure_tables(connection, "parcels")
        connection.execute(
            "INSERT INTO parcels.partition_manifest SELECT partition_start, 1, 'accepted', "
            "count(*), '', max(event_time), NULL FROM parcels.event_features GROUP BY ALL"
        )
    found = house.train("eu", settings=SETTINGS)["eu"]
    assert found.status == "trained"
    assert 0 < found.rows < len(frame)
