"""Zones, daylight saving, borders, and times that are none."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_patterns.incremental.grain import Grain
from ml_patterns_tests.incremental.conftest import COLUMNS, HOUR, START, Shop, hours, row

MICROSECOND = timedelta(microseconds=1)
TEXT = dict.fromkeys(COLUMNS, "VARCHAR")


def test_one_microsecond_decides_the_partition(shop: Shop) -> None:
    border = START + HOUR
    moments = {"before": border - MICROSECOND, "on": border, "after": border + MICROSECOND}
    shop.land("a.parquet", [{**row(name, 0), "at": at} for name, at in moments.items()])
    shop.catch_up()
    assert {r[1]: hours(r[0]) for r in shop.table("features")} == {"before": 0, "on": 1, "after": 1}


def test_one_microsecond_decides_lateness(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 10)])
    shop.ingest()  # watermark: exactly 8.0, which is where partition 7 ends
    border = START + 8 * HOUR
    shop.land("b.parquet", [{**row("late", 0), "at": border - MICROSECOND}, row("in time", 8)])
    shop.ingest()
    assert shop.classes() == {"accepted": 2, "too_late": 1}


def test_one_microsecond_below_the_border_keeps_the_partition_open(shop: Shop) -> None:
    shop.land("a.parquet", [{**row("1", 0), "at": START + 10 * HOUR - MICROSECOND}])
    shop.ingest()
    shop.land("b.parquet", [row("in time", 7)])
    shop.ingest()
    assert shop.classes() == {"accepted": 2}


def test_one_microsecond_decides_the_start_and_the_end_of_the_stream(
    make_shop: Callable[..., Shop],
) -> None:
    shop = make_shop(end="2026-06-02")
    end = START + 24 * HOUR
    moments = [START - MICROSECOND, START, end - MICROSECOND, end]
    shop.land("a.parquet", [{**row(str(n), 0), "at": at} for n, at in enumerate(moments)])
    shop.ingest()
    assert shop.classes() == {"accepted": 2, "invalid": 2}


def test_one_microsecond_decides_what_is_future(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(allowed_skew="10m")
    shop.now = 3.0
    border = START + 3 * HOUR + timedelta(minutes=10)
    shop.land(
        "a.parquet", [{**row("1", 0), "at": border}, {**row("2", 0), "at": border + MICROSECOND}]
    )
    shop.ingest()
    assert shop.classes() == {"accepted": 1, "future": 1}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_naive_times_are_read_in_the_zone_of_the_settings(
    make_shop: Callable[..., Shop], ending: str
) -> None:
    """Berlin is two hours ahead in summer."""
    shop = make_shop(timezone="Europe/Berlin")
    shop.land(f"a.{ending}", [row("1", 2.5)])
    shop.catch_up()
    assert [r[2] for r in shop.table("features")] == [START + 0.5 * HOUR]


@pytest.mark.parametrize("kind", ["TIMESTAMPTZ", "VARCHAR"])
def test_times_with_an_offset_need_no_zone(make_shop: Callable[..., Shop], kind: str) -> None:
    shop = make_shop(timezone="Europe/Berlin")
    texts = ["2026-06-01 03:30:00+03:00", "2026-06-01T00:30:00Z", "2026-06-01 02:30:00.000+02",
             "2026-06-01 00:30:00 UTC", "2026-06-01T00:30:00Z "]  # fmt: skip
    if kind == "TIMESTAMPTZ":
        texts = [text.strip() for text in texts]
    rows = [{**row(str(n), 0), "at": text} for n, text in enumerate(texts)]
    shop.land("a.parquet", rows, {**COLUMNS, "at": kind})
    shop.catch_up()
    assert [r[2] for r in shop.table("features")] == [START + 0.5 * HOUR] * 5


@pytest.mark.parametrize(
    ("start", "local", "expected"),
    [
        # 02:30 on 29 March does not exist
        ("2026-03-28", ["03-29 01:30", "03-29 02:30", "03-29 03:30"],
         ["03-29 00:30", "03-29 01:30", "03-29 01:30"]),
        # 02:30 on 25 October exists twice
        ("2026-10-24", ["10-25 01:30", "10-25 02:30", "10-25 03:30"],
         ["10-24 23:30", "10-25 01:30", "10-25 02:30"]),
    ],
)  # fmt: skip
def test_an_hour_that_comes_twice_or_never_loses_no_row(
    make_shop: Callable[..., Shop], start: str, local: list[str], expected: list[str]
) -> None:
    """Berlin 2026; ambiguous times are winter time, missing ones are moved on by an hour."""
    shop = make_shop(timezone="Europe/Berlin", start=start)
    shop.now = 10_000
    rows = [{**row(str(n), 0), "at": f"2026-{text}"} for n, text in enumerate(local)]
    shop.land("a.parquet", rows)
    shop.catch_up()
    found = shop.query("SELECT event_time FROM shop.event_features ORDER BY event_id")
    assert [f"{r[0]:%m-%d %H:%M}" for r in found] == expected


@settings(max_examples=60, deadline=None)
@given(
    at=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - local times
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
)
def test_local_times_become_the_instant_that_the_zone_says(at: datetime, zone: str) -> None:
    """Against Python's own zone data, wherever the local time exists exactly once."""
    import duckdb

    from ml_patterns.incremental.sources import _utc

    one, other = (at.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    if one.utcoffset() != other.utcoffset():
        return
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            f"SELECT {_utc('t', 'TIMESTAMP', zone)} FROM (SELECT ?::TIMESTAMP AS t)", [at]
        ).fetchone()
    assert found == (one.astimezone(UTC).replace(tzinfo=None),)


NOT_TIMES = ["", "soon", "2026-02-30 00:00:00", "2026-06-01 25:00:00", "infinity", "-infinity",
             "99999999-01-01 00:00:00", "0000-00-00", "2026-06-01 00:00:61"]  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_what_is_no_time_is_invalid_and_costs_only_its_row(shop: Shop, ending: str) -> None:
    rows = [{**row(str(n), 0), "at": text} for n, text in enumerate(NOT_TIMES)]
    shop.land(f"a.{ending}", [*rows, {**row("ok", 0), "at": str(START)}], TEXT)
    shop.ingest()
    assert shop.classes() == {"accepted": 1, "invalid": len(NOT_TIMES)}


def test_a_leap_second_is_accounted_for(shop: Shop) -> None:
    """No leap second has been set since 2016; 23:59:60 is no instant of POSIX time."""
    rows = [{**row("1", 0), "at": "2026-06-30 23:59:60"}, {**row("2", 0), "at": str(START)}]
    shop.land("a.csv", rows, TEXT)
    shop.ingest()
    assert shop.classes() == {"accepted": 1, "invalid": 1}


def test_dates_far_outside_are_invalid_or_future_and_break_nothing(shop: Shop) -> None:
    moments = ["0001-01-01", "1677-01-01", "9999-12-31 23:59:59.999999", "2262-04-12"]
    shop.land("a.csv", [{**row(str(n), 0), "at": text} for n, text in enumerate(moments)], TEXT)
    shop.land("b.parquet", [row("ok", 0)])
    shop.catch_up()
    assert shop.classes() == {"accepted": 1, "invalid": 2, "future": 2}


def test_every_key_is_read_back() -> None:
    for grain in (Grain("hour"), Grain("day")):
        for number in range(60):
            partition = grain.floor(START + number * grain.length)
            assert grain.parse(grain.key(partition)) == partition
