"""Following a page of the documentation as a reader would, and comparing what is printed.

Belongs here: running commands, comparing outputs. Does not: reading pages (`page.py`), what a page
is about (a test of the page makes the folder that its reader would sit in).

In an output `…` stands for any text within a line, and alone on a line for any lines. Blanks and
rules (`───`) count once, and seconds such as `4.2 s` match any seconds. A command must succeed,
unless the next one is `echo $?`. A command that ends in ` &` goes on in the background until the
session ends; its output is awaited, as a reader would.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from ml_patterns_tests.docs.page import Block, Command, blocks, commands

PATIENCE = 300.0
"""Seconds that a command may take: machines that run tests are busy."""

_OWN = (
    "ML_PATTERNS_", "DAGSTER_", "PYTEST_", "GITHUB_", "CI", "FORCE_COLOR", "PYTHONPATH",
    "DG_", "MAKE", "MFLAGS",
)  # fmt: skip
"""Variables that a reader does not have; `make` within `make` prints more."""

_NOT_THE_FIRST_TIME = "[cli.telemetry]\nenabled = false\n"
"""A `dg.toml`: without it, the first `dg` on a machine introduces itself before its output."""


def matches(expected: str, printed: str, *, anywhere: bool = False) -> bool:
    """Whether an output is what a page shows.

    Args:
        anywhere: it may stand among other lines.
    """
    if anywhere:
        expected = f"…\n{expected}\n…"
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else _pattern(line) + r"[ \t]*\n"
        for line in expected.rstrip().splitlines()
    )
    return re.fullmatch(pattern, f"{printed.rstrip()}\n" if printed.strip() else "") is not None


def _pattern(line: str) -> str:
    """A line of an output as a regular expression."""
    tolerant = []
    for word in re.split(r"(…|─+|\d[\d.,]* (?:ms|s|seconds)\b|[ \t]+)", line.strip()):
        seconds = re.fullmatch(r"\d[\d.,]* (ms|s|seconds)", word)
        if word == "…":
            tolerant.append(r".*?")
        elif seconds:
            tolerant.append(rf"\d[\d.,]* {seconds[1]}")
        elif word.startswith("─"):
            tolerant.append("─+")
        elif word.strip():
            tolerant.append(re.escape(word))
        elif word:
            tolerant.append(r"[ \t]+")
    return r"[ \t]*" + "".join(tolerant)


@dataclass
class Session:
    """A shell that remembers its folder and its exported variables from command to command.

    Attributes:
        ports: those that pages name, and those that are used instead, so that a page gets on with
            whatever else runs on the machine.
    """

    folder: Path
    state: Path
    environment: dict[str, str]
    patience: float = PATIENCE
    ports: Mapping[str, str] = field(default_factory=dict)
    _code: int = 0
    _background: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, command: Command, page: Path, code: int | None = 0) -> str:
        """Runs one command and compares.

        Args:
            code: the exit code that is right; None where the page asks for it next.

        Raises:
            AssertionError: another output or exit code; shows both and where the page says it.
        """
        place = f"{page.name}:{command.line}: $ {command.text}"
        if command.text.endswith(" &"):
            return self._start(command, place)
        done = subprocess.run(
            ["bash", "-c", self._script(command.text)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=self.patience,
            text=True,
        )
        self._code = done.returncode
        printed = self._as_on_the_page(done.stdout)
        assert code in (None, self._code), f"{place}\nexit code {self._code}\n{printed}"
        _compare(place, command.expected, printed)
        return printed

    def write(self, block: Block) -> None:
        """Writes the file that a block shows."""
        assert block.path
        path = self._where() / block.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)

    def close(self) -> None:
        """Ends what still runs in the background."""
        for process in self._background:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._background:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _where(self) -> Path:
        """The folder that the commands have gone to."""
        told = subprocess.run(
            ["bash", "-c", self._script("pwd")],
            cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return Path(told.stdout.strip())

    def _script(self, text: str, *, remember: bool = True) -> str:
        state = shlex.quote(str(self.state))
        keep = f'\n_code=$?; {{ export -p; echo cd $(printf %q "$PWD"); }} >{state}; exit $_code'
        for ours, used in self.ports.items():
            text = re.sub(rf"\b{ours}\b", used, text)
        begin = f"[ ! -e {state} ] || . {state}\n(exit {self._code})\n"
        return f"{begin}{text}{keep if remember else ''}"

    def _as_on_the_page(self, printed: str) -> str:
        for ours, used in self.ports.items():
            printed = re.sub(rf"\b{used}\b", ours, printed)
        return printed

    def _start(self, command: Command, place: str) -> str:
        log = self.state.with_name(f"background-{len(self._background)}.log")
        script = self._script(command.text.removesuffix(" &"), remember=False)
        with log.open("wb") as sink:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder, env=self.environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._background.append(process)
        deadline = time.monotonic() + self.patience
        while command.expected.strip():
            printed = self._as_on_the_page(log.read_text())
            if matches(command.expected, printed, anywhere=True):
                break
            running = process.poll() is None and time.monotonic() < deadline
            assert running, f"{place}\ndid not print\n{command.expected}\nbut\n{printed}"
            time.sleep(0.1)
        return self._as_on_the_page(log.read_text())


def _compare(place: str, expected: str, printed: str) -> None:
    assert matches(expected, printed), f"{place}\nthe page shows\n{expected}\nprinted is\n{printed}"


@contextmanager
def session(
    folder: Path, state: Path, ports: Sequence[str] = (), **variables: str
) -> Iterator[Session]:
    """A reader's shell: this environment's commands on PATH, a terminal 100 columns wide.

    Args:
        folder: where the reader sits.
        state: an existing folder outside of it, for what the session remembers.
        ports: that the page names; free ones are used instead of them.
        variables: the reader's environment, besides what this process has; variables of this
            project are not inherited.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OWN)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    settings = state / "dg.toml"
    settings.write_text(_NOT_THE_FIRST_TIME)
    environment |= {"PATH": path, "COLUMNS": "100", "TERM": "dumb", "DG_CLI_CONFIG": str(settings)}
    environment |= variables
    opened = Session(folder, state / "session.sh", environment, ports=dict(_free(ports)))
    try:
        yield opened
    finally:
        opened.close()


def _free(ports: Sequence[str]) -> Iterator[tuple[str, str]]:
    with ExitStack() as held:
        for port in ports:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            yield port, str(probe.getsockname()[1])


def follow(
    page: Path,
    reader: Session,
    *,
    exit_codes: Mapping[str, int] | None = None,
    leave_out: Sequence[str] = (),
) -> list[str]:
    """Does everything that a page says, in order.

    Args:
        exit_codes: of the commands (the beginning of their text) whose exit code is not 0.
        leave_out: beginnings of commands that are not run; say beside it who runs them.

    Returns:
        The commands that were run.

    Raises:
        AssertionError: a command ended otherwise than the page says, or none was run.
    """
    codes, done = exit_codes or {}, list[str]()
    for block in blocks(page):
        if block.path:
            reader.write(block)
        found = [*commands(block)]
        left_out = False
        for command, after in zip_longest(found, found[1:]):
            left_out = command.text.startswith(tuple(leave_out)) or (
                left_out and command.text == "echo $?"
            )
            if left_out:
                continue
            code = next((c for start, c in codes.items() if command.text.startswith(start)), 0)
            asked = after is not None and after.text == "echo $?"
            reader.run(command, page, None if asked else code)
            done.append(command.text)
    assert done, f"{page} has no command to follow"
    return done
