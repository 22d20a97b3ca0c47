"""Partitions that were served degraded, and what of them is asked for again.

Belongs here: remembering such partitions until they heal. Does not: predicting (`client.py`),
requesting runs (`sensors.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ml_patterns.circuit_breaker.tables import degraded_partitions as table
from ml_patterns.circuit_breaker.transitions import Circuit
from ml_patterns.storage.operational import reading


@dataclass(frozen=True)
class Degraded:
    """A partition with rows that a healthy server would have answered."""

    partition_start: datetime
    since: datetime


def degraded(engine: sa.Engine, pipeline: str) -> list[Degraded]:
    """The partitions that have not healed, oldest first."""
    query = (
        sa.select(table.c.partition_start, table.c.since)
        .where(table.c.pipeline == pipeline, table.c.healed_at.is_(None))
        .order_by(table.c.partition_start)
    )
    with reading(engine) as connection:
        return [Degraded(*row) for row in connection.execute(query)]


def degraded_partitions(engine: sa.Engine, pipeline: str) -> list[datetime]:
    """Starts (UTC) of the partitions that have not healed, oldest first."""
    return [entry.partition_start for entry in degraded(engine, pipeline)]


def remember(
    engine: sa.Engine, pipeline: str, served: Mapping[datetime, bool], now: datetime
) -> list[datetime]:
    """Writes down how partitions were served.

    Args:
        served: partition start (UTC) -> whether it is degraded now.

    Returns:
        Those that were degraded and have healed now.
    """
    healed = []
    with engine.begin() as connection:
        for start, is_degraded in sorted(served.items()):
            here = sa.and_(table.c.pipeline == pipeline, table.c.partition_start == start)
            known = connection.execute(sa.select(table.c.healed_at).where(here)).first()
            if known is None:
                if is_degraded:
                    connection.execute(
                        sa.insert(table).values(
                            pipeline=pipeline, partition_start=start, since=now, healed_at=None
                        )
                    )
            elif is_degraded and known.healed_at is not None:
                connection.execute(sa.update(table).where(here).values(since=now, healed_at=None))
            elif not is_degraded and known.healed_at is None:
                connection.execute(sa.update(table).where(here).values(healed_at=now))
                healed.append(start)
    return healed


def to_heal(circuit: Circuit, waiting: list[Degraded], now: datetime) -> list[Degraded]:
    """What to ask for again now: all if the circuit is closed, one as the probe that is due."""
    if circuit.state == "closed":
        return waiting
    return waiting[:1] if circuit.probe_due(now) else []


def contiguous(entries: list[Degraded], length: timedelta) -> list[list[Degraded]]:
    """Groups of partitions without a gap: one run each.

    Args:
        entries: oldest first.
        length: of a partition.
    """
    groups: list[list[Degraded]] = []
    for entry in entries:
        last = groups[-1][-1].partition_start if groups else None
        if last is not None and entry.partition_start - last == length:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups
