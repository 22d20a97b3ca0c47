"""Promise: a breaker is moved by hand with a reason, and what was done can be read."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ml_patterns.cli import app
from ml_patterns_tests.circuit_breaker.conftest import Deployment, parcels
from ml_patterns_tests.circuit_breaker.model_server import serve_models

NAME = "model_server@127.0.0.1:8099"


@pytest.fixture(autouse=True)
def _here(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PATTERNS_MODEL_URL", "http://127.0.0.1:8099")


def breaker(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["breaker", *arguments])


def test_a_breaker_is_opened_seen_and_given_back() -> None:
    assert json.loads(breaker("status", "--json").output) == []
    told = breaker("open", "--reason", "the server moves", "--by", "ada", "--for", "30m")
    assert told.output == f"{NAME}: open, the server moves\n"
    (seen,) = json.loads(breaker("status", "--json").output)
    assert (seen["name"], seen["state"], seen["forced"]) == (NAME, "open", True)
    assert seen["forced_until"] is not None
    assert seen["events"][0]["actor"] == "ada"
    closed = json.loads(breaker("close", "--reason", "it has moved", "--json").output)
    assert (closed["state"], closed["forced"], closed["forced_until"]) == ("closed", True, None)
    given_back = json.loads(breaker("reset", "--reason", "all is well", "--json").output)
    assert (given_back["state"], given_back["forced"]) == ("closed", False)
    assert [event["reason"] for event in given_back["events"]] == [
        "all is well", "it has moved", "the server moves",
    ]  # fmt: skip
    assert NAME in breaker("status").output


def test_what_is_done_by_hand_holds_for_every_client(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PATTERNS_STATE_URL", deployment.state_url)
    with serve_models() as server:
        monkeypatch.setenv("ML_PATTERNS_MODEL_URL", server.url)
        client = deployment.client(server.url)
        breaker("open", "--reason", "the server moves")
        refused = client.predict("deliveries", "eu", parcels(2))
        assert server.calls == 0
        breaker("reset", "--reason", "it has moved")
        answered = client.predict("deliveries", "eu", parcels(2))
    assert (refused["reason"] == "circuit open").all()
    assert (answered["source"] == "live").all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["open", "--reason", " "], "not moved by hand without reason"),
        (["open", "--reason", "x", "--for", "soon"], "--for: "),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str) -> None:
    told = breaker(*arguments)
    assert told.exit_code == 1
    assert sentence in told.output
    assert len(told.output.splitlines()) == 1
    assert json.loads(breaker("status", "--json").output) == []
