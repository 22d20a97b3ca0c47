"""Every command, output, file, link and setting that the pages show is true.

The pages are followed in a copy of the project, one after the other, each with the stores that
`make demo` left behind. A page that needs another beginning has a test of its own.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_patterns_tests.docs.page import Command, blocks, commands
from ml_patterns_tests.docs.runner import follow, session
from ml_patterns_tests.docs.tree import PROJECT, Stores, environment, fresh_copy

PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((PROJECT / "docs").glob("*.md")))]

FOLLOWED_BY = {"docs/bring-your-own-events.md": "onboarding/test_tutorial.py"}
"""Pages with a test of their own, below `ml_patterns_tests/`."""

NOT_RUN: dict[str, dict[str, str]] = {
    "README.md": {
        "make dev": "serves until it is stopped; serving and the UI have tests of their own",
        "make test": "is what runs this test",
    },
    "docs/operations.md": {
        "scripts/ci.sh": "typed by operations/test_ci.py, which compares what it prints",
        "REGIONS=": "typed by operations/test_ci.py, which compares what it prints",
    },
}
"""Beginnings of commands that no test follows, and why."""

PORTS = ["3000", "8085"]


def shown(page: str) -> Iterator[Command]:
    """The commands of a page."""
    for block in blocks(PROJECT / page):
        yield from commands(block)


def test_what_is_not_run_is_still_there() -> None:
    for page, reasons in NOT_RUN.items():
        for beginning in reasons:
            assert any(c.text.startswith(beginning) for c in shown(page)), (page, beginning)


def test_a_page_that_is_followed_elsewhere_is_named_there() -> None:
    for page, test in FOLLOWED_BY.items():
        assert page.rsplit("/", 1)[-1] in (PROJECT / "ml_patterns_tests" / test).read_text()


@pytest.mark.slow
def test_the_pages_print_what_they_say(tmp_path: Path) -> None:
    """One test for all pages: a demo takes half a minute, and they share what it left behind."""
    copy = fresh_copy(tmp_path / "ml_patterns")
    stores: Stores | None = None
    failures = []
    for page in PAGES:
        left_out = [*NOT_RUN.get(page, {}), *(() if shutil.which("curl") else ("curl",))]
        excused = (*left_out, "echo $?")
        if page in FOLLOWED_BY or all(c.text.startswith(excused) for c in shown(page)):
            continue
        if stores is not None:
            stores.put_back()
        state = tmp_path / page.replace("/", "-")
        state.mkdir()
        with session(copy, state, ports=PORTS, **environment(copy)) as reader:
            try:
                follow(copy / page, reader, leave_out=left_out)
            except AssertionError as error:
                failures.append(str(error))
        if stores is None:
            assert not failures, failures[0]
            stores = Stores(copy / "data" / "demo", tmp_path / "kept")
    assert not failures, "\n\n".join(failures)
