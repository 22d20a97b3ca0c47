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

from ml_patterns.base import format_duration
from ml_patterns.errors import SettingsError
from ml_patterns.fan_out.pool import (
    TRIES,
    Job,
    Outcome,
    Task,
    Trained,
    Work,
    failed,
    guarded,
    names,
    train_job,
    usable_cores,
    why_it_failed,
)

log = logging.getLogger(__name__)

_LONGEST_WAIT = 1.0
_RESTART_PATIENCE = 20  # seconds; a worker that takes longer joins when it is back
_ANSWER_PATIENCE = 30  # seconds; an answer is a few addresses
_CONFIG = {
    # Rows are meant to travel inside the task: scattered rows would die with the worker that
    # holds them, and with them the second try.
    "distributed.admin.large-graph-warning-threshold": "4 GiB",
}


@dataclass(frozen=True)
class _Running:
    task: Task
    worker: str
    deadline: float


def train_on_cluster(
    jobs: Iterable[Job], *, workers: int, timeout: timedelta, work: Work = train_job
) -> Generator[Outcome, None, None]:
    """Trains every job and yields what became of each region, in the order they finish.

    A worker has one job at a time, whatever the number of its threads, so its death or end touches
    one job alone, and a job's time counts from when it is sent. A death is tried once more. When
    no worker is ready for as long as a job may take, the waiting jobs fail.

    Args:
        jobs: in the order in which they are to start: the longest first.
        workers: of a cluster that is started here; 0: one per core. A cluster that runs already
            has its own.
    """
    waiting = deque(map(Task, jobs))
    if not waiting:
        return
    distributed = _distributed()
    with _connected(distributed, workers) as client:
        yield from _drain(distributed, client, waiting, timeout, work)


def _drain(
    distributed: Any, client: Any, waiting: deque[Task], timeout: timedelta, work: Work
) -> Iterator[Outcome]:
    """Yields outcomes until nothing waits or runs."""
    running: dict[Any, _Running] = {}
    stuck: set[str] = set()
    alone_since: float | None = None
    while waiting or running:
        present = client.scheduler_info(n_workers=-1)["workers"]
        for future in [each for each, run in running.items() if _is_lost(each, run, present)]:
            future.cancel()
            yield from _after_deaths(1, running.pop(future).task, waiting)
        stuck &= present.keys()
        taken = stuck.union(run.worker for run in running.values())
        ready = [worker for worker, its in present.items() if its["status"] == "running"]
        for worker in [each for each in ready if each not in taken][: len(waiting)]:
            task = waiting.popleft()
            deadline = time.monotonic() + timeout.total_seconds()
            running[_send(client, worker, task.job, work)] = _Running(task, worker, deadline)
        alone_since = None if running else alone_since or time.monotonic()
        if alone_since and time.monotonic() > alone_since + timeout.total_seconds():
            reason = _nobody_came(client.scheduler.address, timeout)
            for task in waiting:
                yield from failed(task.job, reason)
            return
        _wait_for_one(distributed, running)
        for future in [future for future in running if future.done()]:
            yield from _outcomes(future, running.pop(future).task, waiting, timeout)
        for future in [each for each, run in running.items() if _is_over(each, run)]:
            run = running.pop(future)
            future.cancel()
            if not _restart(client, run.worker):
                stuck.add(run.worker)
            yield from failed(run.task.job, why_it_failed(TimeoutError(), timeout))


def _send(client: Any, worker: str, job: Job, work: Work) -> Any:
    """Sends a job with its rows to one worker, and to no other.

    Dask alone would send it after a death to any worker, beside the job which that one has.
    """
    rows = Path(job.path).read_bytes()
    return client.submit(
        _work_there, work, job, rows, pure=False, workers=[worker], allow_other_workers=False
    )


def _work_there(work: Work, job: Job, rows: bytes) -> tuple[Outcome, ...]:
    """Runs in a worker of the cluster."""

    def on_its_rows(job: Job) -> tuple[Trained, ...]:
        with tempfile.NamedTemporaryFile(suffix=".feather") as file:
            file.write(rows)
            file.flush()
            return work(replace(job, path=file.name))

    return guarded(on_its_rows, job)


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
                dashboard_address=":0",  # any port: another cluster may have the usual one
                silence_logs=logging.ERROR,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


def _wait_for_one(distributed: Any, running: dict[Any, _Running]) -> None:
    """Returns when a job is done, a deadline passed, or it is time to look for new workers."""
    if not running:
        time.sleep(0.1)  # No worker is ready.
        return
    until = min(run.deadline for run in running.values()) - time.monotonic()
    try:
        distributed.wait(
            list(running),
            timeout=min(max(until, 0.01), _LONGEST_WAIT),
            return_when="FIRST_COMPLETED",
        )
    except TimeoutError:
        return


def _is_over(future: Any, run: _Running) -> bool:
    """Whether time ran out; a job that is done may lie there while its outcome is not asked for."""
    return time.monotonic() > run.deadline and not future.done()


def _is_lost(future: Any, run: _Running, present: dict[str, Any]) -> bool:
    """Whether the job's worker left; a nanny brings it back at another address."""
    return run.worker not in present and not future.done()


def _outcomes(
    future: Any, task: Task, waiting: deque[Task], timeout: timedelta
) -> Iterator[Outcome]:
    """What became of a job that is done; one whose worker died may wait once more."""
    error: Any = future.exception() if future.status == "error" else None
    if type(error).__name__ == "KilledWorker":
        yield from _after_deaths(error.allowed_failures + 1, task, waiting)
    elif error is not None:
        yield from failed(task.job, why_it_failed(error, timeout))
    elif (answer := _answer(future)) is not None:
        yield from answer
    else:
        future.cancel()
        yield from _after_deaths(1, task, waiting)


def _answer(future: Any) -> tuple[Outcome, ...] | None:
    """What a worker answered; None: it died with its answer, or the cluster was restarted."""
    if future.status != "finished":
        return None
    try:
        answer: tuple[Outcome, ...] = future.result(timeout=_ANSWER_PATIENCE)
    except TimeoutError:  # Dask waits for its one worker to work it out again.
        return None
    return answer


def _after_deaths(deaths: int, task: Task, waiting: deque[Task]) -> Iterator[Outcome]:
    """Lets a job wait once more, unless it has had its tries."""
    deaths += task.deaths
    if deaths < TRIES:
        log.warning("the worker of %s died; once more", names(task.job))
        waiting.appendleft(Task(task.job, deaths))
        return
    yield from failed(
        task.job,
        f"its worker was killed {deaths} times (out of memory?); give the cluster's workers more "
        "memory",
    )


def _nobody_came(scheduler: str, timeout: timedelta) -> str:
    """Why jobs failed that nobody took, as one sentence."""
    return (
        f"no worker of the Dask scheduler {scheduler} was ready to take it within "
        f"training.region_timeout {format_duration(timeout)}; start workers there "
        f"(dask worker {scheduler})"
    )


def _restart(client: Any, worker: str) -> bool:
    """Ends what a worker does, which Dask cannot interrupt; says whether it may be used again."""
    try:
        client.restart_workers([worker], timeout=_RESTART_PATIENCE, raise_for_error=False)
    except ValueError:
        log.warning(
            "the Dask worker %s has no nanny to restart it: it gets no other region of this "
            "batch; start workers with a nanny (dask worker --nanny)",
            worker,
        )
        return False
    except KeyError:  # It left by itself.
        pass
    return True
