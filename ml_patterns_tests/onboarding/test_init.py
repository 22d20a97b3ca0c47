"""From some files to a pipeline: the guesses are right, said plainly, and hold no leak."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from ml_patterns.cli import app
from ml_patterns_tests.conftest import PROJECT
from ml_patterns_tests.onboarding.conftest import NAME, features, settings_of
from ml_patterns_tests.onboarding.orders import orders

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ROLES = {"id": "order_id", "time": "ordered_at", "version": "recorded_at", "region": "country"}


def init(name: str, *options: str, code: int = 0) -> str:
    """Output of the command; a mistake is one sentence on standard error."""
    done = CliRunner().invoke(app, ["init", name, *options], catch_exceptions=False)
    assert done.exit_code == code, done.output
    if code:
        assert done.stderr.startswith("ml-patterns: ")
        assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr if code else done.stdout


def land(project: Path, frame: pd.DataFrame, name: str = "events.parquet") -> Path:
    """The rows as a file of the project's landing folder."""
    path = project / "landing" / name
    path.parent.mkdir(exist_ok=True)
    match path.suffix:
        case ".parquet":
            frame.to_parquet(path, index=False)
        case ".csv":
            frame.to_csv(path, index=False)
        case _:
            frame.to_json(path, orient="records", lines=True, date_format="iso")
    return path


def guesses(output: str) -> dict[str, str]:
    return {key: entry["guess"] for key, entry in json.loads(output)["settings"].items()}


def files(project: Path, name: str) -> dict[str, str]:
    folder = project / NAME / "defs" / name
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_it_finds_what_the_bundled_pipeline_says(project: Path) -> None:
    bundled = yaml.safe_load((PROJECT / "ml_patterns/defs/deliveries/defs.yaml").read_text())
    events = bundled["attributes"]["events"]
    found = guesses(init("parcels", "--events", f"{PROJECT}/data/deliveries/events", "--json"))
    said = ("id", "time", "version", "region", "grain", "start", "label_delay", "grace")
    assert {key: found[key] for key in said} == {key: events[key] for key in said}
    assert found["label"] == "delivered_late"


@pytest.mark.parametrize("name", ["events.parquet", "events.csv", "events.jsonl"])
def test_every_format_becomes_a_pipeline_that_computes(project: Path, name: str) -> None:
    frame = orders()
    land(project, frame, name)
    found = guesses(init("orders", "--events", "landing", "--json"))
    assert {key: found[key] for key in ROLES} == ROLES
    assert found["label"] == "returned"
    assert found["label_delay"] == "43h"
    settings = settings_of(project / NAME / "defs" / "orders", project)
    assert settings.events.path == f"landing/*.{name.split('.')[1]}"
    rows = features(settings, NOW)
    assert len(rows) == frame["order_id"].nunique()
    assert rows["label"].notna().all()
    assert rows["label_share_9d"].notna().any()


def test_what_becomes_known_later_is_in_no_feature(project: Path) -> None:
    """A leak would change a feature when only the outcome of its own order changes."""
    frame = orders()
    path = land(project, frame)
    init("orders", "--events", "landing")
    settings = settings_of(project / NAME / "defs" / "orders", project)
    before = features(settings, NOW)
    last_days = frame["ordered_at"] >= frame["ordered_at"].max().floor("D") - pd.Timedelta(days=2)
    other = frame.copy()
    known = last_days & frame["returned"].notna()
    other.loc[known, "returned"] = ~frame.loc[known, "returned"]
    other.loc[known, "refund"] = 7.0
    other.loc[known, "status"] = "lost"
    other.to_parquet(path, index=False)
    after = features(settings, NOW)
    assert (before["label"] != after["label"]).any()
    pd.testing.assert_frame_equal(before.drop(columns="label"), after.drop(columns="label"))


def test_it_says_what_it_left_out_and_why(project: Path) -> None:
    land(project, orders())
    report = json.loads(init("orders", "--events", "landing", "--json"))
    assert report["features"] == ["channel", "amount", "items", "express"]
    later = {entry["column"]: entry["why"] for entry in report["left_out"]}
    assert later == {
        "status": "it changes in 100% of the events that have several versions",
        "refund": "it changes in 100% of the events that have several versions",
    }
    text = files(project, "orders")["features.sql"]
    assert "-- refund: it changes in 100%" in text


def one_row_each(frame: pd.DataFrame) -> pd.DataFrame:
    """Orders recorded once, when everything was known; one tells the label, one has its gaps."""
    known = frame[frame["returned"].notna()].reset_index(drop=True)
    gaps = known.index % 10 == 0
    return known.assign(
        parcel_weight=known["refund"].where(~gaps),
        days_open=known["returned"].astype(float) * 3 + known["items"] / 10,
        cancelled=gaps,
        returned=known["returned"].mask(gaps),
    )


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("status", "alone it tells the label (AUC 1.000)"),
        ("parcel_weight", "it is empty exactly where the label is"),
        ("days_open", "alone it tells the label (AUC 1.000)"),
        ("cancelled", "it has one value wherever the label is known"),
        ("refund", "alone it tells the label (AUC 1.000)"),
    ],
)
def test_a_leak_is_found_without_versions(project: Path, column: str, why: str) -> None:
    land(project, one_row_each(orders()))
    report = json.loads(init("orders", "--events", "landing", "--json"))
    assert report["settings"]["label"]["guess"] == "returned"
    left_out = {entry["column"]: entry["why"] for entry in report["left_out"]}
    assert left_out[column] == why
    assert "amount" in report["features"]


