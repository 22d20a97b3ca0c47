"""Dagster as it runs in production: code server, webserver and daemon, each a process of its own.

Belongs here: starting, asking and ending them. Does not: what is looked at (`shop.py`), clicking.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

PATIENCE = 420.0
"""Seconds that one thing may take on a busy machine."""

INSTANCE = """\
concurrency:
  runs: {max_concurrent_runs: 1}
  pools: {granularity: op, default_limit: 1}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
telemetry: {enabled: false}
"""

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """What `look` returns once it is something true.

    Raises:
        AssertionError: names what was waited for in vain.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"waited {PATIENCE:g} s in vain for: {what}")


@dataclass(frozen=True)
class Platform:
    """Running processes over one project.

    Attributes:
        url: of the UI.
        warehouse: the DuckDB file.
    """

    url: str
    warehouse: Path

    def ask(self, query: str, **variables: Any) -> Any:
        """An answer of the UI's own GraphQL."""
        answer = httpx.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=PATIENCE
        ).json()
        assert not answer.get("errors"), answer
        return answer["data"]


@contextmanager
def running(
    folder: Path, project: Path, module: str, environment: Mapping[str, str]
) -> Iterator[Platform]:
    """The three processes over a project; they are ended whatever happens.

    Args:
        folder: for their logs.
        module: holds the project's definitions.
    """
    code, web = _free_port(), _free_port()
    home = Path(environment["DAGSTER_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(INSTANCE)
    workspace = folder / "workspace.yaml"
    server = f"host: 127.0.0.1, port: {code}, location_name: {module.split('.')[0]}"
    workspace.write_text(f"load_from: [{{grpc_server: {{{server}}}}}]\n")
    serve = ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(code), "-m", module]
    site = ["dagster_webserver", "-h", "127.0.0.1", "-p", str(web), "-w", str(workspace)]
    daemon = ["ml_patterns_tests.ui.daemon", "run", "-w", str(workspace)]
    platform = Platform(f"http://127.0.0.1:{web}", Path(environment["ML_PATTERNS_WAREHOUSE"]))
    with ExitStack() as stack:
        start = _Starter(folder, environment, stack)
        first = start("code", [*serve, "-d", str(project)])
        wait_for("the code server", lambda: _listens(code) or _ended(first, folder, "code"))
        second = start("web", site)
        wait_for("the UI", lambda: _answers(platform.url) or _ended(second, folder, "web"))
        start("daemon", daemon)
        yield platform


def environment_of(folder: Path) -> dict[str, str]:
    """Environment in which every process finds this installation and nothing starts by itself."""
    root = str(Path(__file__).parents[2])
    return {
        **{name: value for name, value in os.environ.items() if "ML_PATTERNS" not in name},
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "DAGSTER_HOME": str(folder / "dagster"),
        "ML_PATTERNS_WAREHOUSE": str(folder / "warehouse.duckdb"),
        "ML_PATTERNS_STATE_URL": f"sqlite:///{folder / 'state.sqlite'}",
        "ML_PATTERNS_ARTIFACTS": str(folder / "artifacts"),
    }


@dataclass(frozen=True)
class _Starter:
    folder: Path
    environment: Mapping[str, str]
    stack: ExitStack

    def __call__(self, name: str, module: Sequence[str]) -> subprocess.Popen[bytes]:
        log = self.stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        self.stack.callback(_end, process)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and whatever it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)


def _ended(process: subprocess.Popen[bytes], folder: Path, name: str) -> None:
    assert process.poll() is None, (folder / f"{name}.log").read_text()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/server_info", timeout=30).status_code == 200
    return False
