"""Many regions trained at once, none of which can take another along.

Belongs here: worker processes, their time limits and their deaths. Does not: training
(`training.py`), which regions are trained (`batch.py`).

A worker gets its rows by file (a killed worker must not leave half a message in a pipe that the
others share) and writes its artifact itself; what travels is a path one way and an address back.
"""

import gc
import logging
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import pandas as pd
from pebble import ProcessExpired, ProcessPool

from ml_patterns.base import format_duration
from ml_patterns.errors import UserError
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.fan_out.split import window
from ml_patterns.fan_out.training import REGION_COLUMN, train, usable_rows
from ml_patterns.fan_out.unchanged import member_key
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import ModelCard
from ml_patterns.storage.features import FeatureColumn

log = logging.getLogger(__name__)

TRIES = 2
"""A worker may die of its neighbour's hunger for memory: its region gets a second chance."""


@dataclass(frozen=True)
class Member:
    """A region that gets the model of a job, and why."""

    region: str
    reason: str


@dataclass(frozen=True)
class Job:
    """One model to train: a region's own, or the pooled one for several regions.

    Attributes:
        key: the training key, if it is known already.
        path: Feather file of the rows (`read_features`).
        artifacts: root of the artifact store.
    """

    kind: Literal["own", "pooled"]
    members: tuple[Member, ...]
    path: str
    columns: tuple[FeatureColumn, ...]
    settings: TrainingSettings
    pipeline: str
    label_delay: timedelta
    watermark: datetime | None
    artifacts: str
    key: str | None = None

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that wait for this job."""
        return tuple(member.region for member in self.members)


@dataclass(frozen=True)
class Trained:
    """A model that lies in the artifact store.

    Attributes:
        seconds: spent on it by the worker, reading and writing included.
        peak_mb: most memory the worker ever held, in megabytes.
    """

    region: str
    artifact: str
    kind: Literal["own", "pooled"]
    training_key: str
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Failed:
    """A region without a new model, and why, as one sentence."""

    region: str
    reason: str


@dataclass(frozen=True)
class Task:
    """A job, and how many workers have died on it."""

    job: Job
    deaths: int = 0


Outcome = Trained | Failed
Work = Callable[[Job], tuple[Trained, ...]]


def train_job(job: Job) -> tuple[Trained, ...]:
    """What a worker does: reads the rows, trains, writes an artifact per member."""
    started = time.perf_counter()
    frame = pd.read_feather(job.path)
    model = train(
        frame,
        job.columns,
        job.settings,
        pipeline=job.pipeline,
        region=job.members[0].region if job.kind == "own" else "*",
        label_delay=job.label_delay,
        watermark=job.watermark,
        kind=job.kind,
        reason=job.members[0].reason,
        key=job.key,
    )
    cards = [model.card] if job.kind == "own" else _member_cards(job, model.card, frame)
    store = ArtifactStore(job.artifacts)
    addresses = [store.put(model.model_text, card) for card in cards]
    seconds = time.perf_counter() - started
    return tuple(
        Trained(card.region, address, job.kind, card.training_key, seconds, _peak_mb())
        for card, address in zip(cards, addresses, strict=True)
    )


def guarded(work: Work, job: Job) -> tuple[Outcome, ...]:
    """Does the work in a worker, and says there why it failed.

    An exception stays in the worker: one that the parent cannot rebuild would break the pool, and
    a `TimeoutError` of its own would look like the end of the job's time.
    """
    try:
        return work(job)
    except UserError as error:
        return failed(job, str(error))
    except Exception as error:
        return failed(job, f"training raised {type(error).__name__}: {error}")


def failed(job: Job, reason: str) -> tuple[Failed, ...]:
    """The same reason for each region of a job."""
    return tuple(Failed(region, reason) for region in job.regions)


def _peak_mb() -> float:
    """Most memory that this process ever held, in megabytes; 0 where the system does not say.

    Not by `getrusage`: on Linux a process starts with its parent's peak.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


