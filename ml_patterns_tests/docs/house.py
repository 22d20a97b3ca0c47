"""The drawing of the house in `docs/architecture.md`, made from the rooms' imports.

Belongs here: who imports whom, as a Mermaid graph. Does not: which imports are allowed
(`test_architecture.py`). `python -m ml_patterns_tests.docs.house` draws it anew.
"""

import re
from functools import cache

from ml_patterns_tests.docs.tree import PROJECT
from ml_patterns_tests.test_architecture import PACKAGE, imports, is_shell, modules

PAGE = PROJECT / "docs" / "architecture.md"
_ABOVE = {"commands", "demo", "defs"}
"""Folders that stand above the rooms and may use all of them."""


@cache
def rooms() -> frozenset[str]:
    """The rooms: folders of the package, those above them left out."""
    first = {name.split(".")[0] for name in modules()}
    return frozenset(name for name in first - _ABOVE if (PACKAGE / name).is_dir())


@cache
def edges() -> dict[tuple[str, str], bool]:
    """(room, room that it imports) -> whether its core does, and not only what speaks Dagster."""
    found: dict[tuple[str, str], bool] = {}
    for name, path in modules().items():
        room = name.split(".")[0]
        for imported in imports(path):
            package, _, other = imported.partition(".")
            other = other.split(".")[0]
            if package == "ml_patterns" and room != other and {room, other} <= rooms():
                found[room, other] = found.get((room, other), False) or not is_shell(name)
    return found


def drawing() -> str:
    """The Mermaid graph, fence included; everything's arrow to `storage` is left to a sentence."""
    lines = [
        f"    {room} {'-->' if core else '-.->'} {other}\n"
        for (room, other), core in sorted(edges().items())
        if other != "storage"
    ]
    return f"```mermaid\ngraph TD\n{''.join(lines)}```\n"


def redrawn() -> str:
    """The page with the drawing as it must be."""
    return re.sub(r"```mermaid\n.*?```\n", lambda _: drawing(), PAGE.read_text(), flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(redrawn())
