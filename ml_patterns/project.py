"""The Dagster project that a command runs in, and its pipelines.

Belongs here: finding and loading. Does not: running anything (`catch_up.py`).
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import ValidationError

from ml_patterns.errors import SettingsError, UserError
from ml_patterns.installation import Installation, project_root
from ml_patterns.pipeline import EventModelPipeline
from ml_patterns.settings import PipelineSettings

INSTANCE_TEMPLATE = """\
# How this Dagster instance runs ml_patterns. Written once; yours to change.
concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    granularity: op
    default_limit: 1  # the pool `warehouse`: one writer of the DuckDB file at a time
run_monitoring:
  enabled: true
  free_slots_after_run_end_seconds: 60
telemetry:
  enabled: false
"""


@dataclass(frozen=True)
class Project:
    """A project's folder and what its YAML files define."""

    root: Path
    tree: dg.ComponentTree

    @classmethod
    def load(cls, start: Path | None = None) -> Self:
        """Loads the project of a folder (default: the working directory).

        Raises:
            SettingsError: the folder belongs to no Dagster project, or to one whose definitions
                cannot be imported.
        """
        root = project_root(start)
        marker = root / "pyproject.toml"
        if not marker.is_file() or "[tool.dg" not in marker.read_text():
            raise SettingsError(
                f"{root} is in no Dagster project: run this where pyproject.toml has [tool.dg]"
            )
        if str(root) not in sys.path:
            sys.path.insert(0, str(root))
        _keep_quiet()
        try:
            return cls(root, dg.ComponentTree.for_project(root))
        except (ModuleNotFoundError, dg.DagsterError) as error:
            # Dagster wraps it where the project's own package is missing.
            missing = error.__cause__ if isinstance(error, dg.DagsterError) else error
            if not isinstance(missing, ModuleNotFoundError):
                raise
            raise SettingsError(
                f"{marker} leads to {missing.name}, and there is no such module; make it, install "
                "it, or correct [tool.dg.project]"
            ) from error

    @cached_property
    def pipelines(self) -> dict[str, PipelineSettings]:
        """Settings of every pipeline, by name."""
        with _one_sentence():
            found = self.tree.get_all_components(of_type=EventModelPipeline)
        return {component.settings.name: component.settings for component in found}

    @cached_property
    def definitions(self) -> dg.Definitions:
        """Everything under the project's `defs` folder.

        Without the schemas of all component types that are installed, which `build_defs()` adds for
        the editor of the UI.
        """
        with _one_sentence():
            return self.tree.build_defs_at_path(self.tree.defs_module_path)

    @property
    def installation(self) -> Installation:
        """Addresses of the stores."""
        return Installation.from_environment(self.root)

    def pipeline(self, name: str) -> PipelineSettings:
        """Settings of one pipeline.

        Raises:
            SettingsError: there is none of that name; names those that are there.
        """
        if name not in self.pipelines:
            there = ", ".join(sorted(self.pipelines)) or "none"
            raise SettingsError(f"no pipeline {name} in {self.root}; there are: {there}")
        return self.pipelines[name]


def dagster_home(root: Path) -> Path:
    """DAGSTER_HOME, or `data/dagster` of the project; made with our template where it is new."""
    home = Path(os.environ.get("DAGSTER_HOME") or root / "data" / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists() and not any(home.iterdir()):
        (home / "dagster.yaml").write_text(INSTANCE_TEMPLATE)
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turns what Dagster wraps around a mistake in a YAML file into the mistake itself."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise SettingsError(str(cause)) from error
            if isinstance(cause, ValidationError):
                raise SettingsError(_described(cause)) from error
            cause = cause.__cause__
        raise


def _described(error: ValidationError) -> str:
    """Each mistake with the place that Dagster found for it: key, file and line."""
    mistakes = []
    for entry in error.errors():
        place = ".".join(map(str, entry["loc"])).strip("`")
        mistakes.append(f"{place}: {entry['msg'].removeprefix('Value error, ')}")
    return "; ".join(mistakes)


def _keep_quiet() -> None:
    """Dagster's notes on what it may still change are for us, not for who types a command."""
    for category in (dg.BetaWarning, dg.PreviewWarning, dg.SupersessionWarning):
        warnings.simplefilter("ignore", category)
