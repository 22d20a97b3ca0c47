"""docs/bring-your-own-events.md does what it says, in a fresh copy of the repository."""

import shutil
import socket
from pathlib import Path

import pytest

from ml_patterns_tests.conftest import PROJECT
from ml_patterns_tests.docs.runner import follow, session

PAGE = PROJECT / "docs" / "bring-your-own-events.md"
PORT = "8085"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


@pytest.mark.slow
def test_the_tutorial_is_followed_command_by_command(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "orders")
    shutil.copytree(PROJECT / "ml_patterns", copy / "ml_patterns", ignore=ignored)
    shutil.copytree(PROJECT / "data" / "deliveries", copy / "data" / "deliveries")
    for name in ("pyproject.toml", "workspace.yaml"):
        shutil.copy(PROJECT / name, copy)
    # The page's port may be taken where other tests run beside this one.
    port = str(free_port())
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text().replace(PORT, port))
    url = f"http://127.0.0.1:{port}"
    with session(copy, tmp_path, PYTHONPATH=str(copy), ML_PATTERNS_MODEL_URL=url) as reader:
        done = follow(
            page,
            reader,
            exit_codes={"ml-patterns plan": 2, "ml-patterns status": 2},
            leave_out=() if shutil.which("curl") else ("curl",),
        )
    assert len(done) >= 15
