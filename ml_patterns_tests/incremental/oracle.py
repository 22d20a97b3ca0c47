"""The slow obvious way: keep every delivery, judge every row, compute everything again.

Shares nothing with the ledger or its SQL. It is told what happens to the files and when they are
listed, and says what the tables must hold then.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ml_patterns_tests.incremental.conftest import COLUMNS, HOUR, START, Row

Table = list[tuple[Any, ...]]


@dataclass
class Oracle:
    """What the pipeline must come to.

    Attributes:
        disk: path -> its rows; None where the file is spoiled.
        first: path -> the watermark before the listing that first saw it.
        current: path -> rows of its newest readable revision, and when that was registered.
        waiting: listed and not read yet: path -> when it was registered.
        newest: greatest event time accepted so far, in any revision.
        replayed: (path, partition, class) that count after all.
        twice: whether the aggregates' SQL counts amounts twice.
    """

    grace: timedelta
    skew: timedelta
    delay: timedelta
    window: int
    disk: dict[str, list[Row] | None] = field(default_factory=dict)
    landed_since: set[str] = field(default_factory=set)
    first: dict[str, datetime | None] = field(default_factory=dict)
    current: dict[str, tuple[list[Row], datetime]] = field(default_factory=dict)
    waiting: dict[str, datetime] = field(default_factory=dict)
    newest: datetime | None = None
    replayed: set[tuple[str, datetime, str]] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    twice: bool = False

    def land(self, path: str, rows: list[Row] | None) -> None:
        self.disk[path] = rows
        self.landed_since.add(path)

    def remove(self, path: str) -> None:
        del self.disk[path]
        self.landed_since.discard(path)

    def list_files(self, now: datetime) -> None:
        """All that landed since the last listing, judged by the watermark before it."""
        self.read()
        before = self.newest - self.grace if self.newest else None
        for path in self.landed_since:
            self.first.setdefault(path, before)
            self.waiting[path] = now
        self.landed_since = set()

    def read(self) -> None:
        """Reads what is waiting, as it lies there now."""
        for path, registered_at in self.waiting.items():
            rows = self.disk.get(path)
            if rows is None:
                if path not in self.disk:
                    self.landed_since.discard(path)
                continue
            self.current[path] = (rows, registered_at)
            for entry in rows:
                if self.judge(path, entry) == "accepted":
                    self.newest = max(self.newest or entry["at"], entry["at"])
        self.waiting = {}

    def let_go(self, path: str) -> None:
        del self.current[path]

    def replay(self, partition: datetime | None) -> None:
        self.replayed |= {
            key
            for key in self.entries()
            if key[1] is not None and partition in (None, key[1]) and key[2] != "accepted"
        }

    def blocked(self) -> set[str]:
        """Files whose judged revision can no longer be read."""
        return {path for path, (rows, _) in self.current.items() if self.disk.get(path) is not rows}

    def judge(self, path: str, entry: Row) -> str:
        _, registered_at = self.current[path]
        at, mark = entry["at"], self.first[path]
        if entry["id"] is None or not (entry["region"] or "").strip() or at is None or at < START:
            return "invalid"
        if at > registered_at + self.skew:
            return "future"
        if mark is not None and hour_of(at) + HOUR <= mark:
            return "too_late"
        return "accepted"

    def entries(self) -> dict[tuple[str, datetime | None, str], list[Row]]:
        """(path, partition, class) -> rows, over the current revisions."""
        found: dict[tuple[str, datetime | None, str], list[Row]] = {}
        for path, (rows, _) in self.current.items():
            for entry in rows:
                verdict = self.judge(path, entry)
                partition = None if verdict == "invalid" else hour_of(entry["at"])
                found.setdefault((path, partition, verdict), []).append(entry)
        return found

    def accounts(self, now: datetime) -> dict[str, int]:
        found = dict.fromkeys(
            ("accepted", "too_late", "future", "invalid", "kept", "superseded", "duplicate"), 0
        )
        for key, rows in self.entries().items():
            counts = key[2] == "accepted" or key in self.replayed
            found["accepted" if counts else key[2]] += len(rows)
        for rows in self.partitions(now).values():
            contents = {content(entry) for entry in rows}
            events = {entry["id"] for entry in rows}
            found["kept"] += len(events)
            found["superseded"] += len(contents) - len(events)
            found["duplicate"] += len(rows) - len(contents)
        return found

    def partitions(self, now: datetime) -> dict[datetime, list[Row]]:
        """Rows that count, by partition; partitions that are not over wait."""
        found: dict[datetime, list[Row]] = {}
        for key, rows in self.entries().items():
            partition, counts = key[1], key[2] == "accepted" or key in self.replayed
            if counts and partition is not None and partition + HOUR <= now:
                found.setdefault(partition, []).extend(rows)
        return found

    def events(self, now: datetime) -> dict[datetime, list[Row]]:
        """The newest version of each event."""
        chosen: dict[datetime, list[Row]] = {}
        for partition, rows in self.partitions(now).items():
            best: dict[str, Row] = {}
            for entry in rows:
                other = best.get(entry["id"])
                if other is None or rank(entry) > rank(other):
                    best[entry["id"]] = entry
            chosen[partition] = list(best.values())
        return chosen

    def aggregates(self, now: datetime) -> Table:
        table = []
        for partition, rows in self.events(now).items():
            for region in {entry["region"] for entry in rows}:
                here = [entry for entry in rows if entry["region"] == region]
                amount = total([entry["amount"] for entry in here])
                table.append((
                    partition, region, len(here),
                    amount and amount * 2 if self.twice else amount,
                    sum(entry["label"] is not None for entry in here),
                    sum(entry["label"] is True for entry in here),
                ))  # fmt: skip
        return ordered(table)

    def features(self, now: datetime) -> Table:
        aggregates, table = self.aggregates(now), []
        for partition, rows in self.events(now).items():
            for entry in rows:
                before = [
                    line
                    for line in aggregates
                    if partition - self.window * HOUR <= line[0] < partition
                    and line[1] == entry["region"]
                ]
                known = [line for line in before if line[0] + HOUR + self.delay <= partition]
                table.append((
                    partition, entry["id"], entry["at"], entry["region"], entry["label"],
                    entry["amount"], total([line[2] for line in before]),
                    total([line[3] for line in before]), total([line[4] for line in known]),
                    total([line[5] for line in known]),
                ))  # fmt: skip
        return ordered(table)


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def total(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def content(entry: Row) -> str:
    """The text by which ties are broken: all columns, as the database writes them."""
    return f"({', '.join(text(entry[name]) for name in COLUMNS)})"


def text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, datetime) else str(value)


def rank(entry: Row) -> tuple[Any, ...]:
    return (entry["known"] is not None, entry["known"] or START, content(entry))


def ordered(table: Table) -> Table:
    """In one order, whatever is NULL."""
    return sorted(table, key=lambda line: [(value is None, str(value)) for value in line])
