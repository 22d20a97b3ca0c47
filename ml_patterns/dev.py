"""`ml-patterns dev`: the Dagster UI with everything switched on.

Belongs here: starting and ending the processes of a developer's machine. Does not: production,
where each of them has a supervisor of its own (`docs/operations.md`).
"""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

from ml_patterns.automation import SWITCH
from ml_patterns.collecting import collect_from_now_on
from ml_patterns.demo.stage import PIPELINE, ModelServer, Stage
from ml_patterns.errors import SettingsError
from ml_patterns.project import dagster_home
from ml_patterns.sandbox.upstream import serve_upstream

_SECONDS_TO_END = 10


class _Terminated(KeyboardInterrupt):
    """SIGTERM: it came to this process alone, while Ctrl-C comes to those it started as well."""


def run_dev(project: Path, port: int, host: str) -> int:
    """Runs the UI until it is interrupted or terminated; on the demo's data where a demo has run.

    Beside it runs the model server and, on the demo's data, the sandbox's weather API.

    Returns:
        Dagster's exit code; 0 when it was we who were ended.
    """
    collect_from_now_on()
    # A shell that starts this in the background has it ignore SIGINT; Dagster would inherit that,
    # and it ends on SIGTERM as on SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
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
        stack.callback(server.stop)
        server.start()
        os.environ["ML_PATTERNS_MODEL_URL"] = server.url
        print(f"model server: {server.url}\nDagster UI: http://{host}:{port}", flush=True)
        command = [sys.executable, "-m", "dagster", "dev", "-h", host, "-p", str(port)]
        return _run([*command, "-w", str(_workspace(project, home))], project)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _run(command: Sequence[str], folder: Path) -> int:
    """Runs Dagster, and lets it end its own processes."""
    with subprocess.Popen(command, cwd=folder) as dagster:
        try:
            return dagster.wait()
        except KeyboardInterrupt as reason:
            if not isinstance(reason, _Terminated):
                with suppress(subprocess.TimeoutExpired):
                    dagster.wait(_SECONDS_TO_END)
            if dagster.poll() is None:
                dagster.terminate()
            dagster.wait()
            return 0


def _workspace(project: Path, home: Path) -> Path:
    """The project's workspace, else one of its only code location.

    The location has the name that `dg dev` gives it: under another one Dagster would not know which
    sensors a person has switched.
    """
    if (project / "workspace.yaml").is_file():
        return project / "workspace.yaml"
    document = tomllib.loads((project / "pyproject.toml").read_text())
    try:
        settings = document["tool"]["dg"]["project"]
        module = settings["root_module"]
    except KeyError as error:
        raise SettingsError(
            f"{project / 'pyproject.toml'} names no root_module under [tool.dg.project]; add it"
        ) from error
    location = {
        "module_name": f"{module}.definitions",
        "working_directory": str(project),
        "location_name": settings.get("code_location_name") or project.name,
    }
    workspace = home / "workspace.yaml"
    # JSON is YAML, with every name quoted.
    workspace.write_text(json.dumps({"load_from": [{"python_module": location}]}, indent=2))
    return workspace
