"""The change of a champion: one new generation, whatever the reason.

Belongs here: the compare-and-set and what belongs to it. Does not: whether a version may become
champion (`Registry.promote`), which one a rollback returns to (`rollback.py`).
"""

import sqlalchemy as sa

from ml_patterns.errors import ConflictError
from ml_patterns.registry import tables
from ml_patterns.registry.journal import RegionLock
from ml_patterns.registry.records import Champion
from ml_patterns.registry.reviews import void_outdated


def install(
    lock: RegionLock,
    number: int,
    artifact: str,
    *,
    decision_id: int | None,
    restores: int | None,
    action: str,
    actor: str,
    reason: str,
) -> Champion:
    """Makes a version the champion, retires the one before, and tells the team.

    Raises:
        ConflictError: the generation moved although the region was locked (a database without
            row locks); nothing is written.
    """
    generation = lock.generation + 1
    champions = tables.champions
    done = lock.connection.execute(
        sa.update(champions)
        .where(lock.of(champions), champions.c.generation == lock.generation)
        .values(generation=generation, version=number, artifact=artifact, promoted_at=lock.now)
    )
    if done.rowcount != 1:
        raise ConflictError(f"the champion of {lock.region} changed meanwhile; nothing was done")
    lock.connection.execute(
        sa.insert(tables.generations).values(
            pipeline=lock.pipeline,
            region=lock.region,
            generation=generation,
            version=number,
            artifact=artifact,
            decision_id=decision_id,
            restores=restores,
            actor=actor,
            reason=reason,
            promoted_at=lock.now,
        )
    )
    if lock.version is not None and lock.version != number:
        lock.move(lock.version, "retired", action="retired", actor=actor, reason=reason)
    from_state = lock.state(number)
    lock.set_state(number, "champion")
    lock.record(
        number,
        action=action,
        from_state=from_state,
        to_state="champion",
        actor=actor,
        reason=reason,
        generation=generation,
    )
    void_outdated(lock, {"champion_generation": generation})
    lock.notify(
        action,
        (generation, artifact),
        {
            "version": number,
            "artifact": artifact,
            "generation": generation,
            "replaces": lock.version,
            "actor": actor,
            "reason": reason,
        },
    )
    return Champion(lock.pipeline, lock.region, number, artifact, generation, lock.now)