def train_regions(
    jobs: Iterable[Job], *, workers: int, timeout: timedelta, work: Work = train_job
) -> Generator[Outcome, None, None]:
    """Trains every job and yields what became of each region, in the order they finish.

    Workers start with the first jobs, while the others are still being prepared; without a job none
    does. No worker outlives the iteration, however it ends. A worker that raises, dies or takes
    longer than `timeout` costs the regions of its job alone; a death is tried once more.

    Args:
        jobs: in the order in which they are to start: the longest first.
        workers: processes; 0: one per core that this process may use.
        work: what a worker does with a job.
    """
    waiting: Iterator[Task] = map(Task, jobs)
    breaks = 0
    while first := list(islice(waiting, workers or usable_cores())):
        pool = ProcessPool(
            max_workers=len(first),
            initializer=_begin,
            # A fork would inherit the locks of Dagster's threads and LightGBM's OpenMP state.
            context=multiprocessing.get_context("spawn"),
        )
        left: list[Task] = []
        done = 0
        try:
            for outcome in _drain(pool, chain(first, waiting), left, timeout, work):
                done += 1
                yield outcome
        finally:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()
        breaks = 0 if done else breaks + 1
        if breaks == TRIES:
            reason = (
                "no worker stayed alive long enough to take it; the step's log says what ended them"
            )
            for task in left:
                yield from failed(task.job, reason)
            return
        waiting = iter(left)


def _begin() -> None:
    """Runs in a new worker: whoever kills the run kills its workers, busy ones too.

    What is loaded by then stays: it is not searched for garbage again and again, beside fits that
    make little.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    import lightgbm  # noqa: F401 - each job needs it

    gc.freeze()


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _drain(
    pool: ProcessPool, todo: Iterable[Task], left: list[Task], timeout: timedelta, work: Work
) -> Iterator[Outcome]:
    """Yields outcomes until nothing runs; what a broken pool never finished goes to `left`."""
    running: dict[Future[tuple[Outcome, ...]], Task] = {}

    def submit(task: Task) -> None:
        try:
            future = pool.schedule(guarded, args=(work, task.job), timeout=timeout.total_seconds())
        except RuntimeError:  # The pool broke meanwhile.
            left.append(task)
        else:
            running[future] = task

    for task in todo:
        submit(task)
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            error = future.exception()
            if error is None:
                yield from future.result()
            elif isinstance(error, BrokenProcessPool):
                left.append(task)
            elif isinstance(error, ProcessExpired) and task.deaths + 1 < TRIES:
                log.warning("the worker of %s died (%s); once more", names(task.job), error)
                submit(Task(task.job, task.deaths + 1))
            else:
                yield from failed(task.job, why_it_failed(error, timeout))


def why_it_failed(error: BaseException, timeout: timedelta) -> str:
    """An end that the work itself could not report, as one sentence.

    Args:
        error: as the pool raises it; a `TimeoutError` is the end of the job's time.
    """
    if isinstance(error, ProcessExpired):
        code = error.exitcode
        signal = f" by signal {-code}" if isinstance(code, int) and code < 0 else ""
        return (
            f"its worker was killed{signal} twice (out of memory?); give the machine more memory "
            "or lower training.workers"
        )
    if isinstance(error, TimeoutError):
        return (
            f"it took longer than training.region_timeout {format_duration(timeout)} and was "
            "ended; raise the setting or lower training.max_rounds"
        )
    return f"its training ended with {type(error).__name__}: {error}"


def names(job: Job) -> str:
    """A job as a log line names it."""
    return job.regions[0] if job.kind == "own" else f"the pooled model of {len(job.members)}"


def _member_cards(job: Job, card: ModelCard, frame: pd.DataFrame) -> list[ModelCard]:
    """The pooled model's card for each region that it serves, with the region's own test slice."""
    rows = usable_rows(frame, job.watermark)
    start, end = card.test.start, card.test.end
    if start is None or end is None:  # pragma: no cover - `train` always sets both
        raise ValueError("a trained model has a test slice")
    tested = rows[rows["event_time"] >= pd.Timestamp(start).tz_convert(None)]
    return [
        card.model_copy(
            update={
                "region": member.region,
                "reason": member.reason,
                "training_key": member_key(card.training_key, member.region),
                "test": window(
                    tested, (tested[REGION_COLUMN.name] == member.region).to_numpy(), start, end
                ),
            }
        )
        for member in job.members
    ]
