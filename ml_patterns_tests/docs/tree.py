"""A reader's copy of the project, with the environment that `make` would have made.

Belongs here: copying, and putting the demo's stores back. Does not: what is run there.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[2]
_MADE_HERE = ("__pycache__", "node_modules", "dist", "*.egg-info")


def fresh_copy(folder: Path) -> Path:
    """The project as a clone has it, and `.venv/bin` with this environment's commands.

    What the commands import is the copy's code: their Python finds it before the installed one.
    """
    shutil.copytree(PROJECT, folder, ignore=_left_out)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    ours = Path(sys.executable).parent
    for file in ours.iterdir():
        (binaries / file.name).symlink_to(file)
    ready = binaries / ".ready"  # newer than the pinned dependencies: make has nothing to install
    ready.unlink(missing_ok=True)
    ready.touch()
    return folder


def _left_out(folder: str, names: Sequence[str]) -> set[str]:
    """What .gitignore keeps out of a clone."""
    hidden = {name for name in names if name.startswith(".")} - {".ci", ".github", ".gitignore"}
    made = shutil.ignore_patterns(*_MADE_HERE)(folder, names)
    data = set(names) - {"deliveries"} if Path(folder) == PROJECT / "data" else set[str]()
    example = {"data"} if Path(folder).parent == PROJECT / "examples" else set[str]()
    return hidden | made | data | example


class Stores:
    """The demo's stores as it left them, so that every page begins with them.

    They are put back where they were: the ledger knows files by their whole path.
    """

    def __init__(self, demo: Path, kept: Path) -> None:
        self._demo, self._kept = demo, kept
        shutil.copytree(demo, kept, ignore=shutil.ignore_patterns("events"))

    def put_back(self) -> None:
        """Forgets what the commands of a page did; the landed files are nobody's to change."""
        for path in self._demo.iterdir():
            if path.name != "events":
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        shutil.copytree(self._kept, self._demo, dirs_exist_ok=True)


def environment(copy: Path) -> dict[str, str]:
    """What a reader has after `source .venv/bin/activate` in the copy."""
    return {
        "PATH": f"{copy / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
    }
