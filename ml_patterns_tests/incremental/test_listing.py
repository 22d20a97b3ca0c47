"""Listings, watermark and closure: what is late is decided once, by what was known before."""

from collections.abc import Callable

import pytest

from ml_patterns_tests.incremental.conftest import HOUR, START, Shop, row


def test_a_first_load_is_never_late_with_itself(shop: Shop) -> None:
    """Names sort against time on purpose: the newest events are read first."""
    shop.land("a.parquet", [row("new", 200)])
    shop.land("b.parquet", [row("old", 0)])
    shop.ingest()
    assert shop.classes() == {"accepted": 2}


def test_the_next_listing_is_judged_by_the_watermark_before_it(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 10.5)])
    shop.ingest()  # watermark: 8.5
    shop.land("b.parquet", [row("in time", 8.0), row("too late", 7.99), row("newest", 50)])
    shop.ingest()
    assert shop.classes() == {"accepted": 3, "too_late": 1}


def test_the_watermark_is_the_greatest_accepted_time_less_grace_and_never_falls(
    shop: Shop,
) -> None:
    shop.land("a.parquet", [row("1", 10), row("from the future", 5_000)])
    assert shop.ingest().watermark.replace(tzinfo=None) == START + 8 * HOUR
    shop.land("a.parquet", [row("1", 4)])  # the newest event was a mistake
    assert shop.ingest().watermark.replace(tzinfo=None) == START + 8 * HOUR


def test_a_corrected_file_keeps_the_watermark_of_its_first_revision(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0)])
    shop.ingest()
    shop.land("b.parquet", [row("2", 100)])
    shop.catch_up()
    shop.land("a.parquet", [row("1", 0, amount=5), row("3", 1)])
    done = shop.ingest()
    assert shop.classes() == {"accepted": 3}
    assert done.changed == (START, START + HOUR)


def test_a_corrected_file_restates_the_union_of_its_old_and_new_partitions(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0), row("2", 1)])
    shop.land("b.parquet", [row("3", 5)])
    shop.catch_up()
    shop.land("a.parquet", [row("1", 0), row("2", 2)])
    shop.ingest()
    assert shop.due_hours("aggregates") == {1: "corrected file", 2: "corrected file"}
    shop.catch_up()
    assert [entry[:3] for entry in shop.table("aggregates")] == [
        (START, "eu", 1),
        (START + 2 * HOUR, "eu", 1),
        (START + 5 * HOUR, "eu", 1),
    ]


def test_a_file_that_only_changed_its_time_restates_nothing(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0)])
    shop.catch_up()
    shop.land("a.parquet", [row("1", 0)])
    assert shop.ingest().files == 1
    assert shop.due("aggregates") == shop.due("features") == []


def test_a_listing_waits_until_the_one_before_it_is_read(shop: Shop) -> None:
    """A run killed between listing and reading changes no verdict of the files after it."""
    shop.land("a.parquet", [row("1", 100)])

    class KilledError(Exception):
        pass

    def die(name: str) -> None:
        if name == "listed":
            raise KilledError

    shop.step = die
    with pytest.raises(KilledError):
        shop.ingest()
    shop.step = lambda name: None
    shop.land("b.parquet", [row("2", 1)])
    shop.ingest()
    assert shop.classes() == {"accepted": 1, "too_late": 1}


def test_listing_twice_numbers_nothing_twice(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 0)])
    assert (shop.ingest().files, shop.ingest().files) == (1, 0)
    assert shop.query("SELECT count(*) FROM shop.listings") == [(1,)]


def test_hidden_files_are_still_being_written(shop: Shop) -> None:
    (shop.landed / ".a.parquet").write_bytes(b"half")
    (shop.landed / "_temporary.parquet").write_bytes(b"half")
    shop.land("a.parquet", [row("1", 0)])
    done = shop.ingest()
    assert (done.files, done.unreadable) == (1, ())


def test_rows_from_the_future_wait_and_do_not_move_the_watermark(
    make_shop: Callable[..., Shop],
) -> None:
    shop = make_shop(allowed_skew="10m")
    shop.now = 3.0
    shop.land("a.parquet", [row("ok", 3 + 10 / 60), row("future", 3.2)])
    done = shop.ingest()
    assert shop.classes() == {"accepted": 1, "future": 1}
    assert done.watermark.replace(tzinfo=None) == START + 70 * HOUR / 60


def test_every_row_is_invalid_future_too_late_or_accepted(make_shop: Callable[..., Shop]) -> None:
    """The first that applies wins: an invalid row is not also late."""
    shop = make_shop(end="2026-06-20")
    shop.land("a.parquet", [row("1", 300)])
    shop.ingest()
    shop.land(
        "b.parquet",
        [
            row("before the stream", -1),
            row("after the stream", 19 * 24),
            {**row("", 5), "id": None},
            {**row("no time", 5), "at": None},
            row("no region", 5, region=None),
            row("blank region", 5, region="  "),
            row("future", 2_000),
            row("too late", 5),
            row("accepted", 301),
        ],
    )
    shop.ingest()
    assert shop.classes() == {"accepted": 2, "too_late": 1, "future": 1, "invalid": 6}
    found = shop.accounts()
    assert found.delivered == 10 == found.accepted + found.too_late + found.future + found.invalid
