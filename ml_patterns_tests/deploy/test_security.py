"""What docs/security.md promises: no pickle at rest, quoted identifiers, confined paths."""

import ast
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from ml_patterns.errors import ArtifactError, SettingsError
from ml_patterns.incremental import audit
from ml_patterns.registry.regions import validate_region_key
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.sql import is_name, literal, quoted
from ml_patterns_tests.incremental.conftest import START, Shop, make_settings
from ml_patterns_tests.maintenance.conftest import card

PACKAGE = Path(__file__).parents[2] / "ml_patterns"
PICKLES = {"pickle", "_pickle", "cPickle", "joblib", "cloudpickle", "dill", "shelve", "marshal"}

HOSTILE = (
    'i"d; DROP SCHEMA shop CASCADE; --',
    "t'ime); DROP TABLE shop.listings; --",
    "ver{sion}$$ \\",
    "reg ion/*",
)
"""Names of the four columns that settings name."""


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_module_reads_or_writes_pickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not PICKLES & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in PICKLES
        elif isinstance(node, ast.Attribute):
            assert node.attr not in {"to_pickle", "read_pickle"}


def test_an_artifact_is_text(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    store.put("tree\n", card("eu", 1))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"model.txt", "card.json"}
    for path in files:
        assert path.read_bytes().decode().isprintable() or path.name == "model.txt"


@pytest.mark.parametrize("address", ["../secret", "/etc", "..", "", "a" * 63, "A" * 64, "a/b"])
def test_an_address_names_nothing_outside_of_the_store(tmp_path: Path, address: str) -> None:
    """The files are there, and fit each other; the address alone is refused."""
    for folder in (tmp_path / "secret", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "model.txt").write_text("")
        (folder / "card.json").write_text("")
    with pytest.raises(ArtifactError, match="no address"):
        ArtifactStore(str(tmp_path / "store")).get(address)


def test_columns_of_any_name_are_only_columns(tmp_path: Path) -> None:
    """Through listing, manifest, both layers, the plan and the audit."""
    id, time, version, region = HOSTILE
    names = {"id": id, "time": time, "version": version, "region": region}
    features = (
        f"SELECT {quoted(id)} AS event_id, {quoted(time)} AS event_time, "
        f"{quoted(region)} AS region, TRUE AS label, amount AS {quoted(HOSTILE[0])} FROM events"
    )
    aggregates = f"SELECT count(*) AS {quoted(HOSTILE[1])} FROM events"
    settings = make_settings(
        tmp_path, features=features, aggregates=aggregates, label_columns=(), **names
    )
    shop = Shop(tmp_path, settings)
    values = {id: "'; DROP SCHEMA shop; --", time: START, version: START, region: "eu"}
    for name in ("o'clock.parquet", 'quo"ted; --.csv'):
        frame = pd.DataFrame([{**values, id: f"{name}{values[id]}", "amount": 1}])
        write = frame.to_parquet if name.endswith("parquet") else frame.to_csv
        write(shop.landed / name, index=False)
    assert shop.catch_up() == {"aggregates": [0], "features": [0]}
    assert len(shop.table("features")) == 2
    assert shop.accounts().accepted == 2
    with shop.connect() as connection:
        assert audit.unaccounted_rows(connection, settings) == []
        found = audit.recompute_differences(connection, settings, "features", [START])
    assert found == []
    assert shop.catch_up() == {"aggregates": [], "features": []}


@pytest.mark.parametrize(
    "name", ["shop; DROP", 'sh"op', "Shop", "../shop", "shop.eu", "", "s" * 64, "shop\n"]
)
def test_a_pipelines_name_is_plain(name: str) -> None:
    """It is a schema, a folder of asset keys and a part of every model's name."""
    assert not is_name(name)
    block = {"path": "e/*.csv", "id": "i", "time": "t", "version": "v", "region": "r"}
    with pytest.raises(ValueError, match="is not a name"):
        PipelineSettings.model_validate({"name": name, "events": {**block, "start": "2026-01-01"}})


@pytest.mark.parametrize("region", ["../eu", "e'u", 'e"u', "a/b", "a\\b", ".eu", "e\x00u", "a...b"])
def test_a_region_is_no_path_and_no_quote(region: str) -> None:
    with pytest.raises(SettingsError, match="region"):
        validate_region_key(region)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_quoted_ends_where_it_should(text: str) -> None:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT {literal(text)} AS {quoted(text)}")
        assert found.description
        assert found.description[0][0] == text
        assert found.fetchall() == [(text,)]
