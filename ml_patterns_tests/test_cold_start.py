"""What a command and a run's process load before they do anything.

Dagster starts a process for each run and loads the definitions in it: a library that is imported at
the top of a module for one function is paid for by every run. Seconds are measured by
`benchmarks/cold_start.py`; here the libraries are named.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

RARE = {
    "alembic", "apprise", "dask", "distributed", "fastapi", "lightgbm", "matplotlib",
    "prometheus_client", "psycopg", "scipy", "sklearn", "starlette", "uvicorn",
}  # fmt: skip
"""Libraries that some runs need, or none."""

FRAMES = {"numpy", "pandas", "pyarrow", "requests"}
"""Of runs that train, predict or ask others; registering files and computing SQL do without."""

COMMON = {"dagster", "duckdb", "jinja2", "sqlalchemy"}
"""Libraries that most runs need, and no help text does."""

HELP = """
from ml_patterns.cli import app
try:
    app(["--help"])
except SystemExit as end:
    assert not end.code
"""
FRONT_DOOR = "import ml_patterns.definitions"
TRAINING_WORKER = "import ml_patterns.fan_out.pool"
DEFINITIONS = "from ml_patterns.definitions import defs; assert list(defs().assets)"


def loaded(code: str) -> set[str]:
    """Names of the packages that a fresh interpreter has loaded after some code."""
    told = "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code + told], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "too_early"),
    [
        pytest.param(HELP, RARE | FRAMES | COMMON, id="ml-patterns --help"),
        pytest.param(
            FRONT_DOOR, RARE | FRAMES | COMMON - {"dagster"}, id="import ml_patterns.definitions"
        ),
        # DuckDB, too, would have a word to say as each worker ends.
        pytest.param(TRAINING_WORKER, COMMON, id="a worker that trains"),
        pytest.param(DEFINITIONS, RARE | FRAMES, id="the definitions of the bundled pipeline"),
    ],
)
def test_no_library_is_loaded_before_it_is_used(code: str, too_early: set[str]) -> None:
    assert not loaded(code) & too_early


def test_the_front_door_loads_nothing_but_dagster() -> None:
    assert loaded(FRONT_DOOR) - loaded("import dagster") == {"ml_patterns"}
