"""The arrows of the design, read from the imports.

definitions -> pipeline -> assets, checks, sensors -> core -> storage. Rooms meet through asset keys
and through `registry/` and `storage/`.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ml_patterns"
ROOMS = ("incremental", "fan_out", "branching", "retry", "circuit_breaker")
SHELLS = {"assets", "checks", "jobs", "reporting", "sensors", "steps", "resources"}
"""Modules of a room that speak Dagster."""

SHELLS_OF_THE_HOUSE = {
    "automation", "catch_up", "dagster_internals", "definitions", "dev", "instance", "jobs",
    "overview", "partitions", "pipeline", "project", "run_command", "scaffold", "table_metadata",
    "whiteboard", "demo.story",
}  # fmt: skip
"""Modules above the rooms that speak Dagster."""


def name_of(path: Path) -> str:
    """Dotted name below the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def modules() -> dict[str, Path]:
    """All modules of the package."""
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, *, deferred: bool = True) -> Iterator[str]:
    """Full names that a module imports; with `deferred`, those inside of functions, too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if deferred else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_shell(name: str) -> bool:
    """Whether a module may import Dagster."""
    return name.rsplit(".", 1)[-1] in SHELLS or name in SHELLS_OF_THE_HOUSE


CORE = [name for name in modules() if not is_shell(name) and name != "__init__"]


@pytest.mark.parametrize("name", CORE)
def test_the_core_is_free_of_dagster(name: str) -> None:
    found = {module.split(".")[0] for module in imports(modules()[name])}
    assert not {module for module in found if module.startswith("dagster")}


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_shell(name: str) -> None:
    if name.split(".")[0] in ("cli", "commands", "demo"):
        return  # they stand above the rooms, as Dagster does
    shells = {f"ml_patterns.{module}" for module in modules() if is_shell(module)}
    assert not set(imports(modules()[name])) & shells


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_the_assets_of_another(room: str) -> None:
    for name, path in modules().items():
        if name.split(".")[0] != room:
            continue
        others = {f"ml_patterns.{other}.assets" for other in ROOMS if other != room}
        assert not set(imports(path)) & others, name


def test_only_one_module_reaches_into_dagsters_core() -> None:
    reaching = {
        name
        for name, path in modules().items()
        if any(module.startswith("dagster._") for module in imports(path))
    }
    assert reaching == {"dagster_internals"}


@pytest.mark.parametrize("name", [n for n in modules() if n.startswith("storage.")])
def test_storage_stands_at_the_bottom(name: str) -> None:
    allowed = {"base", "errors", "installation", "interrupts", "storage"}
    # The engine creates every room's tables, so it must know them; it does when it is asked for.
    found = {
        module.split(".")[1]
        for module in imports(modules()[name], deferred=name != "storage.operational")
        if module.startswith("ml_patterns.")
    }
    assert found <= allowed


@pytest.mark.parametrize("name", [n for n in modules() if not n.endswith("__init__")])
def test_every_module_says_what_belongs_there(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(modules()[name].read_text()))
    assert docstring


@pytest.mark.parametrize("module", ["ml_patterns", "ml_patterns.cli", "ml_patterns.serving.app"])
def test_what_answers_at_once_does_not_load_dagster(module: str) -> None:
    """`--help` and the model server once took a second longer for an import they never used."""
    code = f"import sys, {module}; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_code_location_loads_in_a_fresh_interpreter() -> None:
    code = "from ml_patterns.definitions import defs; defs()"
    root = PACKAGE.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
