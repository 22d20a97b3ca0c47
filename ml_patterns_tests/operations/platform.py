"""`ml-patterns dev` as a process, watched from outside: its runs, its stores, its sensors."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from ml_patterns.project import INSTANCE_TEMPLATE
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.warehouse import Warehouse

PATIENCE = 420
"""Seconds that one thing may take on a busy machine."""

PATIENT = {
    "DAGSTER_GRPC_TIMEOUT_SECONDS": str(PATIENCE),
    "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS": str(PATIENCE),
}
"""A busy machine is no failure."""

SHORT_QUEUE = """\
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
"""

IN_THE_BACKGROUND = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""Starts a command as a script does by `&`: it ignores SIGINT."""

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def clean_environment() -> dict[str, str]:
    """This process's environment, without what another installation set."""
    ours = ("DAGSTER", "ML_PATTERNS", "PYTEST")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)}


@dataclass
class Platform:
    """A running `ml-patterns dev`, and the project that it runs."""

    root: Path
    process: subprocess.Popen[bytes]
    instance: dg.DagsterInstance

    def runs(self) -> list[dg.DagsterRun]:
        """All runs, newest first."""
        return list(self.instance.get_runs())

    def jobs(self, since: int = 0) -> list[str]:
        """Names of the jobs of all runs but the first `since`, oldest first."""
        return [run.job_name for run in reversed(self.runs())][since:]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the warehouse; none where a table is not there yet."""
        warehouse = Warehouse(self.root / "data" / "warehouse.duckdb")
        if not warehouse.path.exists():
            return []
        with warehouse.connect(read_only=True) as connection:
            try:
                return connection.execute(sql).fetchall()
            except duckdb.CatalogException:
                return []

    def registry(self) -> Registry:
        """The model registry."""
        return Registry(engine_for(f"sqlite:///{self.root / 'data' / 'state.sqlite'}"))

    def await_(self, what: str, happened: Callable[[], object]) -> None:
        """Waits until something has happened; fails at once when a run fails."""
        end = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None, f"ml-patterns dev ended\n{self.log()[-6000:]}"
            failed = [r for r in self.runs() if r.status is dg.DagsterRunStatus.FAILURE]
            assert not failed, f"{failed[0].job_name} failed\n{self.log()[-6000:]}"
            if time.monotonic() > end:
                pytest.fail(
                    f"in vain waited for: {what}; runs: {self.jobs()}\n{self.log()[-6000:]}"
                )
            time.sleep(0.5)

    def await_quiet(self) -> None:
        """Waits until every running sensor has looked, and nothing ran or was asked for."""

        def quiet() -> bool:
            before = len(self.runs())
            if any(run.status not in _ENDED for run in self.runs()):
                return False
            since = time.time()
            self.await_("a look of every sensor", lambda: self._looked(since))
            return len(self.runs()) == before

        self.await_("silence", quiet)

    def _looked(self, since: float) -> bool:
        """Whether each running sensor has finished a look that began after an instant."""
        sensors = [
            state
            for state in self.instance.all_instigator_state()
            if state.instigator_type.value == "SENSOR" and state.is_running
        ]
        return bool(sensors) and all(
            any(
                tick.timestamp > since and tick.status.value != "STARTED"
                for tick in self.instance.get_ticks(s.instigator_origin_id, s.selector_id, limit=3)
            )
            for s in sensors
        )

    def failed_looks(self) -> list[str]:
        """What went wrong in looks of sensors."""
        return [
            f"{state.instigator_name}: {tick.error}"
            for state in self.instance.all_instigator_state()
            for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
            if tick.status.value == "FAILURE"
        ]

    def log(self) -> str:
        """What the processes printed."""
        return (self.root / "dev.log").read_text(errors="replace")


@contextmanager
def running_platform(root: Path, environment: dict[str, str]) -> Iterator[Platform]:
    """Runs `ml-patterns dev` in a project until the block ends; SIGTERM leaves nothing of it."""
    home = root / "data" / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(INSTANCE_TEMPLATE + SHORT_QUEUE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (root / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [*IN_THE_BACKGROUND, sys.executable, "-m", "ml_patterns", "dev", "--port", str(port)],
            cwd=root,
            env=clean_environment() | PATIENT | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield Platform(root, process, instance)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        _await_the_end_of(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_the_end_of(group: int) -> None:
    """Waits until no process of a group is left; Dagster's code server takes a moment more."""
    end = time.monotonic() + PATIENCE
    with suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.1)
        pytest.fail("ml-patterns dev left processes behind")
