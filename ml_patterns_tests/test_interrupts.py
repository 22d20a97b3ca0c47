"""Who interrupts a command, or cancels its run, is obeyed at once, whatever DuckDB computes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from ml_patterns.interrupts import interrupts_seen, on_interrupt
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.storage.test_side_by_side import ENDLESS
from ml_patterns_tests.ui.platform import environment_of
from ml_patterns_tests.ui.shop import AGGREGATES, HOURS, REGIONS, make_shop

ENDLESS_AGGREGATES = AGGREGATES.replace("count(*)", f"count(*) + ({ENDLESS})")


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Whatever a shell starts in the background ignores SIGINT, and hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ml_patterns(project: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "ml_patterns", *arguments],
        cwd=project, env=environment_of(project.parent), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def await_computing(process: "subprocess.Popen[str]", warehouse: Path) -> None:
    """Returns when a process has the warehouse open and used a second of CPU more than before."""
    folder = Path(f"/proc/{process.pid}")

    def has_it_open() -> bool:
        with suppress(FileNotFoundError):  # of those that are closed meanwhile
            return any(file.readlink() == warehouse for file in (folder / "fd").iterdir())
        return False

    def used() -> float:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    begun = None
    while begun is None or used() < begun + 1:
        assert process.poll() is None, process.communicate()
        begun = (begun or used()) if has_it_open() else None
        time.sleep(0.02)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stops_in_the_middle_of_its_sql(tmp_path: Path, sign: signal.Signals) -> None:
    project = tmp_path / "project"
    folder = make_shop(project, "interrupted_shop")
    (folder / "aggregates.sql").write_text(ENDLESS_AGGREGATES)
    with ml_patterns(project, "run", "shop") as process:
        try:
            assert process.stdout
            assert "ingest" in process.stdout.readline()
            await_computing(process, tmp_path / "warehouse.duckdb")
            process.send_signal(sign)
            told, why = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert told == ""  # no other step began
    assert why == ("ml-patterns: interrupted during aggregates; what is not committed stays due\n")
    (folder / "aggregates.sql").write_text(AGGREGATES)
    with ml_patterns(project, "run", "shop", "--steps", "aggregates") as again:
        again.communicate(timeout=120)
    assert again.returncode == 0
    with Warehouse(tmp_path / "warehouse.duckdb").connect(read_only=True) as connection:
        found = connection.execute("SELECT count(*) FROM shop.event_aggregates").fetchone()
    assert found == (HOURS * len(REGIONS),)


def test_a_query_stops(tmp_path: Path) -> None:
    project = tmp_path / "project"
    make_shop(project, "asked_shop")
    with Warehouse(tmp_path / "warehouse.duckdb").connect():
        pass
    with ml_patterns(project, "sql", "SELECT sum(hash(range)) FROM range(10000000000000)") as asked:
        try:
            await_computing(asked, tmp_path / "warehouse.duckdb")
            asked.send_signal(signal.SIGINT)
            told, why = asked.communicate(timeout=60)
        finally:
            asked.kill()
    assert (asked.returncode, told, why) == (130, "", "ml-patterns: interrupted\n")


def test_signals_are_seen_whoever_handles_them() -> None:
    handled = []
    before = signal.signal(signal.SIGTERM, lambda *_: handled.append(True))
    try:
        with interrupts_seen() as first:
            signal.raise_signal(signal.SIGTERM)
        with interrupts_seen() as second:
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handled == [True]
    assert first()
    assert not second()


def test_contexts_are_left_in_any_order() -> None:
    handled = []
    before = signal.signal(signal.SIGTERM, lambda *_: handled.append(True))
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    somebody = signal.set_wakeup_fd(writer.fileno())
    told, first, second = [threading.Event(), threading.Event()], ExitStack(), ExitStack()
    try:
        with first, second:
            first.enter_context(on_interrupt(told[0].set))
            second.enter_context(on_interrupt(told[1].set))
            signal.raise_signal(signal.SIGTERM)
            assert all(event.wait(30) for event in told)
            assert reader.recv(9) == bytes([signal.SIGTERM])  # whoever wanted to know is told, too
            first.close()
        with interrupts_seen() as interrupted:
            signal.raise_signal(signal.SIGTERM)
        assert interrupted()
    finally:
        signal.set_wakeup_fd(somebody)
        signal.signal(signal.SIGTERM, before)
        reader.close()
        writer.close()
    assert handled == [True, True]


def test_a_fork_keeps_its_signals_to_itself() -> None:
    told = threading.Event()
    with on_interrupt(told.set):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
            signal.raise_signal(signal.SIGTERM)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        with interrupts_seen() as interrupted:
            pass
    assert os.waitstatus_to_exitcode(status) == 7
    assert not interrupted()
    assert not told.is_set()


def test_another_thread_sees_none() -> None:
    answers: list[bool] = []

    def look() -> None:
        with interrupts_seen() as interrupted:
            pass
        answers.append(interrupted())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert answers == [False]
