"""A small stream in a temporary folder: real files, a real warehouse, a clock that tests move."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ml_patterns.incremental import build, ledger, manifest, plan
from ml_patterns.incremental.build import Built
from ml_patterns.incremental.manifest import Ingest, Step
from ml_patterns.incremental.plan import LAYERS, DuePartition, Layer
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import literal
from ml_patterns.storage.warehouse import Warehouse

START = datetime(2026, 6, 1)  # noqa: DTZ001 - UTC without a zone, as in the warehouse
HOUR = timedelta(hours=1)

COLUMNS = {
    "id": "VARCHAR",
    "at": "TIMESTAMP",
    "known": "TIMESTAMP",
    "region": "VARCHAR",
    "amount": "BIGINT",
    "label": "BOOLEAN",
}

AGGREGATES = """\
SELECT region, count(*) AS events, CAST(sum(amount) AS BIGINT) AS amount,
    count(label) AS labelled, count(*) FILTER (WHERE label) AS positives
FROM events GROUP BY region
"""

FEATURES = """\
WITH before AS (
    SELECT region, CAST(sum(events) AS BIGINT) AS events, CAST(sum(amount) AS BIGINT) AS amount,
        CAST(sum(labelled) AS BIGINT) AS labelled, CAST(sum(positives) AS BIGINT) AS positives
    FROM aggregates GROUP BY region
)
SELECT e.id AS event_id, e.at AS event_time, e.region, e.label, e.amount,
    before.events AS events_before, before.amount AS amount_before,
    before.labelled AS labelled_before, before.positives AS positives_before
FROM events e LEFT JOIN before ON before.region = e.region
"""

Row = dict[str, Any]


def row(id: str, hour: float, **more: Any) -> Row:
    """An event some hours after START; `known` at the same time unless given."""
    at = START + hour * HOUR
    known = START + more.pop("known") * HOUR if "known" in more else at
    values = {"id": id, "at": at, "known": known, "region": "eu", "amount": 1, "label": None}
    return {**values, **more}


def make_settings(
    folder: Path,
    *,
    aggregates: str = AGGREGATES,
    features: str = FEATURES,
    window: int = 3,
    label_columns: Sequence[str] = ("labelled", "positives"),
    **events: Any,
) -> PipelineSettings:
    """Settings of a pipeline `shop`; its SQL and its `landed/` folder are in the folder given."""
    (folder / "landed").mkdir(parents=True, exist_ok=True)
    (folder / "aggregates.sql").write_text(aggregates)
    (folder / "features.sql").write_text(features)
    block = {
        "path": "landed/**/*.*", "id": "id", "time": "at", "version": "known", "region": "region",
        "start": START.date(), "grace": "2h", "label_delay": "2h", **events,
    }  # fmt: skip
    document = {
        "name": "shop",
        "events": block,
        "aggregates": {"window": window, "label_columns": list(label_columns)},
    }
    return PipelineSettings.model_validate(document).located(folder, folder)


@dataclass
class Shop:
    """A pipeline, its landed files and its warehouse.

    Attributes:
        now: what the clock shows, hours after START; far behind the events unless a test says so.
    """

    folder: Path
    settings: PipelineSettings
    now: float = 1_000.0
    step: Step = field(default=lambda name: None)

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.folder / "warehouse.duckdb")

    @property
    def landed(self) -> Path:
        return self.folder / "landed"

    def clock(self) -> datetime:
        return (START + self.now * HOUR).replace(tzinfo=UTC)

    def change(self, **settings: Any) -> None:
        """Other settings or SQL from now on."""
        self.settings = make_settings(self.folder, **settings)

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self.warehouse.connect() as connection:
            yield connection

    def land(self, name: str, rows: Sequence[Row], columns: dict[str, str] | None = None) -> Path:
        """Writes a file whole, as a new inode; an earlier one of that name is replaced."""
        return write(self.landed / name, rows, columns or COLUMNS)

    def ingest(self) -> Ingest:
        with self.connect() as connection:
            return manifest.ingest(connection, self.settings, self.clock, self.step)

    def due(self, layer: Layer) -> list[DuePartition]:
        with self.connect() as connection:
            return plan.plan(connection, self.settings, layer, self.clock())

    def due_hours(self, layer: Layer) -> dict[int, str]:
        """Hour after START -> why it is due."""
        return {hours(entry.partition): entry.reason for entry in self.due(layer)}

    def build(self, layer: Layer) -> list[Built]:
        with self.connect() as connection:
            due = plan.plan(connection, self.settings, layer, self.clock())
            chosen = [entry.partition for entry in due]
            return list(
                build.build(connection, self.settings, layer, chosen, self.clock, self.step)
            )

    def catch_up(self) -> dict[Layer, list[int]]:
        """Ingests and builds everything; the hours that were built, per layer."""
        self.ingest()
        return {layer: [hours(done.partition) for done in self.build(layer)] for layer in LAYERS}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(sql).fetchall()

    def table(self, layer: Layer) -> list[tuple[Any, ...]]:
        """Rows of a layer, in a fixed order."""
        return self.query(f"SELECT * FROM shop.event_{layer} ORDER BY ALL")

    def classes(self) -> dict[str, int]:
        """Rows per class over the current files."""
        return dict(self.query("SELECT class, sum(rows)::BIGINT FROM shop.entries GROUP BY class"))

    def accounts(self) -> ledger.Accounts:
        with self.connect() as connection:
            return ledger.accounts(connection, "shop")


def hours(partition: datetime) -> int:
    """A partition as whole hours after START."""
    return int((partition - START) / HOUR)


def write(path: Path, rows: Sequence[Row], columns: dict[str, str] = COLUMNS) -> Path:
    """Writes rows as the file's ending says and puts the file in place in one instant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {
        ".parquet": "FORMAT parquet",
        ".csv": "FORMAT csv, HEADER",
        ".gz": "FORMAT csv, HEADER, COMPRESSION gzip",
        ".jsonl": "FORMAT json",
    }[path.suffix]
    partial = path.with_name("." + path.name)
    with duckdb.connect() as connection:
        names = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        connection.execute(f"CREATE TABLE landing({names})")
        if rows:
            places = ", ".join("?" for _ in columns)
            connection.executemany(
                f"INSERT INTO landing VALUES ({places})",
                [[entry.get(name) for name in columns] for entry in rows],
            )
        connection.execute(f"COPY landing TO {literal(str(partial))} ({options})")
    partial.replace(path)
    return path


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, make_settings(tmp_path))


@pytest.fixture
def make_shop(tmp_path: Path) -> Callable[..., Shop]:
    """A shop with other settings."""
    return lambda **settings: Shop(tmp_path, make_settings(tmp_path, **settings))
