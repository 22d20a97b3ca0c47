"""`ml-patterns reviewer` and `ml-patterns outbox`, as a person types them."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner

from ml_patterns.branching.notify import deliver
from ml_patterns.commands import reviews
from ml_patterns.installation import Installation
from ml_patterns.registry import tables
from ml_patterns.registry.registry import Registry
from ml_patterns.registry.reviewers import Reviewers
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.serving.reviews.test_races import ask

runner = CliRunner()
app = typer.Typer()
reviews.register(app)


@pytest.fixture
def engine(installation: Path) -> sa.Engine:
    return engine_for(Installation.from_environment().state_url)


def run(*arguments: str, code: int = 0) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output.strip()


def test_a_token_is_shown_once_and_kept_as_a_hash(engine: sa.Engine) -> None:
    token = run("reviewer", "add", "ada", "--for", "2d")
    found = Reviewers(engine).by_token(token)
    assert found is not None
    assert (found.reviewer, (found.expires_at - found.created_at).days) == ("ada", 2)
    with engine.connect() as connection:
        (row,) = connection.execute(sa.select(tables.reviewer_tokens))
    assert token not in str(row)
    assert token not in run("reviewer", "list")


def test_a_revoked_reviewer_is_listed_as_such(engine: sa.Engine) -> None:
    first, second = run("reviewer", "add", "ada"), run("reviewer", "add", "ada")
    assert first != second
    assert run("reviewer", "revoke", "ada") == "2 tokens of ada revoked"
    listed = json.loads(run("reviewer", "list", "--json"))
    assert [entry["state"] for entry in listed] == ["revoked", "revoked"]
    assert Reviewers(engine).by_token(first) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("add", " "), "1 to 100 printable characters"),
        (("add", "a\nb"), "1 to 100 printable characters"),
        (("add", "ada", "--for", "soon"), "'soon' is not a duration"),
        (("add", "ada", "--for", "0s"), "valid for some time"),
        (("revoke", "eve"), "there is no reviewer 'eve'"),
    ],
)
def test_a_mistake_is_one_sentence(
    engine: sa.Engine, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in run("reviewer", *arguments, code=1)
    assert Reviewers(engine).tokens() == []


def test_the_outbox_says_what_is_stuck_and_why(engine: sa.Engine) -> None:
    assert run("outbox") == "nothing is pending"
    ask(Registry(engine), "eu", "first", "rows")
    (waiting,) = json.loads(run("outbox", "--json"))
    assert (waiting["kind"], waiting["error"]) == ("review_requested", None)
    deliver(engine, "http://127.0.0.1:9/hook")
    (stuck,) = json.loads(run("outbox", "--json", code=2))
    assert (stuck["attempts"], stuck["error"]) == (1, "ConnectionError")
    deliver(engine, None)
    assert run("outbox") == "nothing is pending"
    (told,) = json.loads(run("outbox", "--all", "--json"))
    assert told["delivered_at"]
