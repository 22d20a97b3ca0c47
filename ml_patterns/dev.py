"""`ml-patterns dev`: the Dagster UI with everything switched on.

Belongs here: starting and ending the processes of a developer's machine. Does not: production,
where each of them has a supervisor of its own (`docs/operations.md`).
"""

import json
import os
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

from ml_patterns.automation import SWITCH
from ml_patterns.collecting import collect_from_now_on
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
    collect_from_now_on()
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
        command = [sys.executable, "-m", "dagster", "dev", "-h", host, "-p", str(port)]
        try:
            return subprocess.call([*command, "-w", str(_workspace(project, home))], cwd=project)
        except KeyboardInterrupt:
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
