"""The page on the architecture says what the code is like."""

import importlib

import pytest

from ml_patterns.storage.operational import metadata
from ml_patterns_tests.docs.house import PAGE, edges, redrawn, rooms
from ml_patterns_tests.test_architecture import (
    SHELLS,
    SHELLS_OF_THE_HOUSE,
    imports,
    modules,
)


def test_the_drawing_has_exactly_the_imports_of_the_rooms() -> None:
    """`python -m ml_patterns_tests.docs.house` draws it anew."""
    assert redrawn() == PAGE.read_text()


def test_every_room_stands_on_storage_and_is_on_the_page() -> None:
    for room in rooms() - {"storage"}:
        assert (room, "storage") in edges()
        assert f"`{room}/`" in PAGE.read_text()


def test_every_operational_table_has_a_writer_on_the_page() -> None:
    for name in modules():
        if name.endswith(".tables"):
            importlib.import_module(f"ml_patterns.{name}")
    for table in metadata.tables:
        assert f"`{table}`" in PAGE.read_text(), table


@pytest.mark.parametrize("name", sorted(SHELLS | SHELLS_OF_THE_HOUSE))
def test_every_module_that_speaks_dagster_is_on_the_page(name: str) -> None:
    assert f"`{name.replace('.', '/')}.py`" in PAGE.read_text()


def test_what_dagster_does_not_export_is_on_the_page() -> None:
    for name in imports(modules()["dagster_internals"]):
        if name.startswith("dagster._"):
            last = name.rsplit(".", 1)[-1]
            assert f"`{last}`" in PAGE.read_text() or last.islower(), name
