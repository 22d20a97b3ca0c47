"""A table lands as files: everything that changed, whatever commits late, and nothing twice."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from ml_patterns.errors import ConflictError, SettingsError, UserError
from ml_patterns.incremental.build import build
from ml_patterns.incremental.manifest import ingest
from ml_patterns.incremental.plan import LAYERS, plan
from ml_patterns.landing import files as files_module
from ml_patterns.landing.land import land, waits
from ml_patterns.settings import PipelineSettings
from ml_patterns_tests.landing.conftest import VARIABLE, Shop, pipeline

NOW = datetime(2026, 3, 20, tzinfo=UTC)


def landed(project: Path) -> list[tuple[int, str, bool | None]]:
    """(number, amount, returned) of every landed row, sorted."""
    with duckdb.connect() as connection:
        return connection.execute(
            f"SELECT number, CAST(amount AS VARCHAR), returned "
            f"FROM read_parquet('{project}/landing/*.parquet') ORDER BY ALL"
        ).fetchall()


def events(settings: PipelineSettings) -> list[tuple[str, float, bool | None]]:
    """What the pipeline makes of the landed files: each order once, its newest version."""
    with duckdb.connect() as connection:
        assert not ingest(connection, settings, lambda: NOW).unreadable
        for layer in LAYERS:
            due = [entry.partition for entry in plan(connection, settings, layer, NOW)]
            assert len(list(build(connection, settings, layer, due, lambda: NOW))) == len(due)
        rows: list[tuple[str, float, bool | None]] = connection.execute(
            "SELECT event_id, amount, label FROM shop.event_features ORDER BY event_id"
        ).fetchall()
    return [(event, float(amount), label) for event, amount, label in rows]


def test_updates_arrive_as_new_versions(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path)
    shop.insert(shop.order(1, 0), shop.order(2, 1))
    assert land(settings).rows == 2
    shop.update(1, 60, returned=True)
    shop.insert(shop.order(3, 61))
    done = land(settings)
    assert (done.rows, len(done.files)) == (2, 1)
    assert landed(tmp_path) == [
        (1, "11.00", True), (1, "11.00", None), (2, "12.00", None), (3, "13.00", None),
    ]  # fmt: skip
    assert events(settings) == [("1", 11.0, True), ("2", 12.0, None), ("3", 13.0, None)]


def test_a_transaction_that_commits_late_is_found(shop: Shop, tmp_path: Path) -> None:
    """Its update time is older than what was read by then; a bare cursor would lose it."""
    settings = pipeline(tmp_path, overlap="10m")
    shop.insert(shop.order(1, 0), shop.order(2, 30))
    land(settings)
    shop.insert(shop.order(3, 21))
    assert waits(settings)
    assert land(settings).rows == 1
    assert [row[0] for row in landed(tmp_path)] == [1, 2, 3]
    shop.insert(shop.order(4, 19))  # later than the overlap promises
    assert land(settings).rows == 0


def test_an_idle_table_lands_nothing_again(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path)
    assert (waits(settings), land(settings).files) == (None, ())
    shop.insert(*(shop.order(number, number / 10) for number in range(20)))
    land(settings)
    before = sorted((tmp_path / "landing").iterdir())
    for _ in range(3):
        done = land(settings)
        assert (done.rows, done.files, done.read) == (0, (), 20)
        assert waits(settings) is None
    assert sorted((tmp_path / "landing").iterdir()) == before


def test_a_large_table_lands_in_batches(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path, batch_rows=30)
    shop.insert(*(shop.order(number, number // 7) for number in range(100)))
    assert len(land(settings).files) == 4
    assert [row[0] for row in landed(tmp_path)] == list(range(100))
    shop.insert(*(shop.order(number, 14) for number in range(100, 140)))
    assert land(settings).rows == 40
    assert [row[0] for row in landed(tmp_path)] == list(range(140))


def test_a_number_is_a_cursor_too(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path, cursor="number", overlap=5)
    shop.insert(*(shop.order(number, number) for number in (1, 2, 3, 9)))
    land(settings)
    shop.insert(shop.order(5, 5), shop.order(10, 10))  # a sequence's numbers commit out of order
    assert land(settings).rows == 2
    assert [row[0] for row in landed(tmp_path)] == [1, 2, 3, 5, 9, 10]


def test_a_query_is_a_source_too(shop: Shop, tmp_path: Path) -> None:
    query = "SELECT number, ordered_at, updated_at, country, amount, returned FROM orders " \
        "WHERE country <> 'test';"  # fmt: skip
    types = {"returned": "BOOLEAN", "amount": "DECIMAL(10, 2)"}
    settings = pipeline(tmp_path, query=query, types=types)
    shop.insert(shop.order(1, 0), shop.order(2, 1, country="test"))
    assert land(settings).rows == 1
    shop.insert(shop.order(3, 2))
    shop.update(1, 3, returned=False)
    assert land(settings).rows == 2
    assert events(settings) == [("1", 11.0, False), ("3", 13.0, None)]


def test_a_row_without_cursor_is_counted(shop: Shop, tmp_path: Path) -> None:
    shop.insert(shop.order(1, 0), shop.order(2, 1, updated_at=None))
    done = land(pipeline(tmp_path))
    assert (done.rows, done.without_cursor) == (1, 1)


WORKER = """
import os, signal, sys
from pathlib import Path
from ml_patterns.landing.land import land
from ml_patterns_tests.landing.conftest import pipeline

