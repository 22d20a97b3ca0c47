"""One YAML file becomes the five patterns' definitions.

Belongs here: the Dagster component and what it puts together. Does not: settings
(`settings.py`), assets, checks and sensors (in their rooms).
"""

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Self

import dagster as dg
import sqlalchemy as sa
from dagster.components.resolved.errors import ResolutionException
from pydantic import BaseModel

from ml_patterns import overview
from ml_patterns.branching import assets as branching_assets
from ml_patterns.branching import sensors as branching_sensors
from ml_patterns.circuit_breaker import assets as circuit_breaker_assets
from ml_patterns.circuit_breaker import checks as circuit_breaker_checks
from ml_patterns.circuit_breaker import sensors as circuit_breaker_sensors
from ml_patterns.circuit_breaker.resources import client_resources
from ml_patterns.errors import SettingsError
from ml_patterns.fan_out import assets as fan_out_assets
from ml_patterns.fan_out import sensors as fan_out_sensors
from ml_patterns.incremental import assets as incremental_assets
from ml_patterns.incremental import checks as incremental_checks
from ml_patterns.incremental import sensors as incremental_sensors
from ml_patterns.incremental.reporting import announce_regions
from ml_patterns.incremental.sources import verify_columns
from ml_patterns.installation import Installation
from ml_patterns.instance import instance_of_home
from ml_patterns.jobs import build_jobs, build_schedules
from ml_patterns.landing import assets as landing_assets
from ml_patterns.landing import sensors as landing_sensors
from ml_patterns.maintenance import sensors as maintenance_sensors
from ml_patterns.retry import assets as retry_assets
from ml_patterns.retry import sensors as retry_sensors
from ml_patterns.scaffold import PipelineScaffolder
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, storage_resources
from ml_patterns.whiteboard import drawn

_ASSETS = (
    landing_assets,
    incremental_assets,
    retry_assets,
    fan_out_assets,
    branching_assets,
    circuit_breaker_assets,
)
_CHECKS = (incremental_checks, circuit_breaker_checks, overview)
_SENSORS = (
    landing_sensors,
    incremental_sensors,
    retry_sensors,
    fan_out_sensors,
    branching_sensors,
    circuit_breaker_sensors,
    maintenance_sensors,
)


@dg.scaffold_with(PipelineScaffolder)
class EventModelPipeline(dg.Component):
    """Landed event files to a fleet of gated, deployed per-region models, from one YAML file.

    Beside the YAML lie `aggregates.sql` and `features.sql`. The schema is `PipelineSettings`
    itself rather than one derived by `dg.Resolvable`: the derived one refuses validators on nested
    blocks and reports a wrong key at its parent's line.
    """

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The schema of `attributes`, as `dg check yaml` and the UI show it."""
        return PipelineSettings

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Renders templates in texts, finds the SQL files and looks at the newest landed file.

        Raises:
            SettingsError: one sentence that names the setting and the remedy.
        """
        if attributes is None:
            raise SettingsError(f"{context.path} has no attributes; give at least name and events")
        try:
            rendered = context.resolution_context.resolve_value(attributes.model_dump(mode="json"))
        except ResolutionException as error:  # such as a template of a variable that is not set
            sentence = str(error).split(" and no default")[0].strip()
            raise SettingsError(f"{context.path}: {sentence}; set it") from error
        settings = PipelineSettings.model_validate(rendered)
        settings = settings.located(Path(context.path), Path(context.project_root))
        warning = verify_columns(settings)
        if warning and settings.source is None:  # else the first landing brings the files
            warnings.warn(warning, stacklevel=1)
        return cls(settings)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The pipeline's assets, checks, jobs, schedules, sensors and resources."""
        _announce_regions(self.settings)
        return build_defs(self.settings)


def build_defs(
    settings: PipelineSettings, resource_overrides: dict[str, Any] | None = None
) -> dg.Definitions:
    """Definitions of one pipeline.

    Args:
        resource_overrides: replaces resources by name; tests bring their own stores.
    """
    return dg.Definitions(
        assets=drawn(
            [asset for room in _ASSETS for asset in room.build_assets(settings)], settings
        ),
        asset_checks=[check for room in _CHECKS for check in room.build_checks(settings)],
        sensors=[sensor for room in _SENSORS for sensor in room.build_sensors(settings)],
        jobs=build_jobs(settings),
        schedules=build_schedules(settings),
        resources={**_resources(), **(resource_overrides or {})},
        executor=dg.in_process_executor,
    )


def _announce_regions(settings: PipelineSettings) -> None:
    """Makes known regions partitions of a Dagster instance that has never seen them.

    A fresh DAGSTER_HOME beside an existing warehouse (a job of CI) could otherwise not materialize
    a region: Dagster looks the partition up before any code of an asset runs.
    """
    url = Installation.from_environment().state_url
    database = sa.make_url(url).database or ""
    if not os.environ.get("DAGSTER_HOME"):
        return
    if url.startswith("sqlite") and not Path(database).exists():
        return
    announce_regions(instance_of_home(), settings, OperationalResource(url=url))


@cache
def _resources() -> dict[str, Any]:
    """The same objects for all pipelines of a code location, so that Dagster can merge them."""
    installation = Installation.from_environment()
    return {**storage_resources(installation), **client_resources(installation)}
