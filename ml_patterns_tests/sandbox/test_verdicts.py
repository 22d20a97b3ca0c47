"""The bundled regions fall on all three sides of the default gate, with room to spare.

The demo tells its story with them: one model is deployed, one waits for a human, one is rejected.
Run through the real ingest, SQL and training, after five days and after seven.
"""

import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import lightgbm as lgb
import pytest
import yaml

from ml_patterns.branching.policy import Policy
from ml_patterns.fan_out.split import between
from ml_patterns.fan_out.training import train
from ml_patterns.incremental import ledger
from ml_patterns.incremental.build import build
from ml_patterns.incremental.manifest import ingest
from ml_patterns.incremental.plan import Layer, plan
from ml_patterns.sandbox import events
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.encoding import encode
from ml_patterns.storage.features import feature_columns, read_features
from ml_patterns.storage.sql import quoted

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "ml_patterns/defs/deliveries"
MARGIN = 0.01
LAYERS: tuple[Layer, ...] = ("aggregates", "features")


def clock() -> datetime:
    return datetime(2026, 7, 1, tzinfo=UTC)


def catch_up(connection: duckdb.DuckDBPyConnection, settings: PipelineSettings) -> None:
    ingest(connection, settings, clock)
    for layer in LAYERS:
        due = [entry.partition for entry in plan(connection, settings, layer, clock())]
        assert len(list(build(connection, settings, layer, due, clock))) == len(due)


def accuracy(
    connection: duckdb.DuckDBPyConnection, settings: PipelineSettings, region: str
) -> float:
    """On the test slice that training keeps for the gate."""
    frame = read_features(connection, settings.name, regions=[region], labelled=True)
    model = train(
        frame,
        feature_columns(connection, settings.name),
        settings.training,
        pipeline=settings.name,
        region=region,
        label_delay=settings.events.label_delay,
        watermark=ledger.watermark(connection, settings),
    )
    start, end = model.card.test.start, model.card.test.end
    assert start is not None
    assert end is not None
    test = frame[between(frame["event_time"], start, end)]
    assert len(test) > 400
    score = lgb.Booster(model_str=model.model_text).predict(encode(test, model.card.features))
    return float(((score >= 0.5) == test["label"].astype(bool)).mean())


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    """Accuracy of every region with a model of its own, after five and after seven days."""
    folder = tmp_path_factory.mktemp("stream")
    attributes = yaml.safe_load((FOLDER / "defs.yaml").read_text())["attributes"]
    attributes["events"]["path"] = f"{folder}/*.parquet"
    settings = PipelineSettings.model_validate(attributes).located(FOLDER, folder)
    regions = ("us_west", "us_east", "us_central", "canada", "eu", "uk", "apac")
    found = {}
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        connection.execute(f"CREATE SCHEMA {quoted(settings.name)}")
        for days in (5, 7):
            landed = events.files_until(date(2026, 6, 5) if days == 5 else date(2026, 6, 8))
            for name in landed:
                if not (folder / name).exists():
                    shutil.copy(PROJECT / "data/deliveries/events" / name, folder)
            if days == 7:
                events.redeliver(folder)
            catch_up(connection, settings)
            found[days] = {region: accuracy(connection, settings, region) for region in regions}
    return found


@pytest.mark.parametrize("days", [5, 7])
def test_regions_fall_on_all_sides_of_the_default_gate(
    after: dict[int, dict[str, float]], days: int
) -> None:
    gate = Policy()
    assert gate.metric == "accuracy"
    assert gate.rule == "point"
    for region in ("us_west", "us_east", "us_central"):
        assert after[days][region] >= gate.deploy_at + MARGIN, region
    for region in ("eu", "canada"):
        assert gate.review_at + MARGIN <= after[days][region] <= gate.deploy_at - MARGIN, region
    for region in ("uk", "apac"):
        assert after[days][region] <= gate.review_at - MARGIN, region
