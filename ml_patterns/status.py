"""What an operator has to know of a pipeline, and the next command to type.

Belongs here: asking every room for what is late, failing, waiting, degraded or too big. Does not:
printing (`commands/status.py`), changing anything.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.circuit_breaker import control
from ml_patterns.circuit_breaker.degraded import degraded
from ml_patterns.errors import UserError
from ml_patterns.incremental import ledger
from ml_patterns.incremental.cost import check_budget
from ml_patterns.incremental.dead_letter import removed_files
from ml_patterns.incremental.plan import LAYERS, plan
from ml_patterns.registry.outbox import notifications
from ml_patterns.registry.regions import (
    known_regions,
    refusal,
    retired_regions,
    unusable_regions,
)
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import Warehouse, has_table


@dataclass(frozen=True)
class Finding:
    """Something that wants attention.

    Attributes:
        subject: the room's word for it, such as `unreadable file`.
        sentence: what is the matter.
        command: what to type next; empty where waiting is enough.
    """

    subject: str
    sentence: str
    command: str = ""


@dataclass(frozen=True)
class Status:
    """A pipeline at a glance; without findings, nothing wants attention.

    Attributes:
        watermark: event time up to which the stream is believed complete (UTC).
        accounts: where every delivered row went.
        champions: regions that serve a model, of `regions` known ones that are not retired.
        retired: regions that are skipped; what they serve stays.
    """

    pipeline: str
    watermark: datetime | None
    accounts: dict[str, int]
    regions: int
    champions: int
    retired: tuple[str, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values; times in ISO format."""
        values = asdict(self)
        values["watermark"] = self.watermark.isoformat() if self.watermark else None
        return values


def status(
    settings: PipelineSettings, warehouse: Warehouse, engine: sa.Engine, clock: Clock = utc_now
) -> Status:
    """Asks every room; reads only."""
    mark: datetime | None = None
    accounts: dict[str, int] = {}
    findings: list[Finding] = []
    live = known_regions(engine, settings.name)
    retired = retired_regions(engine, settings.name)
    known = {*live, *retired}
    if warehouse.path.exists():
        with warehouse.connect(read_only=True) as connection:
            if ledger.exists(connection, settings.name):
                mark = ledger.watermark(connection, settings)
                accounts = asdict(ledger.accounts(connection, settings.name))
                findings += _of_the_ledger(connection, settings, clock(), known)
    if not accounts:
        findings.append(
            Finding("start", "no file was registered yet", f"ml-patterns run {settings.name}")
        )
    registry = Registry(engine)
    findings += [*_of_the_registry(registry, settings.name), *_of_serving(engine, settings.name)]
    serving = {champion.region for champion in registry.champions(settings.name)}
    return Status(
        pipeline=settings.name,
        watermark=mark,
        accounts=accounts,
        regions=len(live),
        champions=len(serving - set(retired)),
        retired=tuple(retired),
        findings=tuple(findings),
    )


def _of_the_ledger(
    connection: Any, settings: PipelineSettings, now: datetime, known: set[str]
) -> Iterator[Finding]:
    name = settings.name
    for file in ledger.unreadable_files(connection, name):
        yield Finding("unreadable file", file.error)
    if "://" not in settings.event_glob:  # what is wrong must be told without a network, too
        for sentence in removed_files(connection, settings):
            yield Finding("removed file", sentence)
    for layer in LAYERS:
        due = plan(connection, settings, layer, now)
        if due:
            yield Finding(
                "due",
                f"{len(due)} partitions of {layer} are due, the oldest {due[0].partition}",
                f"ml-patterns plan {name}",
            )
        try:
            check_budget(connection, settings, layer, [each.partition for each in due])
        except UserError as too_big:
            yield Finding("too big", str(too_big), f"ml-patterns plan {name}")
    if has_table(connection, name, "event_features"):
        rows = connection.execute(f"SELECT DISTINCT region FROM {quoted(name)}.event_features")
        found = {row[0] for row in rows.fetchall()}
        unusable = unusable_regions(found)
        if unusable:
            yield Finding("region", f"it gets no model: {refusal(unusable)}")
        unknown = sorted(found - unusable.keys() - known)
        if unknown:  # a run was killed after its commit: nothing is due that would find them
            yield Finding(
                "region",
                f"{len(unknown)} regions have features and are not known yet, such as "
                f"{unknown[0]}; materialize a partition of {name}/event_features",
            )
    late = connection.execute(
        f"SELECT coalesce(sum(rows), 0) FROM {quoted(name)}.dead_letter WHERE class = 'too_late'"
    ).fetchall()[0][0]
    if late:
        yield Finding(
            "dead letter",
            f"{late} rows came after their partition was closed",
            f"ml-patterns dead-letter list {name}",
        )


def _of_the_registry(registry: Registry, pipeline: str) -> Iterator[Finding]:
    for review in registry.reviews(pipeline):
        yield Finding(
            "review",
            f"{review.region} version {review.version} waits for a human until "
            f"{review.expires_at:%Y-%m-%d %H:%M} UTC",
            f"ml-patterns review show {review.id}",
        )
    for note in notifications(registry.engine, pipeline, pending_only=True):
        if note.error:
            yield Finding("notification", f"{note.kind} of {note.region} is stuck: {note.error}")


def _of_serving(engine: sa.Engine, pipeline: str) -> Iterator[Finding]:
    waiting = degraded(engine, pipeline)
    if waiting:
        yield Finding(
            "degraded",
            f"{len(waiting)} partitions were not answered live, the oldest "
            f"{waiting[0].partition_start:%Y-%m-%d %H:%M}",
            f"ml-patterns run {pipeline} --steps predictions",
        )
    for breaker in control.status(engine, events=0):
        if breaker.state != "closed":
            yield Finding(
                "circuit", f"{breaker.name} is {breaker.state}: {breaker.reason}",
                "ml-patterns breaker status",
            )  # fmt: skip
