"""`ml-patterns region`, as a person types it."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ml_patterns.cli import app
from ml_patterns.installation import Installation
from ml_patterns.registry.regions import add_regions
from ml_patterns.storage.operational import engine_for

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def engine(installation: Path, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    """The operational database of an installation whose features have found two regions."""
    monkeypatch.chdir(PROJECT)
    engine = engine_for(Installation.from_environment().state_url)
    add_regions(engine, "deliveries", ["eu", "uk"])
    return engine


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output.strip()


def test_a_region_is_retired_seen_and_taken_along_again(engine: sa.Engine) -> None:
    because = ("--reason", "the depot closed", "--by", "ada")
    told = run("region", "retire", "deliveries", "uk", *because)
    assert told == "uk is retired; it serves no model"
    eu, uk = json.loads(run("region", "list", "deliveries", "--json"))
    assert (eu["region"], eu["retired_at"]) == ("eu", None)
    assert (uk["retired_by"], uk["reason"], uk["serves"]) == ("ada", "the depot closed", None)
    assert "the depot closed" in run("region", "list", "deliveries")
    assert "0 of 1 regions serve a model, 1 retired" in run("status", "deliveries", code=2)
    assert json.loads(run("status", "deliveries", "--json", code=2))["retired"] == ["uk"]

    revived = json.loads(
        run("region", "revive", "deliveries", "uk", "--reason", "it opened again", "--json")
    )
    assert (revived["region"], revived["retired_at"], revived["reason"]) == ("uk", None, None)
    assert "0 of 2 regions serve a model\n" in run("status", "deliveries", code=2)
    log = json.loads(run("audit", "--region", "uk", "--json"))
    assert [(row["action"], row["reason"]) for row in log] == [
        ("region_retired", "the depot closed"),
        ("region_revived", "it opened again"),
    ]


def test_a_pipeline_without_regions_says_where_they_come_from(installation: Path) -> None:
    assert run("region", "list", "deliveries") == "no region yet: the features find them"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("retire", "deliveries", "mars"), "pipeline deliveries has no region 'mars'"),
        (("revive", "deliveries", "uk"), "region uk of deliveries is not retired"),
        (("retire", "orders", "uk"), "orders"),
        (("retire", "deliveries", "uk", "--by", " "), "both an identity and a reason"),
    ],
)
def test_a_mistake_is_one_sentence(
    engine: sa.Engine, arguments: tuple[str, ...], sentence: str
) -> None:
    told = run("region", *arguments, "--reason", "a typing error", code=1)
    assert sentence in told
    assert told.startswith("ml-patterns: ")
    assert "\n" not in told
    assert json.loads(run("audit", "--json")) == []
