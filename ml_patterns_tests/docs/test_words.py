"""What the pages name is there: files, links, settings, commands, variables, snippets."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import duckdb
import pytest
import typer.main
import yaml
from pydantic import BaseModel

from ml_patterns.cli import app
from ml_patterns.settings import PipelineSettings
from ml_patterns_tests.docs.page import Block, blocks
from ml_patterns_tests.docs.settings_tables import BLOCKS, with_tables
from ml_patterns_tests.docs.test_pages import PAGES
from ml_patterns_tests.docs.tree import PROJECT

ALL_PAGES = [*PAGES, *(str(page.relative_to(PROJECT)) for page in PROJECT.glob("examples/*/*.md"))]
LANGUAGES = {"", "console", "sh", "bash", "yaml", "sql", "python", "json", "toml", "mermaid"}
SMALLEST = {
    "name": "shop",
    "events": {
        "path": "*.csv", "id": "a", "time": "b", "version": "c", "region": "d",
        "start": "2026-01-01", "label_delay": "1d", "grace": "1d",
    },
}  # fmt: skip
"""Settings that a snippet of a page is laid over."""


def text_of(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", (PROJECT / page).read_text(), flags=re.M | re.S)


def snippets(language: str) -> list[Any]:
    """Blocks of a language in all pages, each with its place as the test's name."""
    return [
        pytest.param(block, id=f"{page}:{block.line}")
        for page in ALL_PAGES
        for block in blocks(PROJECT / page)
        if block.language == language
    ]


@pytest.mark.parametrize("page", ALL_PAGES)
def test_blocks_are_of_a_kind_that_is_tested(page: str) -> None:
    """A command in a block without a language would be followed by nobody."""
    for block in blocks(PROJECT / page):
        assert block.language in LANGUAGES, block
        if not block.language:
            assert not re.search(r"^(\$ |ml-patterns |make |dg |dagster )", block.text, re.M), block


@pytest.mark.parametrize("block", snippets("yaml"))
def test_settings_are_settings(block: Block) -> None:
    document = yaml.safe_load(block.text)
    if "attributes" in document:
        PipelineSettings.model_validate(document["attributes"])
    elif document.keys() <= PipelineSettings.model_fields.keys():
        PipelineSettings.model_validate({**SMALLEST, **document})


@pytest.mark.parametrize("block", snippets("python"))
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.path or "snippet", "exec")


@pytest.mark.parametrize("block", snippets("sql"))
def test_sql_is_sql(block: Block) -> None:
    with duckdb.connect() as connection:
        assert connection.extract_statements(block.text)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (PROJECT / page).parent / path if path else PROJECT / page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert heading in {_anchor(title) for title in titles}, target


def test_every_picture_is_on_a_page() -> None:
    shown = " ".join(text_of(page) for page in ALL_PAGES)
    for picture in (PROJECT / "docs" / "pictures").iterdir():
        assert f"pictures/{picture.name})" in shown, picture


def _anchor(title: str) -> str:
    """How GitHub names a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", ALL_PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    known = [f"/{path.relative_to(PROJECT)}" for path in PROJECT.glob("ml_patterns*/**/*.py")]
    for name in re.findall(r"`(?:\.\./)?([\w/]+\.py)\b", text_of(page)):
        ours = "/" in name or name.startswith("test_")
        assert (
            not ours
            or any(path.endswith(f"/{name}") for path in known)
            or (PROJECT / name).exists()
        ), name
    for module in re.findall(r"python -m ((?:ml_patterns|benchmarks)[\w.]*)", text_of(page)):
        file = PROJECT / module.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), module


@pytest.mark.parametrize("page", ALL_PAGES)
def test_settings_that_are_named_exist(page: str) -> None:
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?=[`:])", text_of(page)):
        block: Any = PipelineSettings
        first, *_, last = name.split(".")
        if first not in block.model_fields or last in {"py", "md", "sql", "yaml"}:
            continue
        for part in name.split("."):
            assert block is not None, name
            assert part in block.model_fields, name
            block = _block_in(block.model_fields[part].annotation)


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """The block of settings that a field holds, one or several of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_block_in, get_args(annotation))), None)


@pytest.mark.parametrize("page", [*BLOCKS])
def test_tables_of_settings_are_complete_and_say_the_defaults(page: str) -> None:
    """`python -m ml_patterns_tests.docs.settings_tables` writes them anew."""
    assert with_tables(page) == (PROJECT / "docs" / f"{page}.md").read_text()


@pytest.mark.parametrize("page", ALL_PAGES)
def test_variables_that_are_named_are_read(page: str) -> None:
    code = "".join(
        path.read_text()
        for folder in ("ml_patterns", "ml_patterns_tests", "benchmarks", "examples", "deploy")
        for path in (PROJECT / folder).rglob("*")
        if path.suffix in {".py", ".yaml"}
    )
    for name in set(re.findall(r"\bML_PATTERNS_[A-Z_]+[A-Z]\b", (PROJECT / page).read_text())):
        assert name in code, name


def every_command() -> dict[str, Any]:
    """The commands of `ml-patterns`, such as `review list`."""

    def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for part, inner in command.commands.items():
                yield from below(inner, f"{name} {part}".strip())
        else:
            yield name, command

    return dict(below(typer.main.get_command(app), ""))


@pytest.mark.parametrize("name", [*every_command()])
def test_every_command_is_on_a_page(name: str) -> None:
    pages = " ".join((PROJECT / page).read_text() for page in ALL_PAGES)
    assert re.search(rf"ml-patterns {name}\b", re.sub(r"\s+", " ", pages))


@pytest.mark.parametrize("page", ALL_PAGES)
def test_commands_that_are_named_exist(page: str) -> None:
    known = every_command()
    groups = {name.split()[0] for name in known}
    for line in re.findall(r"`ml-patterns ([^`]+)`", text_of(page)):
        words = line.split()
        assert words[0] in groups or words[0].startswith("-"), line
        command = known.get(words[0]) or known.get(" ".join(words[:2]))
        if command is None:
            assert words[0] in groups, line
            continue
        options = {option for parameter in command.params for option in parameter.opts}
        for option in re.findall(r"(?<!\S)--[a-z-]+", line):
            assert option in options | {"--help"}, line


@pytest.mark.parametrize("name", [*every_command()])
def test_a_command_and_its_options_explain_themselves(name: str) -> None:
    command = every_command()[name]
    assert command.help
    assert command.help.split("\n\n")[0].endswith("."), "a sentence first"
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name
