"""Which regions a pipeline has.

Belongs here: regions found in the data, and the tombstones of those that went away. Does not:
Dagster's dynamic partitions, which follow this table (`partitions.py` names them).
"""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.errors import SettingsError
from ml_patterns.registry.journal import insert_if_absent
from ml_patterns.registry.tables import regions as table
from ml_patterns.storage.operational import reading

_LONGEST = 200
_FORBIDDEN = frozenset("/\\\"'`,")


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


def retired_among(engine: sa.Engine, pipeline: str, regions: Sequence[str]) -> list[str]:
    """Those of the regions that a tombstone keeps from being trained, in their order."""
    query = sa.select(table.c.region).where(
        table.c.pipeline == pipeline, table.c.retired_at.is_not(None)
    )
    with reading(engine) as connection:
        retired = set(connection.scalars(query))
    return [region for region in regions if region in retired]


def add_regions(
    engine: sa.Engine, pipeline: str, regions: Iterable[str], clock: Clock = utc_now
) -> list[str]:
    """Adds what is new and returns it, sorted; a tombstoned region stays retired.

    Raises:
        SettingsError: a key is unusable; nothing is added then.
    """
    wanted = sorted(set(regions))
    for region in wanted:
        validate_region_key(region)
    now = clock()
    with engine.begin() as connection:
        return [
            region
            for region in wanted
            if insert_if_absent(
                connection, table, pipeline=pipeline, region=region, first_seen_at=now
            )
        ]


def retire_region(engine: sa.Engine, pipeline: str, region: str, clock: Clock = utc_now) -> None:
    """Puts up a tombstone: the region is skipped from now on; its champion stays."""
    _set_retired(engine, pipeline, region, retired_at=clock())


def revive_region(engine: sa.Engine, pipeline: str, region: str) -> None:
    """Takes a tombstone away."""
    _set_retired(engine, pipeline, region, retired_at=None)


def _set_retired(engine: sa.Engine, pipeline: str, region: str, *, retired_at: object) -> None:
    with engine.begin() as connection:
        done = connection.execute(
            sa.update(table)
            .where(table.c.pipeline == pipeline, table.c.region == region)
            .values(retired_at=retired_at)
        )
        if done.rowcount == 0:
            raise SettingsError(
                f"pipeline {pipeline} has no region {region!r}; name one that its events have"
            )
