"""How the command's process ends: at once, but with everything done that it owes."""

import gc
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import duckdb

from ml_patterns.collecting import among_what_is_new

IN_A_PROCESS = """
import atexit, sys, threading
import ml_patterns.cli as cli
from ml_patterns.__main__ import main

class Told:
    def __del__(self):
        print("the process took itself apart")

told = Told()
atexit.register(print, "the exit handler ran")
command = cli.app

def app():
    try:
        command()
    finally:
        threading.Timer(0.2, print, ["the thread ended"]).start()

cli.app = app
sys.argv = ["ml-patterns", {argument!r}]
main()
"""


def ran(code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, at its end."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_threads_are_waited_for_and_exit_handlers_run_but_memory_is_left() -> None:
    done = ran(IN_A_PROCESS.format(argument="--help"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["the thread ended", "the exit handler ran"]


def test_what_was_typed_wrong_ends_as_it_always_did() -> None:
    done = ran(IN_A_PROCESS.format(argument="no-such-command"))
    assert done.returncode == 2
    assert "No such command 'no-such-command'" in done.stderr
    assert "the exit handler ran" in done.stdout


def test_an_error_of_ours_is_shown_whole() -> None:
    broken = "import ml_patterns.cli as cli\ncli.app = None\n" + IN_A_PROCESS
    done = ran(broken.format(argument="--help"))
    assert done.returncode == 1
    assert "TypeError: 'NoneType' object is not callable" in done.stderr
    assert "the exit handler ran" in done.stdout


def test_nothing_of_a_long_answer_is_lost(tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    duckdb.connect(str(warehouse)).close()
    query = "SELECT range AS number, repeat('x', 50) AS text FROM range(100_000)"
    done = subprocess.run(
        [sys.executable, "-m", "ml_patterns", "sql", query, "--json"],
        env={"ML_PATTERNS_WAREHOUSE": str(warehouse)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert len(json.loads(done.stdout)) == 100_000


LONG_WORK = """
import gc
everyday = gc.get_threshold()
from ml_patterns.collecting import collect_from_now_on, load_first
{before}
while_loading = gc.get_threshold()
collect_from_now_on()
print(while_loading > everyday, gc.get_threshold() == everyday, gc.get_freeze_count() > 1000)
"""


def test_what_works_long_collects_its_garbage_as_always() -> None:
    assert ran(LONG_WORK.format(before="load_first()")).stdout == "True True True\n"


def test_a_process_of_somebody_else_is_left_alone() -> None:
    assert ran(LONG_WORK.format(before="pass")).stdout == "False True False\n"


def test_a_long_step_searches_for_garbage_only_among_what_is_new() -> None:
    """And leaves things as they were, however it ends."""
    assert gc.get_freeze_count() == 0
    with suppress(ArithmeticError), among_what_is_new():
        assert gc.get_freeze_count() > 0
        raise ArithmeticError
    assert gc.get_freeze_count() == 0
