"""Answering a review from Dagster's launchpad.

Belongs here: the job's shell. Does not: what an answer does (`commands.py`), which jobs follow the
data's way (`jobs.py` of the package).
"""

from enum import StrEnum

import dagster as dg

from ml_patterns.errors import MLPatternsError
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource


class ReviewAnswer(StrEnum):
    """What a reviewer may say."""

    APPROVE = "approve"
    REJECT = "reject"


class ReviewConfig(dg.Config):
    """What the launchpad asks for. Who may launch runs is Dagster's to say."""

    review: int
    answer: ReviewAnswer
    reviewer: str
    reason: str


def build_jobs(settings: PipelineSettings) -> list[dg.JobDefinition]:
    """The jobs of this room that do not materialize assets."""

    @dg.op(name=f"{settings.name}_answer_review")
    def answer_review(
        context: dg.OpExecutionContext, config: ReviewConfig, operational: OperationalResource
    ) -> None:
        from ml_patterns.branching import commands

        registry = Registry(operational.engine())
        approve = config.answer is ReviewAnswer.APPROVE
        try:
            asked = registry.review(config.review)
            if asked.pipeline != settings.name:
                raise dg.Failure(
                    f"review {asked.id} is of pipeline {asked.pipeline}, not {settings.name}",
                    allow_retries=False,
                )
            done = (commands.approve if approve else commands.reject)(
                registry,
                config.review,
                reviewer=config.reviewer,
                reason=config.reason,
                policies={settings.name: settings.gate},
            )
        except MLPatternsError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.log.info(
            f"review {done.id} of {done.region} version {done.version} is {done.state} by "
            f"{done.reviewer}: {done.reason}"
        )

    @dg.job(
        name=f"{settings.name}_review_job",
        executor_def=dg.in_process_executor,
        description="Approves or rejects what the gate left to a human; fill in the launchpad.",
    )
    def review_job() -> None:
        answer_review()

    return [review_job]
