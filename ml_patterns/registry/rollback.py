"""Rollback: an earlier champion serves again.

Belongs here: finding the generation to return to, and the return as one more generation. Does not:
transactions (`registry.py`).
"""

import sqlalchemy as sa

from ml_patterns.errors import UserError
from ml_patterns.registry import tables
from ml_patterns.registry.champions import install
from ml_patterns.registry.journal import RegionLock
from ml_patterns.registry.records import Champion, Generation


def roll_back(lock: RegionLock, to_generation: int | None, *, actor: str, reason: str) -> Champion:
    """Makes an earlier generation's version the champion again.

    Args:
        lock: the region.
        to_generation: the generation whose version serves again; None: the one before.

    Raises:
        UserError: there is no such generation.
    """
    history = _history(lock)
    target = history.get(to_generation) if to_generation else previous(lock.generation, history)
    if target is None or target.version == lock.version:
        raise UserError(
            f"region {lock.region} of {lock.pipeline} has no "
            + (
                f"other champion in generation {to_generation}"
                if to_generation
                else "earlier champion"
            )
            + f" to return to; it is at generation {lock.generation}"
        )
    return install(
        lock,
        target.version,
        target.artifact,
        decision_id=target.decision_id,
        restores=target.generation,
        action="rolled_back",
        actor=actor,
        reason=reason,
    )


def previous(generation: int, history: dict[int, Generation]) -> Generation | None:
    """The generation before this one; a rollback counts as the generation that it restored."""
    current = history.get(generation)
    if current is None:
        return None
    root = _root(current, history)
    before = history.get(root.generation - 1)
    while before is not None and _root(before, history).version == root.version:
        before = history.get(before.generation - 1)
    return None if before is None else _root(before, history)


def _root(generation: Generation, history: dict[int, Generation]) -> Generation:
    while generation.restores is not None:
        generation = history[generation.restores]
    return generation


def _history(lock: RegionLock) -> dict[int, Generation]:
    table = tables.generations
    rows = lock.connection.execute(sa.select(table).where(lock.of(table)))
    return {row.generation: Generation(**row._mapping) for row in rows}
