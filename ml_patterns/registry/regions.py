"""Which regions a pipeline has.

Belongs here: regions found in the data, and the tombstones of those that went away. Does not:
Dagster's dynamic partitions, which follow this table (`partitions.py` names them); what a tombstone
stops, which each room asks here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.errors import SettingsError, UserError
from ml_patterns.registry import reviews
from ml_patterns.registry.journal import RegionLock, insert_if_absent, named
from ml_patterns.registry.tables import audit, champions
from ml_patterns.registry.tables import regions as table
from ml_patterns.storage.operational import reading

_LONGEST = 200
_FORBIDDEN = frozenset("/\\\"'`,")
_RETIRED, _REVIVED = "region_retired", "region_revived"


@dataclass(frozen=True)
class Region:
    """A region of a pipeline.

    Attributes:
        serves: version of its champion; None: it has none.
        retired_at: when its tombstone was put up; None: it has none.
        retired_by: who put it up.
        reason: why.
    """

    region: str
    serves: int | None
    first_seen_at: datetime
    retired_at: datetime | None
    retired_by: str | None
    reason: str | None


def validate_region_key(text: str) -> None:
    """Refuses texts that cannot name a partition, a file and a model at once.

    Raises:
        SettingsError: names the region and what is wrong with it.
    """
    problem = None
    if not text or text != text.strip():
        problem = "is empty or begins or ends with a space"
    elif len(text) > _LONGEST:
        problem = f"is longer than {_LONGEST} characters"
    elif text.startswith(".") or "..." in text:
        problem = "begins with a dot or holds '...', which means a range to Dagster"
    elif not text.isprintable() or _FORBIDDEN & set(text):
        problem = "holds a comma, a quote, a slash or an unprintable character"
    if problem:
        raise SettingsError(
            f"region {text[:_LONGEST]!r} {problem}; map it to a plain name in features.sql or "
            "correct the events"
        )


def known_regions(engine: sa.Engine, pipeline: str) -> list[str]:
    """Regions that are not retired, sorted."""
    query = (
        sa.select(table.c.region)
        .where(table.c.pipeline == pipeline, table.c.retired_at.is_(None))
        .order_by(table.c.region)
    )
    with reading(engine) as connection:
        return sorted(connection.scalars(query))


def retired_regions(engine: sa.Engine, pipeline: str) -> list[str]:
    """Regions with a tombstone, sorted."""
    query = sa.select(table.c.region).where(
        table.c.pipeline == pipeline, table.c.retired_at.is_not(None)
    )
    with reading(engine) as connection:
        return sorted(connection.scalars(query))


def retired_among(engine: sa.Engine, pipeline: str, regions: Sequence[str]) -> list[str]:
    """Those of the regions that a tombstone keeps from being trained, in their order."""
    retired = set(retired_regions(engine, pipeline))
    return [region for region in regions if region in retired]


def all_regions(engine: sa.Engine, pipeline: str) -> list[Region]:
    """Every region that was ever found, sorted, with its tombstone and what it serves."""
    serving = sa.select(champions.c.region, champions.c.version).where(
        champions.c.pipeline == pipeline
    )
    log = (
        sa.select(audit.c.region, audit.c.actor, audit.c.reason)
        .where(audit.c.pipeline == pipeline, audit.c.action == _RETIRED)
        .order_by(audit.c.id)
    )
    query = sa.select(table).where(table.c.pipeline == pipeline)
    with reading(engine) as connection:
        versions = {row.region: row.version for row in connection.execute(serving)}
        said = {row.region: (row.actor, row.reason) for row in connection.execute(log)}
        found = connection.execute(query).all()
    regions = []
    for row in found:
        who, why = said.get(row.region, (None, None)) if row.retired_at else (None, None)
        regions.append(
            Region(
                row.region, versions.get(row.region), row.first_seen_at, row.retired_at, who, why
            )
        )
    return sorted(regions, key=lambda region: region.region)


def unusable_regions(regions: Iterable[str]) -> dict[str, str]:
    """The regions whose names cannot be keys, sorted -> what is wrong with each."""
    problems = {}
    for region in sorted(set(regions)):
        try:
            validate_region_key(region)
        except SettingsError as error:
            problems[region] = str(error)
    return problems


def refusal(problems: Mapping[str, str]) -> str:
    """One sentence for all regions that `unusable_regions` found."""
    first, *others = problems.values()
    return f"{first} ({len(others)} more regions have unusable names)" if others else first


def add_regions(
    engine: sa.Engine, pipeline: str, regions: Iterable[str], clock: Clock = utc_now
) -> list[str]:
    """Adds what is new and returns it, sorted; a tombstoned region stays retired.

    Raises:
        SettingsError: a key is unusable, once all others are added: one bad name in the events
            must not cost the other regions their models.
    """
    wanted = set(regions)
    refused = unusable_regions(wanted)
    now = clock()
    with engine.begin() as connection:
        added = [
            region
            for region in sorted(wanted - refused.keys())
            if insert_if_absent(
                connection, table, pipeline=pipeline, region=region, first_seen_at=now
            )
        ]
    if refused:
        raise SettingsError(refusal(refused))
    return added


def retire_region(
    engine: sa.Engine,
    pipeline: str,
    region: str,
    *,
    actor: str,
    reason: str,
    clock: Clock = utc_now,
) -> None:
    """Puts up a tombstone: the region is skipped from now on; champion and history stay.

    Its reviews that wait are void: nothing would be deployed by an answer.

    Raises:
        SettingsError: there is no such region.
        UserError: it is retired already, or actor or reason are empty.
    """
    actor, reason = named(actor, reason)
    with engine.begin() as connection:
        lock = RegionLock.take(connection, pipeline, region, clock)
        since = _retired_since(lock)
        if since is not None:
            raise UserError(
                f"region {region} of {pipeline} is retired already, since "
                f"{since:%Y-%m-%d %H:%M} UTC; nothing was changed"
            )
        _set_retired(lock, lock.now, action=_RETIRED, actor=actor, reason=reason)
        reviews.void_waiting(lock, f"region {region} was retired: {reason}", actor=actor)


def revive_region(
    engine: sa.Engine,
    pipeline: str,
    region: str,
    *,
    actor: str,
    reason: str,
    clock: Clock = utc_now,
) -> None:
    """Takes a tombstone away: the next training takes the region along.

    Raises:
        SettingsError: there is no such region.
        UserError: it is not retired, or actor or reason are empty.
    """
    actor, reason = named(actor, reason)
    with engine.begin() as connection:
        lock = RegionLock.take(connection, pipeline, region, clock)
        if _retired_since(lock) is None:
            raise UserError(f"region {region} of {pipeline} is not retired; nothing was changed")
        _set_retired(lock, None, action=_REVIVED, actor=actor, reason=reason)


def _retired_since(lock: RegionLock) -> datetime | None:
    query = sa.select(table.c.retired_at).where(lock.of(table))
    row = lock.connection.execute(query).one_or_none()
    if row is None:
        raise SettingsError(
            f"pipeline {lock.pipeline} has no region {lock.region!r}; "
            f"`ml-patterns region list {lock.pipeline}` shows those that its events have"
        )
    since: datetime | None = row.retired_at
    return since


def _set_retired(
    lock: RegionLock, retired_at: datetime | None, *, action: str, actor: str, reason: str
) -> None:
    lock.connection.execute(sa.update(table).where(lock.of(table)).values(retired_at=retired_at))
    # A transition of the region, not of a version: the log names the one that serves, 0 for none.
    lock.record(
        lock.version or 0, action=action, from_state=None, to_state=None, actor=actor, reason=reason
    )
