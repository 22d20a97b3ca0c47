"""What follows the documentation must notice a page that no longer tells the truth."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ml_patterns_tests.docs.page import blocks, commands
from ml_patterns_tests.docs.runner import follow, matches, session

PAGE = """\
# A page

```python make.py
from pathlib import Path
Path("made.txt").write_text("42 rows\\n")
```

```console
$ mkdir work && cd work
$ python ../make.py
$ cat \\
    made.txt
42 rows
$ echo 'two
> lines'
two
lines
$ export NAME=reader; sleep 0.01; echo "$NAME took 0.01 s"
reader took 7.3 s
$ echo $NAME; echo two >&2; ls; false
reader
…
made.txt
```

```console
$ exit 3
$ echo $?
3
$ echo "listening on 8085"; echo '1 ─────────'
listening on 8085
1 ───
```

```sh
echo not compared
[ "$(pwd)" != / ] &&
    touch by-sh
```

- In a list:

  ```console
  $ (echo up; sleep 100) &
  up
  ```
"""


def page(folder: Path, text: str = PAGE) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_a_page_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    with session(folder, tmp_path) as reader:
        done = follow(page(tmp_path), reader, exit_codes={"echo $NAME": 1})
    assert len(done) == 11
    assert {path.name for path in (folder / "work").iterdir()} == {"made.txt", "by-sh"}


def test_what_is_left_out_takes_its_exit_code_along(tmp_path: Path) -> None:
    text = "```console\n$ make lock\n$ echo $?\n9\n$ echo $?\n9\n$ true\n```\n"
    with session(tmp_path, tmp_path) as reader:
        assert follow(page(tmp_path, text), reader, leave_out=["make"]) == ["true"]


def test_a_page_gets_on_with_whoever_uses_its_port(tmp_path: Path) -> None:
    with session(tmp_path, tmp_path, ports=["8085"]) as reader:
        follow(page(tmp_path, "```console\n$ echo 8085 18085\n8085 18085\n```\n"), reader)
        assert reader.ports["8085"] != "8085"


@pytest.mark.parametrize(
    ("old", "new"),
    [("42 rows\n$", "43 rows\n$"), ("\nmade.txt\n```", "\nother.txt\n```"), ("false", "true")],
)
def test_a_page_that_says_something_else_is_found(tmp_path: Path, old: str, new: str) -> None:
    assert old in PAGE
    with session(tmp_path, tmp_path) as reader, pytest.raises(AssertionError, match=r"page.md:\d+"):
        follow(page(tmp_path, PAGE.replace(old, new)), reader, exit_codes={"echo $NAME": 1})


def test_the_first_dg_on_a_machine_prints_what_every_later_one_does(
    tmp_path: Path, make_project: Callable[..., Path]
) -> None:
    page_of_dg = page(
        tmp_path, "```console\n$ dg check yaml\nAll component YAML validated successfully.\n```\n"
    )
    home = tmp_path / "home"
    with session(make_project("ours"), tmp_path, HOME=str(home)) as reader:
        follow(page_of_dg, reader)


def test_a_page_without_a_command_proves_nothing(tmp_path: Path) -> None:
    with session(tmp_path, tmp_path) as reader, pytest.raises(AssertionError, match="no command"):
        follow(page(tmp_path, "# Words\n"), reader)


def test_commands_know_their_lines(tmp_path: Path) -> None:
    first = next(block for block in blocks(page(tmp_path)) if block.language == "console")
    found = [(command.text, command.expected, command.line) for command in commands(first)]
    assert found[0] == ("mkdir work && cd work", "", 9)
    assert found[2] == ("cat \\\n    made.txt", "42 rows", 11)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a  b", "a b  \n", True),
        ("a b", "a c", False),
        ("run … done", "run 17 of 17 done", True),
        ("1 due  4.2 s  done", "1 due     11.7 s  done", True),
        ("1 due  4.2 s  done", "2 due     11.7 s  done", False),
        ("…\nlast", "one\ntwo\nlast", True),
        ("first\n…", "first", True),
        ("first\n…", "second", False),
        ("", "noise", False),
        ("", "", True),
        ("[a] (b) *", "[a] (b) *", True),
    ],
)
def test_outputs_match_with_tolerance_only_where_it_is_asked_for(
    expected: str, printed: str, same: bool
) -> None:
    assert matches(expected, printed) is same