left = int(sys.argv[2])

def step(name):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

land(pipeline(Path(sys.argv[1]), batch_rows=10), step)
"""


@pytest.mark.parametrize("boundary", [1, 2, 3, 4])
def test_a_kill_loses_and_doubles_nothing(shop: Shop, tmp_path: Path, boundary: int) -> None:
    shop.insert(*(shop.order(number, number) for number in range(25)))
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(boundary)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    settings = pipeline(tmp_path, batch_rows=10)
    shop.update(3, 30, returned=True)
    land(settings)
    expected = [(n, f"{10 + n}.00", None) for n in range(25)]
    found = landed(tmp_path)
    assert len(found) == len(set(found))
    assert set(expected) - {(3, "13.00", None)} <= set(found)
    assert (3, "13.00", True) in found
    assert [event for event, *_ in events(settings)] == sorted(map(str, range(25)))


def test_a_half_written_file_is_not_seen_and_goes_away(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path)
    shop.insert(shop.order(1, 0))
    land(settings)
    torn = tmp_path / "landing" / ".shop-000000002.parquet.12345"
    torn.write_bytes(b"PAR1")
    os.utime(torn, (0, 0))
    shop.insert(shop.order(2, 1))
    assert land(settings).rows == 1
    assert not torn.exists()
    assert len(events(settings)) == 2


def test_of_two_that_land_at_once_one_gives_way(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path)
    shop.insert(shop.order(1, 0))

    def meanwhile(name: str) -> None:
        if name == "read":
            land(settings)

    with pytest.raises(ConflictError, match="another process lands table orders too"):
        land(settings, meanwhile)
    assert [row[0] for row in landed(tmp_path)] == [1]
    assert land(settings).rows == 0


def test_a_dropped_column_says_so(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path)
    shop.insert(shop.order(1, 0))
    land(settings)
    shop.run("ALTER TABLE orders DROP COLUMN returned")
    with pytest.raises(UserError, match="table orders has no column returned any more") as found:
        land(settings)
    assert "\n" not in str(found.value)


def test_a_changed_type_says_so(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path)
    shop.insert(shop.order(1, 0))
    land(settings)
    shop.run("ALTER TABLE orders RENAME COLUMN amount TO old_amount")
    shop.run("ALTER TABLE orders ADD COLUMN amount VARCHAR")
    shop.run("UPDATE orders SET amount = 'ten'")
    with pytest.raises(UserError, match="column amount of table orders holds 'ten'") as found:
        land(settings)
    assert "DECIMAL(10,2)" in str(found.value)


def test_an_added_column_lands(shop: Shop, tmp_path: Path) -> None:
    settings = pipeline(tmp_path)
    shop.insert(shop.order(1, 0))
    land(settings)
    shop.run("ALTER TABLE orders ADD COLUMN channel VARCHAR")
    assert land(settings).rows == 0
    shop.run("UPDATE orders SET channel = 'web'")
    (path,) = land(settings).files
    assert pq.read_table(path).column("channel").to_pylist() == ["web"]


def test_another_table_needs_another_folder(shop: Shop, tmp_path: Path) -> None:
    shop.insert(shop.order(1, 0))
    land(pipeline(tmp_path))
    with pytest.raises(UserError, match="landed from orders by updated_at, and source says"):
        land(pipeline(tmp_path, cursor="number"))


def test_a_query_whose_types_are_open_asks_for_them(shop: Shop, tmp_path: Path) -> None:
    shop.insert(shop.order(1, 0))
    settings = pipeline(tmp_path, query="SELECT *, NULL AS remark FROM orders")
    with pytest.raises(UserError, match=r"column (returned|remark) of source.query has no value"):
        land(settings)


def test_wrong_settings_are_one_sentence(shop: Shop, tmp_path: Path) -> None:
    shop.insert(shop.order(1, 0))
    for source, sentence in (
        ({"table": "nothing"}, "there is no table nothing"),
        ({"cursor": "changed"}, r"table orders has no column changed \(source.cursor\); it has"),
        ({"cursor": "country"}, "holds 'at', which is neither a number nor a time"),
        ({"types": {"nothing": "BIGINT"}}, "source.types names nothing"),
        ({"query": "SELECT nothing"}, "source.query cannot be read through SHOP_DATABASE_URL"),
    ):
        with pytest.raises(UserError, match=sentence) as found:
            land(pipeline(tmp_path, **source))
        assert "\n" not in str(found.value)
    land(pipeline(tmp_path))
    with pytest.raises(UserError, match="overlap 5 is a count"):
        land(pipeline(tmp_path, overlap=5))


def test_a_password_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2-%21"
    for address in (
        f"postgresql+psycopg://ada:{secret}@127.0.0.1:9/shop?connect_timeout=2",
        f"postgresql+psycopg://ada@127.0.0.1:9/shop?password={secret}&connect_timeout=2",
        f"nothing+at_all://ada:{secret}@127.0.0.1/shop",
        f"postgresql+psycopg:/ada:{secret}",
        f"sqlite:///{tmp_path}/{secret}.sqlite",
    ):
        monkeypatch.setenv(VARIABLE, address)
        with pytest.raises(UserError) as found:
            land(pipeline(tmp_path))
        error: BaseException | None = found.value
        assert VARIABLE in str(error)
        assert error is not None
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
        assert "hunter2" not in str(error)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SettingsError, match="SHOP_DATABASE_URL is not set"):
        land(pipeline(tmp_path))


@pytest.mark.parametrize("path", ["landing/*.csv", "landing/*/*.parquet", "s3://bucket/*.parquet"])
def test_a_folder_that_cannot_take_the_files_is_named(tmp_path: Path, path: str) -> None:
    settings = pipeline(tmp_path)
    events_settings = settings.events.model_copy(update={"path": path})
    other = settings.model_copy(update={"events": events_settings})
    source = other.source
    assert source
    with pytest.raises(SettingsError, match="write landing/NAME/"):
        files_module.LandingFolder(other, source)


def test_a_folder_that_cannot_be_made_is_named(shop: Shop, tmp_path: Path) -> None:
    shop.insert(shop.order(1, 0))
    (tmp_path / "landing").write_text("a file, where the folder should be")
    with pytest.raises(UserError, match="landing cannot be made: File exists"):
        land(pipeline(tmp_path))


def test_the_overlap_of_times_is_a_duration() -> None:
    settings = pipeline_source(overlap="2h")
    assert settings.overlap == timedelta(hours=2)
    with pytest.raises(ValueError, match="give exactly one of them"):
        pipeline_source(query="SELECT 1")
    with pytest.raises(ValueError, match="is negative"):
        pipeline_source(overlap=-1)


def pipeline_source(**source: object) -> files_module.SourceSettings:
    return files_module.SourceSettings.model_validate(
        {"url_variable": VARIABLE, "table": "orders", "cursor": "updated_at", **source}
    )
