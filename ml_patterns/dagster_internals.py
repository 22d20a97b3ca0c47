"""What we need from Dagster that it does not export.

Belongs here: every import from `dagster._core`, and what Dagster does anew each time although once
would do, with the reason. Does not: anything else; a test says at once when an upgrade moves one.

`AssetCheckEvaluationTargetMaterializationData`: one run trains many regions and reports a check
evaluation for each. Dagster counts an evaluation as current only if it names the materialization
that it is about, and fills that in by itself only for checks of the partition that a step was
started for. There is no public name for the record.

`JobDefinition.asset_layer`: an asset without a required output must know whether anything else is
to run after it. `DagsterRun.asset_selection` is empty for jobs.

`path_for_shard`: what only an event log in SQLite has, see `event_log_kept_open`.

`create_engine` in the modules of the event log and of the list of runs: it is called for every
connection, see `_keep_engines`.

The configuration of Dagster's migrations: Dagster keeps it, unlike the migrations that it reads by
it, see `reuse_migrations`.

`mirror_stream_to_file` where output is captured into local files: it starts processes, see
`mirror_output_by_threads`.

`get_smallest_cron_interval`: a freshness policy refuses a bound that is longer than it.
"""

import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage import local_compute_log_manager
from dagster._utils import ensure_file
from dagster._utils.schedules import get_smallest_cron_interval

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "AssetCheckEvaluationTargetMaterializationData",
    "event_log_kept_open",
    "latest_target",
    "mirror_output_by_threads",
    "others_selected",
    "reuse_migrations",
    "smallest_interval",
]

_KEPT = "ml_patterns: migrations"
_GLANCE = timedelta(seconds=0.1)
"""How long after it was printed something is shown."""

_under_way: list[ExitStack] = []
"""What ends with each `event_log_kept_open` that has begun, the outermost first."""


def latest_target(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partition: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The newest materialization of a partition, for a check evaluation to point at."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=[partition]), limit=1
    ).records
    if not records:
        return None
    record = records[0]
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )


@contextmanager
def event_log_kept_open(instance: dg.DagsterInstance) -> Iterator[None]:
    """Makes storing many events cheaper where the event log lies in SQLite; else does nothing.

    Dagster opens and closes its files for every event, and makes an engine for each connection,
    see `_keep_engines`. SQLite copies the journal back whenever the last connection is closed: a
    third of the seconds that a run takes in which nothing changed.
    """
    in_sqlite = hasattr(instance.event_log_storage, "path_for_shard")
    if in_sqlite:
        reuse_migrations()
        for storage in (instance.event_log_storage, instance.run_storage):
            _keep_engines(type(storage).__module__)
    with ExitStack() as stack:
        if in_sqlite:
            _under_way.append(stack)
            stack.callback(_under_way.remove, stack)
        yield


@cache
def reuse_migrations() -> None:
    """From now on migrations are read once for each configuration that was read once.

    Dagster reads its own, a hundred files, for every event log that it opens and twice for every
    one that it makes, which it does for every run: a tenth of a short command. It keeps their
    configuration; who reads it anew, as we do for our own migrations, reads them anew.
    """
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    read = ScriptDirectory.from_config

    def kept(config: Config) -> ScriptDirectory:
        if _KEPT not in config.attributes:
            config.attributes[_KEPT] = read(config)
        found: ScriptDirectory = config.attributes[_KEPT]
        return found

    ScriptDirectory.from_config = kept  # type: ignore[method-assign]


@cache
def _keep_engines(module_name: str) -> None:
    """From now on a module that stores in SQLite makes one engine for each file, which keeps its
    connections, as long as an `event_log_kept_open` lasts.

    Dagster's make one for every connection, and an engine compiles each statement anew: half of
    what an event costs. The first write of each connection is written through to the disk once
    more than the others.
    """
    module: Any = sys.modules[module_name]
    make: Callable[..., sa.Engine] | None = getattr(module, "create_engine", None)
    if make is None:
        return
    kept: dict[str, sa.Engine] = {}

    def engine(url: str, **options: Any) -> "sa.Engine":
        if not _under_way:
            return make(url, **options)
        if url not in kept:
            kept[url] = _pooled(make, url, options)
            _under_way[0].callback(kept.pop, url, None)
        return kept[url]

    module.create_engine = engine


def _pooled(
    make: Callable[..., "sa.Engine"], url: str, options: Mapping[str, object]
) -> "sa.Engine":
    """An engine that nobody disposes of before the outermost `event_log_kept_open` ends."""
    from sqlalchemy import event
    from sqlalchemy.pool import QueuePool

    engine = make(url, **{**options, "poolclass": QueuePool})
    event.listen(engine, "connect", _with_journal)
    _under_way[0].callback(engine.dispose)
    engine.dispose = lambda close=True: None  # type: ignore[method-assign]
    return engine


def _with_journal(connection: sqlite3.Connection, _record: object) -> None:
    """A new file has its journal beside it from the start: Dagster orders that when it has made
    the tables, each of which is written through to the disk thrice."""
    with suppress(sqlite3.OperationalError):  # another process is just making its tables
        if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            connection.execute("PRAGMA journal_mode=WAL")


@contextmanager
def mirror_output_by_threads() -> Iterator[None]:
    """Inside, what a step prints in this process is shown on the terminal by threads of it.

    Dagster starts two pairs of processes for each step: one shows a file and is ended with the
    step, whatever it has not shown yet, the other, a Python, watches it. That costs a short step
    more than all that it does. The captured output is the same.
    """
    module: Any = local_compute_log_manager
    by_processes = module.mirror_stream_to_file

    @contextmanager
    def mirrored(stream: TextIO, path: str) -> Iterator[object]:
        try:
            terminal = os.fdopen(os.dup(stream.fileno()), "wb", buffering=0)
        except (AttributeError, OSError):  # a notebook's, or none
            with by_processes(stream, path) as pids:
                yield pids
            return
        ensure_file(path)
        with terminal, _shown(path, terminal), redirect_to_file(stream, path):
            yield None

    module.mirror_stream_to_file = mirrored
    try:
        yield
    finally:
        module.mirror_stream_to_file = by_processes


@contextmanager
def _shown(path: str, terminal: IO[bytes]) -> Iterator[None]:
    """Copies what is written to a file, to its end."""
    ended = threading.Event()

    def show() -> None:
        with Path(path).open("rb") as captured, suppress(OSError):  # nobody may read any longer
            while not ended.wait(_GLANCE.total_seconds()):
                shutil.copyfileobj(captured, terminal)
            shutil.copyfileobj(captured, terminal)

    thread = threading.Thread(target=show, name=f"mirror {path}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def others_selected(context: dg.AssetExecutionContext) -> bool:
    """Whether the run materializes other assets, too."""
    return len(context.job_def.asset_layer.selected_asset_keys) > 1


def smallest_interval(cron: str) -> timedelta:
    """The shortest time between two ticks of a cron expression."""
    return get_smallest_cron_interval(cron)
