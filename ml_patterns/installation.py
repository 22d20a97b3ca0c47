"""Where this installation keeps its things.

Belongs here: the four environment variables and their defaults. Does not: what a pipeline does
(its YAML).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


def project_root(start: Path | None = None) -> Path:
    """The nearest folder upwards that is a Dagster project (`[tool.dg]`), else `start` itself."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        marker = folder / "pyproject.toml"
        if marker.is_file() and "[tool.dg" in marker.read_text():
            return folder
    return start


@dataclass(frozen=True)
class Installation:
    """Addresses of warehouse, operational database, artifacts and model server.

    Attributes:
        warehouse: DuckDB file.
        state_url: SQLAlchemy URL of the operational database.
        artifacts: folder or fsspec URL.
        model_url: base URL of the model server.
    """

    warehouse: Path
    state_url: str
    artifacts: str
    model_url: str

    @classmethod
    def from_environment(cls, root: Path | None = None) -> Self:
        """Reads ML_PATTERNS_WAREHOUSE, _STATE_URL, _ARTIFACTS and _MODEL_URL.

        What is unset lies in the project's `data/`; the model server is expected on loopback.
        """
        data = (root or project_root()) / "data"
        read = os.environ.get
        return cls(
            warehouse=Path(read("ML_PATTERNS_WAREHOUSE") or data / "warehouse.duckdb"),
            state_url=read("ML_PATTERNS_STATE_URL") or f"sqlite:///{data / 'state.sqlite'}",
            artifacts=read("ML_PATTERNS_ARTIFACTS") or str(data / "artifacts"),
            model_url=read("ML_PATTERNS_MODEL_URL") or "http://127.0.0.1:8085",
        )
