"""The same fan-out on a Dask cluster.

Belongs here: `training.backend: dask`. Does not: what a worker does with a job (`pool.py`); it is
the same function, so the models are the same bytes.

The scheduler's address comes from Dask's own configuration (`DASK_SCHEDULER_ADDRESS`); without one
a cluster is started on this machine for the time of the batch. Workers need this package and the
artifact store, not this machine's disk: a job's rows travel with it.
"""

import importlib
import logging
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_patterns.errors import SettingsError
from ml_patterns.fan_out.pool import (
    Failed,
    Job,
    Outcome,
    Trained,
    Work,
    train_job,
    usable_cores,
    why_it_failed,
)

_LONGEST_WAIT = 1.0
_RESTART_PATIENCE = 20  # seconds; a worker that takes longer joins when it is back
_CONFIG = {
    # A worker may die of its neighbour's hunger: a job is tried once more, as in the local pool.
    "distributed.scheduler.allowed-failures": 1,
    # Rows are meant to travel inside the task: scattered rows would die with the worker that
    # holds them, and with them the second try.
    "distributed.admin.large-graph-warning-threshold": "4 GiB",
}


@dataclass(frozen=True)
class _Running:
    job: Job
    deadline: float


def train_on_cluster(
    jobs: Iterable[Job], *, workers: int, timeout: timedelta, work: Work = train_job
) -> Generator[Outcome, None, None]:
    """Trains every job and yields what became of each region, in the order they finish.

    No more jobs are sent than the cluster has threads, so a worker's death or end touches one job
    alone, and a job's time counts from when it is sent.

    Args:
        jobs: in the order in which they are to start: the longest first.
        workers: of a cluster that is started here; 0: one per core. A cluster that runs already
            has its own.
    """
    waiting = deque(jobs)
    running: dict[Any, _Running] = {}
    if not waiting:
        return
    distributed = _distributed()
    with _connected(distributed, workers) as client:
        while waiting or running:
            slots = sum(client.nthreads().values()) - len(running)
            for _ in range(min(slots, len(waiting))):
                job = waiting.popleft()
                future = client.submit(
                    _work_there, work, job, Path(job.path).read_bytes(), pure=False
                )
                running[future] = _Running(job, time.monotonic() + timeout.total_seconds())
            _wait_for_one(distributed, running)
            for future in [future for future in running if future.done()]:
                yield from _outcomes(future, running.pop(future).job, timeout)
            for future in [each for each, task in running.items() if _is_over(task)]:
                _end(client, future)
                task = running.pop(future)
                reason = why_it_failed(TimeoutError(), timeout)
                yield from (Failed(region, reason) for region in task.job.regions)


def _work_there(work: Work, job: Job, rows: bytes) -> tuple[Trained, ...]:
    """Runs in a worker of the cluster."""
    with tempfile.NamedTemporaryFile(suffix=".feather") as file:
        file.write(rows)
        file.flush()
        return work(replace(job, path=file.name))


def _distributed() -> ModuleType:
    """The optional package."""
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise SettingsError(
            "training.backend dask needs the package distributed; install it "
            "(pip install 'ml-patterns[dask]') or set training.backend to processes"
        ) from error


@contextmanager
def _connected(distributed: Any, workers: int) -> Iterator[Any]:
    """A client of the configured cluster, or of one that lives as long as the batch."""
    config = importlib.import_module("dask.config")
    with config.set(_CONFIG):
        if config.get("scheduler-address", None):
            with distributed.Client() as client:
                yield client
            return
        with (
            distributed.LocalCluster(
                n_workers=workers or usable_cores(),
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.ERROR,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


def _wait_for_one(distributed: Any, running: dict[Any, _Running]) -> None:
    """Returns when a job is done, a deadline passed, or it is time to look for new workers."""
    if not running:
        time.sleep(0.1)  # Every worker is being restarted.
        return
    until = min(task.deadline for task in running.values()) - time.monotonic()
    try:
        distributed.wait(
            list(running),
            timeout=min(max(until, 0.01), _LONGEST_WAIT),
            return_when="FIRST_COMPLETED",
        )
    except TimeoutError:
        return


def _is_over(task: _Running) -> bool:
    return time.monotonic() > task.deadline


def _outcomes(future: Any, job: Job, timeout: timedelta) -> Iterator[Outcome]:
    if future.status == "finished":
        yield from future.result()
        return
    error = future.exception() if future.status == "error" else None
    if error is None or type(error).__name__ == "KilledWorker":
        reason = (
            "its worker was killed twice (out of memory?); give the cluster's workers more memory"
        )
    else:
        reason = why_it_failed(error, timeout)
    yield from (Failed(region, reason) for region in job.regions)


def _end(client: Any, future: Any) -> None:
    """Restarts the worker that runs a job: Dask cannot interrupt one."""
    busy = [address for address, keys in client.processing().items() if future.key in keys]
    future.cancel()
    if busy:
        client.restart_workers(busy, timeout=_RESTART_PATIENCE, raise_for_error=False)
