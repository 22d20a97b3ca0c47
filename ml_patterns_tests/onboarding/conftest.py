"""A project without pipelines, and a look at what is written into it."""

import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import yaml

from ml_patterns.incremental.build import build
from ml_patterns.incremental.manifest import ingest
from ml_patterns.incremental.plan import LAYERS, plan
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.features import read_features
from ml_patterns_tests.conftest import MARKER, PROJECT

NAME = "shop"


@pytest.fixture
def project(tmp_path: Path, installation: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an empty Dagster project, and the working directory."""
    root = tmp_path / "project"
    (root / NAME / "defs").mkdir(parents=True)
    (root / "pyproject.toml").write_text(MARKER.format(name=NAME))
    for folder in (root / NAME, root / NAME / "defs"):
        (folder / "__init__.py").touch()
    definitions = (PROJECT / "ml_patterns" / "definitions.py").read_text()
    (root / NAME / "definitions.py").write_text(definitions)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    yield root
    for module in [module for module in sys.modules if module.split(".")[0] == NAME]:
        del sys.modules[module]


def settings_of(folder: Path, project: Path) -> PipelineSettings:
    """The settings that a folder's `defs.yaml` holds."""
    document = yaml.safe_load((folder / "defs.yaml").read_text())
    assert document["type"] == "ml_patterns.EventModelPipeline"
    settings = PipelineSettings.model_validate(document["attributes"])
    return settings.located(folder, project)


Features = Callable[..., pd.DataFrame]


def features(settings: PipelineSettings, now: datetime) -> pd.DataFrame:
    """What a pipeline computes of all its files, in memory."""
    with duckdb.connect() as connection:
        found = ingest(connection, settings, lambda: now)
        assert not found.unreadable
        for layer in LAYERS:
            due = [entry.partition for entry in plan(connection, settings, layer, now)]
            assert len(list(build(connection, settings, layer, due, lambda: now))) == len(due)
        return read_features(connection, settings.name)
