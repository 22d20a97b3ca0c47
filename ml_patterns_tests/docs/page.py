"""A page as a reader sees it: its blocks, their commands, and what is printed below each.

Belongs here: reading a page. Does not: running anything (`runner.py`).

What a page may hold:

- a block `console`: lines that begin with `$ ` are commands (continued after a `\\` at the end of
  the line, or in lines that begin with `> `), what stands below each is its output, standard error
  included;
- a block `sh` or `bash`: commands without output, whatever they print;
- a block whose info string names a file after the language, such as `python make_orders.py`:
  the file is written, relative to where the page's commands have gone by then.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_SHELL = ("sh", "bash")


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
    """The commands of a block, each with its output; none in a block that is no shell's."""
    if block.path or block.language not in ("console", *_SHELL):
        return
    if block.language in _SHELL:
        yield Command(block.text.rstrip(), "…", block.line)
        return
    text, line, output = "", 0, list[str]()
    for number, content in enumerate(block.text.splitlines(), block.line):
        if text.endswith("\\") and not output:
            text = f"{text}\n{content}"
        elif text and not output and content.startswith("> "):
            text = f"{text}\n{content[2:]}"
        elif content.startswith("$ "):
            if text:
                yield Command(text, "\n".join(output), line)
            text, line, output = content[2:], number, []
        else:
            output.append(content)
    if text:
        yield Command(text, "\n".join(output), line)
