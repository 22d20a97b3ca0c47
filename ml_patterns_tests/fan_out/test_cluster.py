"""Laptop to cluster by one setting: the same bytes, the same manners."""

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ml_patterns.fan_out.cluster import train_on_cluster
from ml_patterns.fan_out.pool import Failed, Job, Trained, train_job, train_regions
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for
from ml_patterns_tests.fan_out.test_pool import PATIENCE, job_for

distributed = pytest.importorskip(
    "distributed", reason="the Dask backend needs the package distributed: pip install distributed"
)

pytestmark = pytest.mark.slow


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster that runs already, of two workers, as DASK_SCHEDULER_ADDRESS would name it."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        import dask

        with dask.config.set({"scheduler-address": cluster.scheduler_address}):
            yield cluster.scheduler_address


def misbehave(job: Job) -> tuple[Trained, ...]:
    """Trains, unless the region's name asks for something else."""
    match job.regions[0]:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "endless":
            while True:
                time.sleep(60)
        case "raises":
            raise ArithmeticError("no such luck")
    return train_job(job)


def test_the_same_artifacts_as_in_the_local_pool(tmp_path: Path, scheduler: str) -> None:
    """Addresses are hashes of model text and card."""
    jobs = [job_for(tmp_path, f"region {number}", rows=300 + number) for number in range(4)]
    local = {
        each.region: each.artifact for each in train_regions(jobs, workers=2, timeout=PATIENCE)
    }
    remote = {
        each.region: each.artifact
        for each in train_on_cluster(jobs[::-1], workers=0, timeout=PATIENCE)
    }
    assert remote == local


def test_failures_are_named_and_cost_no_other_region_its_model(tmp_path: Path) -> None:
    """An exception, a killed worker and an endless one, on a cluster started for the batch."""
    regions = ["a", "killed", "b", "endless", "c", "raises", "d"]
    jobs = [job_for(tmp_path, region) for region in regions]

    found = {
        each.region: each
        for each in train_on_cluster(jobs, workers=2, timeout=timedelta(seconds=20), work=misbehave)
    }

    failed = {region: found[region] for region in ("killed", "endless", "raises")}
    assert all(isinstance(outcome, Failed) for outcome in failed.values())
    assert "killed" in failed["killed"].reason
    assert "training.region_timeout 20s" in failed["endless"].reason
    assert "ArithmeticError: no such luck" in failed["raises"].reason
    store = ArtifactStore(str(tmp_path / "artifacts"))
    for region in "abcd":
        assert store.get(found[region].artifact).card.region == region


def test_one_setting_moves_a_batch_to_the_cluster(house: House, scheduler: str) -> None:
    """And back: what the cluster trained is unchanged for the local pool."""
    house.holds(made_up("eu"), made_up("us"), made_up("tiny", 3))
    regions = ("eu", "us", "tiny")
    there = house.train(*regions, settings=settings_for(backend="dask"))
    assert {result.status for result in there.values()} == {"trained"}
    here = house.train(*regions, settings=settings_for())
    assert {result.status for result in here.values()} == {"unchanged"}