def test_what_is_recorded_late_makes_the_newest_sums_unknown(project: Path) -> None:
    land(project, one_row_each(orders()))
    init("orders", "--events", "landing")
    settings = settings_of(project / NAME / "defs" / "orders", project)
    assert {"events", "labels_true", "amount_sum"} <= set(settings.aggregates.label_columns)


def only_one_time(frame: pd.DataFrame) -> pd.DataFrame:
    return one_row_each(frame).drop(columns="recorded_at")


def numbers_and_texts(frame: pd.DataFrame) -> pd.DataFrame:
    return one_row_each(frame).assign(
        returned=lambda f: f["returned"].astype("Int64"),
        ordered_at=lambda f: f["ordered_at"].dt.strftime("%Y-%m-%dT%H:%M:%S+02:00"),
        recorded_at=lambda f: f["recorded_at"].dt.strftime("%Y-%m-%d %H:%M:%S"),
        store_id=range(7, 7 + len(frame) // 2),
    )


def odd_names(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(
        columns={
            "order_id": "Order ID", "country": "select", "amount": "event_id",
            "items": 'the "items"', "channel": "region ", "express": "größe", "status": "label",
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (only_one_time, (), {"version": "ordered_at", "label_delay": "1d"}),
        (numbers_and_texts, (), {"label": "returned", "grace": "45h"}),
        (odd_names, ("--id", "Order ID", "--region", "select"), {"label": "returned"}),
        (lambda f: f, ("--label", "amount > 100"), {"label": "amount > 100"}),
        (lambda f: f, ("--grain", "hour", "--start", "2026-03-05"), {"grain": "hour"}),
    ],
)
def test_other_shapes_of_events_compute_too(
    project: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    options: tuple[str, ...],
    said: dict[str, str],
) -> None:
    land(project, change(orders()))
    found = guesses(init("orders", "--events", "landing", "--json", *options))
    assert {key: found[key] for key in said} == said
    rows = features(settings_of(project / NAME / "defs" / "orders", project), NOW)
    assert set(rows["label"].dropna()) == {True, False}
    assert len(rows.columns) > 8


def test_what_could_not_be_guessed_is_named_with_its_option(project: Path) -> None:
    land(project, orders()[["ordered_at", "amount"]])
    sentence = init("orders", "--events", "landing", code=1)
    assert "give --id (no column is named like an id" in sentence
    land(project, orders()[["order_id", "ordered_at", "amount"]])
    sentence = init("orders", "--events", "landing", code=1)
    assert "--region (no text has between 2 and 50 values)" in sentence
    assert "--label (no column is true or false in both ways" in sentence
    assert "guessed: id order_id, time ordered_at" in sentence
    assert not (project / NAME / "defs" / "orders").exists()


def test_nothing_is_overwritten(project: Path) -> None:
    land(project, orders())
    init("orders", "--events", "landing")
    edited = project / NAME / "defs" / "orders" / "features.sql"
    edited.write_text("-- mine")
    assert "features.sql already" in init("orders", "--events", "landing", code=1)
    assert edited.read_text() == "-- mine"
    (edited.parent / "defs.yaml").unlink()
    assert "already" in init("orders", "--events", "landing", code=1)
    assert not (edited.parent / "defs.yaml").exists()


def test_a_dry_run_writes_nothing(project: Path) -> None:
    land(project, orders())
    assert "order_id" in init("orders", "--events", "landing", "--dry-run")
    assert not (project / NAME / "defs" / "orders").exists()


MISTAKES = {
    "nowhere": (("--events", "nowhere"), "there is no file or folder nowhere"),
    "no_match": (("--events", "landing/*.csv"), "landing/*.csv matches no file"),
    "no_events": (("--events", "shop"), "shop holds no file that can be read as events"),
    "no_format": (("--events", "pyproject.toml"), "has an ending that is not read"),
    "no_column": (("--events", "landing", "--id", "oder_id"), "--id names oder_id, which is no"),
    "no_condition": (("--events", "landing", "--label", "amont > 3"), "is neither a column nor"),
    "no_grain": (("--events", "landing", "--grain", "week"), "is neither hour nor day"),
    "no_day": (("--events", "landing", "--start", "soon"), "'soon' is no day"),
    "no_duration": (("--events", "landing", "--grace", "2 weeks"), "is not a duration"),
    "short_grace": (("--events", "landing", "--grace", "1d"), "give at least 43h"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(project: Path, mistake: str) -> None:
    options, sentence = MISTAKES[mistake]
    land(project, orders(days=5))
    assert sentence in init("orders", *options, code=1)
    assert not (project / NAME / "defs" / "orders").exists()


def test_files_that_hold_nothing_are_named(project: Path) -> None:
    path = land(project, orders(days=5).head(0))
    assert "hold no row" in init("orders", "--events", "landing", code=1)
    path.write_bytes(b"PAR1 truncated")
    assert "events.parquet cannot be read" in init("orders", "--events", "landing", code=1)


@pytest.mark.parametrize("name", ["../orders", "Orders", "or ders", ""])
def test_a_name_cannot_lead_elsewhere(project: Path, name: str) -> None:
    land(project, orders(days=5))
    assert "is no name for a pipeline" in init(name, "--events", "landing", code=1)


def test_folders_in_folders_are_read(project: Path) -> None:
    frame = orders()
    for day, rows in frame.groupby(frame["recorded_at"].dt.date):
        folder = project / "landing" / f"day={day}"
        folder.mkdir(parents=True)
        rows.to_parquet(folder / "part.parquet", index=False)
    init("orders", "--events", "landing")
    settings = settings_of(project / NAME / "defs" / "orders", project)
    assert settings.events.path == "landing/**/*.parquet"
    assert len(features(settings, NOW)) == frame["order_id"].nunique()
