"""`ml-patterns dev`: the Dagster UI with everything switched on.

Belongs here: starting and ending the processes of a developer's machine. Does not: production,
where each of them has a supervisor of its own (`docs/operations.md`).
"""

import os
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

from ml_patterns.automation import SWITCH
from ml_patterns.demo.stage import PIPELINE, ModelServer, Stage
from ml_patterns.errors import SettingsError
from ml_patterns.project import dagster_home
from ml_patterns.sandbox.upstream import serve_upstream


def run_dev(project: Path, port: int, host: str) -> int:
    """Runs the UI until it is interrupted; on the demo's data where a demo has run.

    Beside it runs the model server and, on the demo's data, the sandbox's weather API.

    Returns:
        Dagster's exit code.
    """
    stage = Stage(project / "data" / "demo")
    with ExitStack() as stack:
        if (stage.folder / "warehouse.duckdb").exists():
            os.environ.update(stage.services())
            upstream = stack.enter_context(serve_upstream(()))
            os.environ["ML_PATTERNS_WEATHER_URL"] = upstream.url
            print(f"data of the demo of {PIPELINE}: {stage.folder}", flush=True)
        home = dagster_home(project)
        os.environ.setdefault(SWITCH, "on")
        server = ModelServer(home / "model_server.log")
        server.start()
        stack.callback(server.stop)
        os.environ["ML_PATTERNS_MODEL_URL"] = server.url
        print(f"model server: {server.url}\nDagster UI: http://{host}:{port}", flush=True)
        command = [sys.executable, "-m", "dagster", "dev", *_target(project)]
        try:
            return subprocess.call([*command, "-h", host, "-p", str(port)], cwd=project)
        except KeyboardInterrupt:
            return 0


def _target(project: Path) -> list[str]:
    """What Dagster loads: the project's workspace, else the module that pyproject.toml names."""
    if (project / "workspace.yaml").is_file():
        return ["-w", "workspace.yaml"]
    document = tomllib.loads((project / "pyproject.toml").read_text())
    try:
        module = document["tool"]["dg"]["project"]["root_module"]
    except KeyError as error:
        raise SettingsError(
            f"{project / 'pyproject.toml'} names no root_module under [tool.dg.project]; add it"
        ) from error
    return ["-m", f"{module}.definitions", "-d", str(project)]
