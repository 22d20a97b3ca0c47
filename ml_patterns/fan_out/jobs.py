"""What a person asks for by hand: the pictures of one model.

Belongs here: the job's shell. Does not: drawing (`model_pictures.py`).
"""

import dagster as dg

from ml_patterns.errors import MLPatternsError
from ml_patterns.registry.registry import ModelVersion, Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import ArtifactsResource, OperationalResource


class PicturesConfig(dg.Config):
    """Which model to draw."""

    region: str
    """The region."""

    version: int | None = None
    """Its version; none: the one that was judged last, or trained since."""


def model_pictures_job(settings: PipelineSettings) -> dg.JobDefinition:
    """`<pipeline>_model_pictures_job`: calibration, confusion matrix and importances of a model.

    A run of many regions draws none, because they would be most of what it stores (`steps.py` says
    from how many regions on); this draws one model of any run. They show what the gate judged by:
    the recorded answers on the test slice, and the model card.
    """

    @dg.op(
        name=f"{settings.name}_model_pictures",
        description="Draws one model from its recorded evidence and its card; reads no features.",
        tags={"kind": "lightgbm"},
    )
    def model_pictures(
        context: dg.OpExecutionContext,
        config: PicturesConfig,
        operational: OperationalResource,
        artifacts: ArtifactsResource,
    ) -> dg.Output[None]:
        from ml_patterns.branching.gate import judgement_of
        from ml_patterns.fan_out.model_pictures import model_pictures as drawn
        from ml_patterns.fan_out.picture import as_markdown

        registry = Registry(operational.engine())
        try:
            version = _asked_for(registry, settings.name, config)
            card = artifacts.store().get(version.artifact).card
        except MLPatternsError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        title = f"{version.region} version {version.number}"
        decision = registry.latest_decision(version.pipeline, version.region, version.number)
        evidence = judgement_of(decision).evidence if decision else None
        answers = (evidence.labels, evidence.probabilities) if evidence else None
        pictures = drawn(card.importances, answers, title)
        if not decision:
            context.log.warning(f"{title} was not judged yet: only its importances are drawn")
        return dg.Output(
            None,
            metadata={
                "region": version.region,
                "version": version.number,
                "test_rows": decision.evidence["rows"] if decision else 0,
                **{
                    name: dg.MetadataValue.md(as_markdown(svg, name))
                    for name, svg in pictures.items()
                },
            },
        )

    @dg.job(
        name=f"{settings.name}_model_pictures_job",
        description="Pictures of one region's model; give the region in the launchpad.",
    )
    def model_pictures_of_a_region() -> None:
        model_pictures()

    return model_pictures_of_a_region


def _asked_for(registry: Registry, pipeline: str, config: PicturesConfig) -> ModelVersion:
    if config.version is not None:
        return registry.version(pipeline, config.region, config.version)
    current = registry.current(pipeline, config.region)
    if current is None:
        raise dg.Failure(
            f"region {config.region} of pipeline {pipeline} has no model yet; materialize "
            f"{pipeline}/regional_model for it first, or correct the region's name",
            allow_retries=False,
        )
    return current
