"""Failed runs as news for the team.

Belongs here: putting a failed run into the outbox, once. Does not: finding failed runs
(`sensors.py`), sending (`branching/notify.py`, `branching/channels/`).
"""

from dataclasses import dataclass

import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.registry.journal import insert_if_absent
from ml_patterns.registry.tables import outbox

KIND = "run_failed"
_LONGEST = 500


@dataclass(frozen=True)
class FailedRun:
    """A run that ended badly.

    Attributes:
        why: what it says of itself.
        retried: whether Dagster starts it again by itself.
    """

    run_id: str
    job: str
    why: str
    retried: bool = False


def report_failed_run(
    engine: sa.Engine, pipeline: str, run: FailedRun, clock: Clock = utc_now
) -> bool:
    """Puts a failed run into the outbox; False when it was there already.

    The idempotency key is the run's id (and the pipeline, as one run can concern two), so that a
    run that is found twice is told once.
    """
    again = "; Dagster starts it again" if run.retried else ""
    payload = {
        "run": run.run_id,
        "job": run.job,
        "retried": run.retried,
        "reason": f"{run.job}, run {run.run_id}: {run.why[:_LONGEST]}{again}",
    }
    with engine.begin() as connection:
        return insert_if_absent(
            connection,
            outbox,
            key=f"{run.run_id}/{pipeline}",
            pipeline=pipeline,
            region="",
            kind=KIND,
            payload=payload,
            created_at=clock(),
            attempts=0,
        )
