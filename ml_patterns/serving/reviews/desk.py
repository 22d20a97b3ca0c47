"""The reviewer's desk: the queue, one case with everything about it, and the answer to it.

Belongs here: reading what the pages show, and answering through the same functions as the command
line. Does not: HTTP (`routes.py`), the numbers (`analysis.py`), the transitions (`registry/`).
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from pydantic import ValidationError

from ml_patterns.branching import commands
from ml_patterns.branching.commands import ReviewCase
from ml_patterns.branching.gate import judgement_of
from ml_patterns.branching.policy import Policy
from ml_patterns.errors import ArtifactError
from ml_patterns.registry import tables
from ml_patterns.registry.records import AuditRow, Champion, Review
from ml_patterns.registry.registry import Registry
from ml_patterns.serving.reviews.analysis import Analysis, Change, analyse, changes
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import ModelCard
from ml_patterns.storage.operational import reading

_KEPT = 32
_ANSWERED_SHOWN = 20
_STATES = tables.reviews.c.state


@dataclass(frozen=True)
class QueueEntry:
    """A review and the sentence why it was asked for."""

    review: Review
    sentence: str


@dataclass(frozen=True)
class Case:
    """A review and everything that a reviewer may want to know.

    Attributes:
        card: of the model; None: `card_problem` says why it cannot be read.
        changes: of the data and the training since the champion; None: not known.
        champion: what the region serves now.
        trail: the version's transitions, oldest first.
    """

    asked: ReviewCase
    policy: Policy
    analysis: Analysis
    card: ModelCard | None
    card_problem: str
    changes: list[Change] | None
    champion: Champion | None
    trail: list[AuditRow]

    @property
    def review(self) -> Review:
        """The question and, maybe, its answer."""
        return self.asked.review

    @property
    def serves(self) -> bool:
        """Whether the version is its region's champion."""
        return self.champion is not None and self.champion.version == self.review.version


class Desk:
    """Reviews of an installation, as its reviewers see them."""

    def __init__(self, registry: Registry, artifacts: ArtifactStore) -> None:
        self.registry = registry
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._analysed: OrderedDict[int, tuple[ReviewCase, Analysis]] = OrderedDict()

    def waiting(self) -> list[QueueEntry]:
        """Open reviews; what expires first comes first."""
        return self._entries(_STATES == "pending", tables.reviews.c.expires_at.asc(), None)

    def answered(self) -> list[QueueEntry]:
        """The reviews that were closed last, the newest first."""
        newest = tables.reviews.c.decided_at.desc()
        return self._entries(_STATES != "pending", newest, _ANSWERED_SHOWN)

    def case(self, review_id: int) -> Case:
        """One review.

        Raises:
            UserError: there is none of that number.
        """
        asked, analysis = self._analysis(self.registry.review(review_id))
        review = asked.review
        champion = self.registry.champion(review.pipeline, review.region)
        judged_against = asked.decision.evidence.get("champion")
        card, problem = self._card(review.artifact)
        before = None
        if card is not None and judged_against is not None:
            version = self.registry.version(
                review.pipeline, review.region, judged_against["version"]
            )
            champion_card, _ = self._card(version.artifact)
            before = None if champion_card is None else changes(card, champion_card)
        trail = self.registry.audit(review.pipeline, review.region)
        return Case(
            asked=asked,
            policy=Policy.model_validate(asked.decision.policy),
            analysis=analysis,
            card=card,
            card_problem=problem,
            changes=before,
            champion=champion,
            trail=[row for row in trail if row.version == review.version],
        )

    def answer(self, review_id: int, *, approve: bool, reviewer: str, reason: str) -> Review:
        """Approves or rejects, by the function that the command line uses.

        Raises:
            StaleDecisionError: somebody was faster, or what was asked about changed.
            UserError: the reason is empty, or there is no such review.
        """
        decide = commands.approve if approve else commands.reject
        pipeline = self.registry.review(review_id).pipeline
        return decide(
            self.registry,
            review_id,
            reviewer=reviewer,
            reason=reason,
            policies=self._newest_policy(pipeline),
        )

    def _newest_policy(self, pipeline: str) -> Mapping[str, Policy]:
        """The policy that the gate used last: this process does not read the pipelines' YAML."""
        table = tables.decisions
        newest = (
            sa.select(table.c.policy)
            .where(table.c.pipeline == pipeline)
            .order_by(table.c.id.desc())
            .limit(1)
        )
        with reading(self.registry.engine) as connection:
            document = connection.scalar(newest)
        try:
            return {} if document is None else {pipeline: Policy.model_validate(document)}
        except ValidationError:
            return {}  # written by another version of the code; the deployment verifies it anyway

    def _analysis(self, review: Review) -> tuple[ReviewCase, Analysis]:
        """A decision never changes, so that what follows from it is computed once."""
        with self._lock:
            known = self._analysed.get(review.decision_id)
        if known is None:
            decision = self.registry.decision(review.decision_id)
            judgement = judgement_of(decision)
            known = (
                ReviewCase(review, decision, judgement.outcome),
                analyse(
                    judgement.evidence, judgement.champion, Policy.model_validate(decision.policy)
                ),
            )
            with self._lock:
                self._analysed[review.decision_id] = known
                while len(self._analysed) > _KEPT:
                    self._analysed.popitem(last=False)
        asked, analysis = known
        return ReviewCase(review, asked.decision, asked.outcome), analysis

    def _card(self, address: str) -> tuple[ModelCard | None, str]:
        try:
            return self._artifacts.get(address).card, ""
        except (ArtifactError, ValueError, OSError) as error:
            return None, str(error)

    def _entries(
        self,
        condition: sa.ColumnElement[bool],
        order: sa.UnaryExpression[datetime],
        most: int | None,
    ) -> list[QueueEntry]:
        # Without the evidence, which is most of a decision.
        query = (
            sa.select(tables.reviews, tables.decisions.c.reason.label("sentence"))
            .join(tables.decisions, tables.decisions.c.id == tables.reviews.c.decision_id)
            .where(condition)
            .order_by(order, tables.reviews.c.id)
            .limit(most)
        )
        with reading(self.registry.engine) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [QueueEntry(sentence=row.pop("sentence"), review=Review(**row)) for row in rows]
