"""The bundled stream of parcels as it landed: late, twice, corrected, wrong.

Belongs here: how the stream tells what became of the parcels, and the files it lands in. Does not:
the parcels themselves (`parcels.py`).

`python -m ml_patterns.sandbox.events FOLDER` writes the files; the same bytes every time.
"""

import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from ml_patterns.sandbox.parcels import DAYS, SEED, START, all_parcels
from ml_patterns.storage.sql import literal, quoted

COLUMNS = {
    "parcel_id": "VARCHAR",
    "picked_up_at": "TIMESTAMP",
    "recorded_at": "TIMESTAMP",
    "region": "VARCHAR",
    "carrier": "VARCHAR",
    "service": "VARCHAR",
    "distance_km": "INTEGER",
    "weight_g": "INTEGER",
    "promised_hours": "INTEGER",
    "price_cents": "INTEGER",
    "hub_backlog": "INTEGER",
    "delivered_late": "BOOLEAN",
}
LANDING = timedelta(hours=3)
# Every parcel is delivered within LONGEST_TRANSIT_S; this is until the last of them is recorded.
LABEL_DELAY = timedelta(hours=12)
END = START + timedelta(days=DAYS) + LABEL_DELAY

# What is wrong with the stream, in rows.
LATE_ROWS = 600  # first heard of hours after the pick-up, within the grace period
TOO_LATE_ROWS = 90  # found in a lost scanner, a day to three after the pick-up
DUPLICATE_ROWS = 320  # the same row again, in the next file
CORRECTED_ROWS = 260  # weighed again: another weight and price, later recorded
FUTURE_ROWS = 40  # a clock that believes in 2099
ROWS_WITHOUT_ID = 25
ROWS_WITHOUT_REGION = 30
ROWS_WITHOUT_TIME = 20

# One file was wrong when it first came, and is delivered again under its name.
REDELIVERED_FILE = "parcels-2026-06-05T12.parquet"
REDELIVERED_REGION = "eu"
MISPRICED_ROWS = 60  # ten times the price
FORGOTTEN_ROWS = 15
TEST_ROWS = 10  # a tester's parcels, which the second delivery leaves out


def file_names() -> list[str]:
    """Names of all files, in the order in which they landed."""
    landings = pd.date_range(START + LANDING, END, freq=LANDING)
    return [f"parcels-{landing:%Y-%m-%dT%H}.parquet" for landing in landings]


def files_until(day: date) -> list[str]:
    """Names of the files that had landed when a day (UTC) ended, in order."""
    landed = datetime.combine(day, time(), UTC) + timedelta(days=1)
    return [name for name in file_names() if _landing(name) <= landed]


