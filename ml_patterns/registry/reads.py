"""What the registry knows: the reads.

Belongs here: every question that changes nothing; each reads one snapshot and waits for no writer.
Does not: the transitions (`registry.py`).
"""

from typing import Any

import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.errors import UserError
from ml_patterns.registry import reviews as review_steps
from ml_patterns.registry import tables
from ml_patterns.registry.records import (
    AuditRow,
    Champion,
    DecisionRecord,
    Generation,
    ModelVersion,
    Review,
    Verdict,
)
from ml_patterns.storage.operational import reading


class RegistryReads:
    """Versions, decisions, reviews and champions as they are."""

    def __init__(self, engine: sa.Engine, clock: Clock = utc_now) -> None:
        self.engine = engine
        self.clock = clock

    def version(self, pipeline: str, region: str, number: int) -> ModelVersion:
        """A version by its number.

        Raises:
            UserError: there is none.
        """
        found = self._newest_version(pipeline, region, tables.versions.c.number == number)
        if found is None:
            raise UserError(f"region {region} of {pipeline} has no model version {number}")
        return found

    def find_trained(self, pipeline: str, region: str, training_key: str) -> ModelVersion | None:
        """The newest version that was trained from exactly this, if any."""
        return self._newest_version(
            pipeline, region, tables.versions.c.training_key == training_key
        )

    def latest(self, pipeline: str, region: str) -> ModelVersion | None:
        """The newest version of a region."""
        return self._newest_version(pipeline, region, sa.true())

    def current(self, pipeline: str, region: str) -> ModelVersion | None:
        """The version that was judged last, or registered after that.

        Not always the newest: training that returns to an older version (its data came back) has
        that one judged again.
        """
        latest, decided = self.latest(pipeline, region), self.newest_decision(pipeline, region)
        if latest is None or decided is None or latest.created_at > decided.decided_at:
            return latest
        return self.version(pipeline, region, decided.version)

    def newest_decision(self, pipeline: str, region: str) -> DecisionRecord | None:
        """The newest decision on any version of a region."""
        return self._newest_decision(pipeline, region, sa.true())

    def versions(self, pipeline: str, region: str | None = None) -> list[ModelVersion]:
        """All versions, by region and number."""
        table = tables.versions
        query = _of(table, pipeline, region).order_by(table.c.region, table.c.number)
        return [ModelVersion(**row) for row in self._rows(query)]

    def latest_decision(
        self, pipeline: str, region: str, number: int | None = None
    ) -> DecisionRecord | None:
        """The newest decision on a version; without a number, on the region's current version."""
        if number is None:
            current = self.current(pipeline, region)
            if current is None:
                return None
            number = current.number
        return self._newest_decision(pipeline, region, tables.decisions.c.version == number)

    def decisions(
        self, pipeline: str | None = None, region: str | None = None
    ) -> list[DecisionRecord]:
        """All decisions, oldest first."""
        table = tables.decisions
        return [
            _decision(row) for row in self._rows(_of(table, pipeline, region).order_by(table.c.id))
        ]

    def decision(self, decision_id: int) -> DecisionRecord:
        """A decision by its number.

        Raises:
            UserError: there is none.
        """
        query = sa.select(tables.decisions).where(tables.decisions.c.id == decision_id)
        for row in self._rows(query):
            return _decision(row)
        raise UserError(f"there is no decision {decision_id}; see `ml-patterns audit`")

    def allowed(
        self, pipeline: str, policy_hash: str, region: str | None = None
    ) -> list[DecisionRecord]:
        """The decisions that allow a deployment now, one per region, by region.

        A version is allowed while it is approved and its newest decision was made by this policy
        and against the champion that still serves. Where several are, the one judged last counts:
        training that returns to an older version (its data came back) has that one judged again.
        Of a retired region none is: its champion stays.
        """
        versions, decisions, champions = tables.versions, tables.decisions, tables.champions
        newest = (
            sa.select(sa.func.max(decisions.c.id))
            .join(
                versions,
                sa.and_(
                    versions.c.pipeline == decisions.c.pipeline,
                    versions.c.region == decisions.c.region,
                    versions.c.number == decisions.c.version,
                ),
            )
            .where(versions.c.pipeline == pipeline, versions.c.state == "approved")
            .group_by(versions.c.region, versions.c.number)
        )
        serving = sa.and_(
            champions.c.pipeline == decisions.c.pipeline, champions.c.region == decisions.c.region
        )
        retired = sa.exists().where(
            tables.regions.c.pipeline == decisions.c.pipeline,
            tables.regions.c.region == decisions.c.region,
            tables.regions.c.retired_at.is_not(None),
        )
        query = (
            _of(decisions, pipeline, region)
            .join(champions, serving)
            .where(
                ~retired,
                decisions.c.id.in_(newest),
                decisions.c.policy_hash == policy_hash,
                decisions.c.champion_generation == champions.c.generation,
            )
            .order_by(decisions.c.region, decisions.c.id)
        )
        return list({row["region"]: _decision(row) for row in self._rows(query)}.values())

    def champion(self, pipeline: str, region: str) -> Champion | None:
        """What a region serves, if anything."""
        return next(iter(self._champions(pipeline, region)), None)

    def champions(self, pipeline: str | None = None) -> list[Champion]:
        """What the regions serve; those without a champion are left out."""
        return self._champions(pipeline, None)

    def generation(self, pipeline: str, region: str) -> int:
        """How often a region's champion changed; 0: it never had one."""
        champion = self.champion(pipeline, region)
        return 0 if champion is None else champion.generation

    def generations(self, pipeline: str, region: str | None = None) -> list[Generation]:
        """Every change of a champion, oldest first."""
        table = tables.generations
        query = _of(table, pipeline, region).order_by(table.c.region, table.c.generation)
        return [Generation(**row) for row in self._rows(query)]

    def rolled_back(self, version: ModelVersion) -> str | None:
        """Who took a version out of service and why; None if nobody did since it last served."""
        history = self.generations(version.pipeline, version.region)
        served = [entry.generation for entry in history if entry.version == version.number]
        for entry in history:
            after = bool(served) and entry.generation == served[-1] + 1
            if after and entry.restores is not None:
                return f"{entry.reason} ({entry.actor})"
        return None

    def reviews(self, pipeline: str | None = None, state: str | None = "pending") -> list[Review]:
        """Reviews in a state (None: in any), oldest first."""
        table = tables.reviews
        query = _of(table, pipeline, None).order_by(table.c.id)
        if state is not None:
            query = query.where(table.c.state == state)
        return [Review(**row) for row in self._rows(query)]

    def review(self, review_id: int) -> Review:
        """A review by its number.

        Raises:
            UserError: there is none.
        """
        with reading(self.engine) as connection:
            return review_steps.load(connection, review_id)

    def review_of(self, decision: DecisionRecord) -> Review | None:
        """The review that a decision opened, if it did."""
        table = tables.reviews
        query = sa.select(table).where(table.c.decision_id == decision.id)
        return next((Review(**row) for row in self._rows(query)), None)

    def audit(self, pipeline: str | None = None, region: str | None = None) -> list[AuditRow]:
        """Every transition, oldest first."""
        query = _of(tables.audit, pipeline, region).order_by(tables.audit.c.id)
        return [AuditRow(**row) for row in self._rows(query)]

    def newest_transition(self, pipeline: str) -> int | None:
        """Number of a pipeline's newest row in the audit log; None: it has none."""
        log = tables.audit
        with reading(self.engine) as connection:
            newest: int | None = connection.scalar(
                sa.select(sa.func.max(log.c.id)).where(log.c.pipeline == pipeline)
            )
        return newest

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with reading(self.engine) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _newest_version(
        self, pipeline: str, region: str, condition: sa.ColumnElement[bool]
    ) -> ModelVersion | None:
        table = tables.versions
        query = (
            _of(table, pipeline, region).where(condition).order_by(table.c.number.desc()).limit(1)
        )
        return next((ModelVersion(**row) for row in self._rows(query)), None)

    def _newest_decision(
        self, pipeline: str, region: str, condition: sa.ColumnElement[bool]
    ) -> DecisionRecord | None:
        table = tables.decisions
        query = _of(table, pipeline, region).where(condition).order_by(table.c.id.desc()).limit(1)
        return next((_decision(row) for row in self._rows(query)), None)

    def _champions(self, pipeline: str | None, region: str | None) -> list[Champion]:
        table = tables.champions
        query = (
            _of(table, pipeline, region)
            .where(table.c.generation > 0)
            .order_by(table.c.pipeline, table.c.region)
        )
        return [Champion(**row) for row in self._rows(query)]


def _of(table: sa.Table, pipeline: str | None, region: str | None) -> sa.Select[Any]:
    query = sa.select(table)
    if pipeline is not None:
        query = query.where(table.c.pipeline == pipeline)
    if region is not None:
        query = query.where(table.c.region == region)
    return query


def _decision(row: dict[str, Any]) -> DecisionRecord:
    return DecisionRecord(**{**row, "verdict": Verdict(row["verdict"])})
