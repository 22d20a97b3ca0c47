"""The change of a champion: one new generation, whatever the reason.

Belongs here: the compare-and-set with all that it writes, and whether a decision still allows it.
Does not: transactions (`registry.py`), which version a rollback returns to (`rollback.py`).
"""

import sqlalchemy as sa

from ml_patterns.errors import ConflictError, StaleDecisionError
from ml_patterns.registry import tables
from ml_patterns.registry.journal import RegionLock
from ml_patterns.registry.records import Champion, DecisionRecord, ModelVersion
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


def verify(lock: RegionLock, version: ModelVersion, decision: DecisionRecord, who: str) -> None:
    """Refuses a decision that does not allow this version to be deployed now.

    Raises:
        StaleDecisionError: the sentence names what changed.
    """
    known = lock.connection.execute(
        sa.select(tables.versions).where(
            lock.of(tables.versions), tables.versions.c.number == version.number
        )
    ).one_or_none()
    if known is None or known.artifact != version.artifact:
        raise StaleDecisionError(f"{who} is not promoted: the registry has another artifact")
    newest = lock.connection.scalar(
        sa.select(sa.func.max(tables.decisions.c.id)).where(
            lock.of(tables.decisions), tables.decisions.c.version == version.number
        )
    )
    if newest != decision.id:
        raise StaleDecisionError(
            f"{who} is not promoted: decision {decision.id} is not its newest ({newest} is)"
        )
    if decision.champion_generation != lock.generation:
        raise StaleDecisionError(
            f"{who} is not promoted: it was judged against champion generation "
            f"{decision.champion_generation}, but it is {lock.generation} now"
        )
    if known.state != "approved":
        raise StaleDecisionError(f"{who} is not promoted: it is {known.state}, not approved")
    tombstone = sa.select(tables.regions.c.retired_at).where(lock.of(tables.regions))
    if lock.connection.scalar(tombstone) is not None:
        raise StaleDecisionError(f"{who} is not promoted: the region is retired")
