"""Laptop to cluster by one setting: the same bytes, the same manners."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from ml_patterns.fan_out.cluster import train_on_cluster
from ml_patterns.fan_out.pool import Failed, Job, Outcome, Trained, train_job, train_regions
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for
from ml_patterns_tests.fan_out.test_pool import PATIENCE, RAISED, job_for, misbehave

distributed = pytest.importorskip(
    "distributed", reason="the Dask backend needs the package distributed: pip install distributed"
)

pytestmark = pytest.mark.slow


@contextmanager
def cluster_of(workers: int, *, threads_per_worker: int = 1) -> Iterator[str]:
    """A cluster that runs already, as DASK_SCHEDULER_ADDRESS would name it."""
    import dask

    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=threads_per_worker, dashboard_address=":0"
        ) as cluster,
        dask.config.set({"scheduler-address": cluster.scheduler_address}),
    ):
        yield cluster.scheduler_address


@pytest.fixture
def scheduler() -> Iterator[str]:
    """A cluster of two workers that runs already."""
    with cluster_of(2) as address:
        yield address


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


def outcomes(jobs: Iterable[Job], **options: object) -> dict[str, Outcome]:
    """What became of each region."""
    options = {"workers": 2, "timeout": PATIENCE, **options}
    return {outcome.region: outcome for outcome in train_on_cluster(jobs, **options)}


def test_failures_are_named_and_cost_no_other_region_its_model(tmp_path: Path) -> None:
    """Exceptions, a killed worker and an endless one, on a cluster started for the batch."""
    regions = ["a", "killed", "b", "endless", "c", *RAISED, "d", "killed_once"]
    jobs = [job_for(tmp_path, region) for region in regions]

    found = outcomes(jobs, timeout=timedelta(seconds=20), work=misbehave)

    assert isinstance(found["killed"], Failed)
    assert "killed 2 times" in found["killed"].reason
    assert isinstance(found["endless"], Failed)
    assert "training.region_timeout 20s" in found["endless"].reason
    assert {region: found[region].reason for region in RAISED} == RAISED
    store = ArtifactStore(str(tmp_path / "artifacts"))
    for region in ["a", "b", "c", "d", "killed_once"]:
        assert store.get(found[region].artifact).card.region == region


def alone(job: Job) -> tuple[Trained, ...]:
    """Trains, and raises if its worker has another job meanwhile."""
    marker = Path(job.artifacts).with_name(f"busy-{os.getpid()}")
    marker.touch(exist_ok=False)
    time.sleep(0.5)
    marker.unlink()
    return train_job(job)


def test_a_worker_with_many_threads_has_one_job_at_a_time(tmp_path: Path) -> None:
    """`dask worker` has a thread per core; its death or restart would take the others along."""
    with cluster_of(1, threads_per_worker=4):
        found = outcomes([job_for(tmp_path, region) for region in "abcd"], work=alone)
    assert {type(outcome) for outcome in found.values()} == {Trained}


def count_and_die(job: Job) -> tuple[Trained, ...]:
    """Trains, unless the region is to die; says how often that was."""
    if job.regions[0] == "killed":
        with Path(job.artifacts).with_suffix(".deaths").open("a") as deaths:
            deaths.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return train_job(job)


def test_a_death_is_tried_once_more_whatever_the_scheduler_allows(tmp_path: Path) -> None:
    """A scheduler that runs already would try four times, and the reason said twice."""
    jobs = [job_for(tmp_path, region) for region in ("killed", "a", "b")]
    with cluster_of(2, threads_per_worker=2):
        found = outcomes(jobs, work=count_and_die)
    assert "killed 2 times" in found["killed"].reason
    assert (tmp_path / "artifacts.deaths").read_text() == "xx"
    assert isinstance(found["a"], Trained)
    assert isinstance(found["b"], Trained)


def test_a_scheduler_that_allows_no_death_is_counted_right(tmp_path: Path) -> None:
    """It reports a worker's death as an error of the job."""
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), cluster_of(1):
        found = outcomes([job_for(tmp_path, "killed")], work=count_and_die)
    assert "killed 2 times" in found["killed"].reason
    assert (tmp_path / "artifacts.deaths").read_text() == "xx"


def dies_with_its_answer(job: Job) -> tuple[Trained, ...]:
    """Answers when the other region's answer has been read, and dies before its own is."""
    worker = Path(job.artifacts).with_name("worker")
    if job.regions[0] == "quick":
        wait_for(worker)
    elif not worker.exists():
        worker.write_text(str(os.getpid()))
        wait_for(worker.with_name("read"))
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return train_job(job)


def wait_for(path: Path) -> None:
    """Returns when a file is there."""
    while not path.exists():
        time.sleep(0.01)


def test_an_answer_that_dies_with_its_worker_is_worked_out_once_more(tmp_path: Path) -> None:
    """Dask would wait for the one worker that a job is sent to, which is gone."""
    jobs = [job_for(tmp_path, region) for region in ("slow", "quick")]
    with cluster_of(2):
        iteration = train_on_cluster(jobs, workers=0, timeout=PATIENCE, work=dies_with_its_answer)
        assert next(iteration).region == "quick"
        (tmp_path / "read").touch()
        worker = int((tmp_path / "worker").read_text())
        with suppress(ProcessLookupError):
            while True:
                os.kill(worker, 0)
                time.sleep(0.01)
        (outcome,) = iteration
    assert isinstance(outcome, Trained)
    assert outcome.region == "slow"


def test_a_scheduler_without_workers_is_a_sentence_not_an_endless_wait(tmp_path: Path) -> None:
    """It names the scheduler and the remedy."""
    jobs = [job_for(tmp_path, region) for region in "ab"]
    with cluster_of(0) as address:
        found = outcomes(jobs, timeout=timedelta(seconds=2))
    assert set(found) == {"a", "b"}
    for outcome in found.values():
        assert isinstance(outcome, Failed)
        assert f"no worker of the Dask scheduler {address}" in outcome.reason
        assert "training.region_timeout 2s" in outcome.reason


@contextmanager
def without_a_nanny(scheduler: str) -> Iterator[None]:
    """A worker that nobody can restart."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--no-nanny"]
    with subprocess.Popen(
        [*command, "--nthreads", "2", "--no-dashboard"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as worker:
        try:
            with distributed.Client(scheduler) as client:
                client.wait_for_workers(1, timeout=60)
            yield
        finally:
            worker.kill()


def test_a_worker_that_cannot_be_restarted_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its region fails like any other; the batch goes on, and the log names the remedy."""
    jobs = [job_for(tmp_path, region) for region in ("endless", "a")]
    with cluster_of(0) as address, without_a_nanny(address):
        found = outcomes(jobs, timeout=timedelta(seconds=4), work=misbehave)
    assert "took longer than training.region_timeout" in found["endless"].reason
    assert "no worker of the Dask scheduler" in found["a"].reason
    assert "start workers with a nanny" in caplog.text


def test_one_setting_moves_a_batch_to_the_cluster(house: House, scheduler: str) -> None:
    """And back: what the cluster trained is unchanged for the local pool."""
    house.holds(made_up("eu"), made_up("us"), made_up("tiny", 3))
    regions = ("eu", "us", "tiny")
    there = house.train(*regions, settings=settings_for(backend="dask"))
    assert {result.status for result in there.values()} == {"trained"}
    here = house.train(*regions, settings=settings_for())
    assert {result.status for result in here.values()} == {"unchanged"}
