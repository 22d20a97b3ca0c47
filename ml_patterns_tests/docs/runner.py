"""Following a page of the documentation as a reader would, and comparing what is printed.

Belongs here: reading a page's blocks, running its commands, comparing outputs. Does not: what a
page is about; a test of the page makes the folder that its reader would sit in.

What a page may hold:

- a block `console`: lines that begin with `$ ` are commands (continued after a `\\` at the end of
  the line), what stands below each is its output, standard error included;
- a block whose info string names a file after the language, such as `python make_orders.py`:
  the file is written, relative to where the page's commands have gone by then.

In an output `…` stands for any text within a line, and alone on a line for any lines. Blanks count
once, and seconds such as `4.2 s` match any seconds. A command that ends in ` &` goes on in the
background until the session ends; its output is awaited, as a reader would.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 300.0
"""Seconds that a command may take: machines that run tests are busy."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_OWN = ("ML_PATTERNS_", "DAGSTER_")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is the content of, its text.

    Attributes:
        line: of the page, of the block's first line of text.
    """

    language: str
    path: str | None
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a page, and what it should print; `line` is the page's."""

    text: str
    expected: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    info: list[str] | None = None
    indent, collected, start = "", list[str](), 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if info is None and fence:
            info, indent, collected, start = fence["info"].split(), fence["indent"], [], number + 1
        elif info is not None and fence:
            language, path = (*info, "", "")[:2]
            yield Block(language, path or None, "".join(f"{text}\n" for text in collected), start)
            info = None
        else:
            collected.append(line.removeprefix(indent))


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block of language `console`, each with its output."""
    text, line, output = "", 0, list[str]()
    for number, content in enumerate(block.text.splitlines(), block.line):
        if text.endswith("\\") and not output:
            text = f"{text}\n{content}"
        elif content.startswith("$ "):
            if text:
                yield Command(text, "\n".join(output), line)
            text, line, output = content[2:], number, []
        else:
            output.append(content)
    if text:
        yield Command(text, "\n".join(output), line)


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
    for word in re.split(r"(…|\d[\d.,]* (?:ms|s|seconds)\b|[ \t]+)", line.strip()):
        seconds = re.fullmatch(r"\d[\d.,]* (ms|s|seconds)", word)
        if word == "…":
            tolerant.append(r".*?")
        elif seconds:
            tolerant.append(rf"\d[\d.,]* {seconds[1]}")
        elif word.strip():
            tolerant.append(re.escape(word))
        elif word:
            tolerant.append(r"[ \t]+")
    return r"[ \t]*" + "".join(tolerant)


@dataclass
class Session:
    """A shell that remembers its folder and its exported variables from command to command."""

    folder: Path
    state: Path
    environment: dict[str, str]
    patience: float = PATIENCE
    _background: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, command: Command, page: Path, code: int = 0) -> str:
        """Runs one command and compares.

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
        assert done.returncode == code, f"{place}\nexit code {done.returncode}\n{done.stdout}"
        _compare(place, command.expected, done.stdout)
        return done.stdout

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
        return f"[ ! -e {state} ] || . {state}\n{text}{keep if remember else ''}"

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
            printed = log.read_text()
            if matches(command.expected, printed, anywhere=True):
                break
            running = process.poll() is None and time.monotonic() < deadline
            assert running, f"{place}\ndid not print\n{command.expected}\nbut\n{printed}"
            time.sleep(0.1)
        return log.read_text()


def _compare(place: str, expected: str, printed: str) -> None:
    assert matches(expected, printed), f"{place}\nthe page shows\n{expected}\nprinted is\n{printed}"


@contextmanager
def session(folder: Path, state: Path, **variables: str) -> Iterator[Session]:
    """A reader's shell: this environment's commands on PATH, a terminal 100 columns wide.

    Args:
        folder: where the reader sits.
        state: an existing folder outside of it, for what the session remembers.
        variables: the reader's environment, besides what this process has; variables of this
            project are not inherited.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OWN)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {"PATH": path, "COLUMNS": "100", "TERM": "dumb", **variables}
    opened = Session(folder, state / "session.sh", environment)
    try:
        yield opened
    finally:
        opened.close()


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
        if block.language != "console":
            if block.path:
                reader.write(block)
            continue
        for command in commands(block):
            if command.text.startswith(tuple(leave_out)):
                continue
            code = next((c for start, c in codes.items() if command.text.startswith(start)), 0)
            reader.run(command, page, code)
            done.append(command.text)
    assert done, f"{page} has no command to follow"
    return done
