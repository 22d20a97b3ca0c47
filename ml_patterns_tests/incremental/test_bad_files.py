"""A bad file is one sentence that names it; everything else is processed."""

import gzip
import os
import re
from pathlib import Path

import pytest

from ml_patterns.errors import SourceFileError
from ml_patterns_tests.incremental.conftest import AGGREGATES, COLUMNS, Shop, row, write


def truncated(path: Path) -> None:
    write(path, [row("x", 0)])
    path.write_bytes(path.read_bytes()[:-20])


def another_header(path: Path) -> None:
    path.write_text("identity,when,known,region\nx,2026-06-01,2026-06-01,eu\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated_gzip(path: Path) -> None:
    whole = gzip.compress(b"id,at,known,region\n" + os.urandom(4_000).hex().encode())
    path.write_bytes(whole[: len(whole) // 2])


def broken_json(path: Path) -> None:
    path.write_text('{"id": "x", "at": "2026-06-01 00:00:00", "known":\n')


def ragged(path: Path) -> None:
    path.write_text("id,at,known,region\nx,2026-06-01,2026-06-01,eu\ny,2026-06-01\n")


def changed_type(path: Path) -> None:
    write(path, [{**row("x", 0), "amount": "many"}], {**COLUMNS, "amount": "VARCHAR"})


def lossy_type(path: Path) -> None:
    write(path, [{**row("x", 0), "amount": 1.5}], {**COLUMNS, "amount": "DOUBLE"})


def lossy_text(path: Path) -> None:
    write(path, [{**row("x", 0), "amount": "1.5"}], {**COLUMNS, "amount": "VARCHAR"})


def no_time(path: Path) -> None:
    write(path, [{**row("x", 0), "at": 7}], {**COLUMNS, "at": "BIGINT"})


def unknown_ending(path: Path) -> None:
    path.write_text("events?")


BAD = [
    (truncated, "bad.parquet", "land it again"),
    (another_header, "bad.csv", r"no column id \(events.id\), at \(events.time\)"),
    (empty, "bad.parquet", "land it again"),
    (empty, "bad.csv", "land it again"),
    (empty, "bad.jsonl", "land it again"),
    (truncated_gzip, "bad.csv.gz", "land it again"),
    (broken_json, "bad.jsonl", "land it again"),
    (ragged, "bad.csv", "land it again"),
    (changed_type, "bad.parquet", "column amount holds 'many', which is no BIGINT"),
    (lossy_type, "bad.parquet", "column amount holds '1.5', which is no BIGINT"),
    (lossy_text, "bad.csv", "column amount holds '1.5', which is no BIGINT"),
    (no_time, "bad.parquet", "column at is BIGINT, not a time"),
    (unknown_ending, "bad.xlsx", "an ending that is not read"),
]


@pytest.mark.parametrize(
    ("spoil", "name", "sentence"), BAD, ids=[f"{spoil.__name__}-{name}" for spoil, name, _ in BAD]
)
def test_a_bad_file_is_named_and_the_rest_is_processed(
    shop: Shop, spoil: object, name: str, sentence: str
) -> None:
    shop.land("a.parquet", [row("1", 0)])
    shop.ingest()
    spoil(shop.landed / name)  # type: ignore[operator]
    shop.land("z.parquet", [row("2", 0)])
    (told,) = shop.ingest().unreadable
    assert re.search(sentence, told.error), told.error
    assert str(shop.landed / name) in told.error
    assert "\n" not in told.error
    assert shop.ingest().files == 0, "tried again although it did not change"
    assert len(shop.ingest().unreadable) == 1
    shop.catch_up()
    assert [entry[1] for entry in shop.table("features")] == ["1", "2"]

    if not name.endswith("xlsx"):
        write(shop.landed / name, [row("3", 0)])
        shop.catch_up()
        assert [entry[1] for entry in shop.table("features")] == ["1", "2", "3"]
        assert shop.ingest().unreadable == ()


def test_a_file_that_vanishes_between_listing_and_reading_is_read_when_it_is_back(
    shop: Shop,
) -> None:
    shop.land("a.parquet", [row("1", 0)])
    fleeting = shop.land("b.parquet", [row("2", 0)])
    aside = fleeting.with_suffix(".aside")
    shop.change(path="landed/*.parquet")

    def vanish(name: str) -> None:
        if name == "listed" and fleeting.exists():
            fleeting.rename(aside)

    shop.step = vanish
    (told,) = shop.ingest().unreadable
    assert told.error.startswith(f"{fleeting} disappeared")
    shop.step = lambda name: None
    shop.catch_up()
    assert [entry[1] for entry in shop.table("features")] == ["1"]
    aside.rename(fleeting)  # same size, same modification time, same inode
    shop.catch_up()
    assert [entry[1] for entry in shop.table("features")] == ["1", "2"]


def test_a_correction_that_cannot_be_read_leaves_the_earlier_revision_in_force(
    shop: Shop,
) -> None:
    shop.land("a.parquet", [row("1", 0)])
    shop.land("b.parquet", [row("2", 3)])
    shop.catch_up()
    truncated(shop.landed / "a.parquet")
    assert len(shop.ingest().unreadable) == 1
    assert [entry[1] for entry in shop.table("features")] == ["1", "2"]
    shop.change(aggregates=AGGREGATES.replace("sum(amount)", "sum(2 * amount)"))
    with pytest.raises(SourceFileError, match=r"a\.parquet"):
        shop.build("aggregates")
    assert set(shop.due_hours("aggregates")) == {0}, "what does not need the file is built"


def test_a_file_rewritten_after_its_registration_is_not_built_from(shop: Shop) -> None:
    """Its rows were judged and counted as they were; the next listing judges the new ones."""
    shop.land("a.parquet", [row("1", 0, amount=1)])
    shop.land("b.parquet", [row("2", 1)])
    shop.ingest()
    shop.land("a.parquet", [row("1", 0, amount=2)])
    with pytest.raises(SourceFileError, match=r"a\.parquet changed since"):
        shop.build("aggregates")
    assert set(shop.due_hours("aggregates")) == {0}
    shop.catch_up()
    assert [entry[5] for entry in shop.table("features")] == [2, 1]


@pytest.mark.parametrize(
    ("kind", "fits", "loses"),
    [
        ("INTEGER", "7", "7.25"),
        ("BIGINT", "9007199254740993", "0.1"),
        ("DATE", "2026-06-01", "2026-06-01 12:00:00"),
        ("DECIMAL(9,2)", "1.24", "1.239"),
    ],
)
def test_a_text_that_would_lose_by_the_cast_is_refused(
    shop: Shop, kind: str, fits: str, loses: str
) -> None:
    shop.land("a.parquet", [{**row("1", 0), "extra": None}], {**COLUMNS, "extra": kind})
    shop.land("b.csv", [{**row("2", 0), "extra": fits}], {**COLUMNS, "extra": "VARCHAR"})
    assert shop.ingest().unreadable == ()
    shop.land("c.csv", [{**row("3", 0), "extra": loses}], {**COLUMNS, "extra": "VARCHAR"})
    (told,) = shop.ingest().unreadable
    assert f"column extra holds '{loses}'" in told.error