def write_events(folder: Path) -> list[Path]:
    """Writes the whole stream as it first landed, about 60 Parquet files.

    Args:
        folder: made if it does not exist; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(table, folder / name) for name, table in first_deliveries().items()]


def redeliver(folder: Path) -> Path:
    """Overwrites REDELIVERED_FILE in a folder with its corrected content; again: the same bytes."""
    return _write(corrected_delivery(), folder / REDELIVERED_FILE)


def first_deliveries() -> dict[str, pd.DataFrame]:
    """What each file held when it first landed, by file name, in order."""
    files = _true_files()
    right = files[REDELIVERED_FILE]
    wrong = right.copy()
    mispriced = _final_rows(right)[:MISPRICED_ROWS]
    wrong.loc[mispriced, "price_cents"] *= 10
    forgotten = _final_rows(right)[MISPRICED_ROWS : MISPRICED_ROWS + FORGOTTEN_ROWS]
    tests = right.loc[mispriced[:TEST_ROWS]].assign(
        parcel_id=[f"TEST{number:03d}" for number in range(TEST_ROWS)], price_cents=0
    )
    files[REDELIVERED_FILE] = pd.concat([wrong.drop(forgotten), tests])
    return {name: _table(rows) for name, rows in files.items()}


def corrected_delivery() -> pd.DataFrame:
    """What REDELIVERED_FILE holds when it lands again."""
    return _table(_true_files()[REDELIVERED_FILE])


def _true_files() -> dict[str, pd.DataFrame]:
    """The rows of every file, REDELIVERED_FILE in its corrected state."""
    rng = np.random.default_rng([SEED, len(COLUMNS)])
    names = file_names()
    rows = _recorded(all_parcels(), rng)
    rows["file"] = (rows["recorded_at"] - _naive(START)) // LANDING
    eligible = (rows["delay"] < LANDING) & (rows["file"] < len(names) - 1)
    again = rows.loc[_some(rng, rows, eligible, DUPLICATE_ROWS)]
    rows = pd.concat([rows, again.assign(file=again["file"] + 1)], ignore_index=True)
    return {name: rows[rows["file"] == number] for number, name in enumerate(names)}


def _recorded(parcels: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Every version of every parcel, and the rows that never should have been.

    Returns:
        COLUMNS and `delay`, the time between pick-up and record.
    """
    parcels = parcels.assign(
        delay=pd.to_timedelta(rng.integers(60, 480, len(parcels)), unit="s"),
        delivered_late=parcels["delivered_late"].astype("boolean"),
    )
    hours_late = pd.to_timedelta(rng.integers(2 * 3600, 10 * 3600, LATE_ROWS), unit="s")
    lost_for = pd.to_timedelta(rng.integers(24 * 3600, 72 * 3600, TOO_LATE_ROWS), unit="s")
    before_the_end = parcels["picked_up_at"] < _naive(END - timedelta(hours=84))
    lost = _some(rng, parcels, before_the_end, TOO_LATE_ROWS)
    parcels.loc[lost, "delay"] = lost_for
    late = _some(rng, parcels, parcels["delay"] < timedelta(hours=1), LATE_ROWS)
    parcels.loc[late, "delay"] = hours_late

    known = parcels.drop(lost)
    first = known.assign(delivered_late=pd.array([pd.NA] * len(known), dtype="boolean"))
    transit = pd.to_timedelta(known["transit_s"], unit="s")
    lag = pd.to_timedelta(rng.integers(60, 1500, len(known)), unit="s")
    delivered = known.assign(delay=np.maximum(transit, known["delay"]) + lag)

    heavier = rng.integers(1, 60, CORRECTED_ROWS) * 10
    weighed = delivered.loc[
        _some(rng, delivered, delivered["delay"] < timedelta(hours=10), CORRECTED_ROWS)
    ]
    corrected = weighed.assign(
        weight_g=weighed["weight_g"] + heavier,
        price_cents=weighed["price_cents"] + heavier // 20,
        delay=weighed["delay"] + pd.to_timedelta(rng.integers(900, 5400, len(weighed)), unit="s"),
    )

    rows = pd.concat([first, delivered, parcels.loc[lost], corrected], ignore_index=True)
    rows["recorded_at"] = rows["picked_up_at"] + rows["delay"]
    return pd.concat([rows, _unusable(first, rng)], ignore_index=True)


def _unusable(first: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Rows from the future, and rows that lack an id, a region or a time."""
    first = first.assign(recorded_at=first["picked_up_at"] + first["delay"])
    everyone = pd.Series(True, index=first.index)

    def some(count: int) -> pd.DataFrame:
        return first.loc[_some(rng, first, everyone, count)]

    future = some(FUTURE_ROWS)
    return pd.concat(
        [
            future.assign(
                parcel_id=[f"F{number:07d}" for number in range(FUTURE_ROWS)],
                picked_up_at=future["picked_up_at"] + pd.DateOffset(years=2099 - START.year),
            ),
            some(ROWS_WITHOUT_ID).assign(parcel_id=None),
            some(ROWS_WITHOUT_REGION).assign(region=None),
            some(ROWS_WITHOUT_TIME).assign(picked_up_at=pd.Timestamp("NaT")),
        ]
    )


def _some(
    rng: np.random.Generator, rows: pd.DataFrame, eligible: "pd.Series[bool]", count: int
) -> pd.Index:
    """`count` different labels of rows that are eligible, in order."""
    labels = rows.index[eligible]
    return labels[np.sort(rng.permutation(len(labels))[:count])]


def _final_rows(rows: pd.DataFrame) -> pd.Index:
    """The region's rows that tell of a delivery: nothing later supersedes most of them."""
    return rows.index[(rows["region"] == REDELIVERED_REGION) & rows["delivered_late"].notna()]


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    order = ["recorded_at", "parcel_id", "picked_up_at"]
    return rows.sort_values(order, kind="stable", ignore_index=True)[list(COLUMNS)]


def _write(table: pd.DataFrame, path: Path) -> Path:
    columns = ", ".join(
        f"{quoted(name)}::{type_} AS {quoted(name)}" for name, type_ in COLUMNS.items()
    )
    with duckdb.connect() as connection:
        connection.register("landing", table)
        connection.execute(
            f"COPY (SELECT {columns} FROM landing) TO {literal(str(path))} "
            "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 19)"
        )
    return path


def _landing(name: str) -> datetime:
    """When a file landed: the end of the three hours whose records it holds."""
    return datetime.strptime(name, "parcels-%Y-%m-%dT%H.parquet").replace(tzinfo=UTC)


def _naive(instant: datetime) -> pd.Timestamp:
    return pd.Timestamp(instant).tz_localize(None)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ml_patterns.sandbox.events FOLDER")
    written = write_events(Path(sys.argv[1]))
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} files, {size / 1e6:.1f} MB in {sys.argv[1]}")
