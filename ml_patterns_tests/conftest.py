"""What all tests share: an installation of their own, so that none sees another's data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

MARKER = """\
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{name}"
"""


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that all stores of this test lie in."""
    folder = tmp_path / "installation"
    (folder / "dagster").mkdir(parents=True)
    monkeypatch.setenv("ML_PATTERNS_WAREHOUSE", str(folder / "warehouse.duckdb"))
    monkeypatch.setenv("ML_PATTERNS_STATE_URL", f"sqlite:///{folder / 'state.sqlite'}")
    monkeypatch.setenv("ML_PATTERNS_ARTIFACTS", str(folder / "artifacts"))
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    return folder


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Path]:
    """Makes a Dagster project with one pipeline: a copy of the bundled one, edited."""

    def make(name: str, *edits: tuple[str, str]) -> Path:
        root = tmp_path / name
        folder = root / name / "defs" / "deliveries"
        folder.mkdir(parents=True)
        (root / "pyproject.toml").write_text(MARKER.format(name=name))
        (root / name / "__init__.py").touch()
        shutil.copy(PROJECT / "ml_patterns" / "definitions.py", root / name)
        for file in (PROJECT / "ml_patterns" / "defs" / "deliveries").iterdir():
            if file.is_file():
                shutil.copy(file, folder)
        document = (folder / "defs.yaml").read_text()
        for old, new in edits:
            assert old in document
            document = document.replace(old, new)
        (folder / "defs.yaml").write_text(document)
        return root

    return make
