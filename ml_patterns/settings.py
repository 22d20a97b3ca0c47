"""One YAML file's settings, whole.

Belongs here: the blocks of a pipeline and what must hold between them. Does not: a block's own
fields (each room's `settings.py`), Dagster (`pipeline.py`).
"""

from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ml_patterns.base import Settings
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.settings import NotificationsSettings
from ml_patterns.circuit_breaker.settings import PredictionsSettings
from ml_patterns.errors import SettingsError
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.incremental.settings import AggregatesSettings, EventsSettings, FeaturesSettings
from ml_patterns.landing.settings import SourceSettings
from ml_patterns.maintenance.settings import RetentionSettings
from ml_patterns.retry.settings import ExternalSettings, RetrySettings
from ml_patterns.storage.sql import is_name


class PipelineSettings(Settings):
    """Everything that a pipeline's YAML file says."""

    name: str = Field(
        description="Asset-key prefix, warehouse schema and model prefix: a-z, 0-9 and _."
    )
    owners: tuple[str, ...] = Field(
        default=("team:ml-platform",), description="E-mail addresses or team:NAME, for the UI."
    )
    events: EventsSettings
    source: SourceSettings | None = Field(
        default=None, description="A database table that lands as files before they are read."
    )
    aggregates: AggregatesSettings = Field(default_factory=AggregatesSettings)
    features: FeaturesSettings = Field(default_factory=FeaturesSettings)
    external: tuple[ExternalSettings, ...] = Field(
        default=(), description="Tables read from HTTP APIs."
    )
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    gate: Policy = Field(default_factory=Policy, description="When a model may be deployed.")
    retry: RetrySettings = Field(default_factory=RetrySettings)
    predictions: PredictionsSettings = Field(default_factory=PredictionsSettings)
    notifications: NotificationsSettings = Field(default_factory=NotificationsSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)

    _folder: Path = PrivateAttr(default=Path())
    _project: Path = PrivateAttr(default=Path())

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not is_name(value):
            raise ValueError(f"name {value!r} is not a name: a-z, 0-9 and _, a-z first")
        return value

    @model_validator(mode="after")
    def _external_names_are_unique(self) -> Self:
        names = [table.name for table in self.external]
        for name in names:
            if names.count(name) > 1 or name in {"events", "aggregates"}:
                raise ValueError(f"external.name {name!r} is taken; choose another")
        return self

    def located(self, folder: Path, project: Path) -> Self:
        """The same settings, knowing where their SQL files and their project are.

        Args:
            folder: holds the YAML and the SQL files.
            project: relative paths of events start here.

        Raises:
            SettingsError: an SQL file is missing.
        """
        copy = self.model_copy()
        copy._folder, copy._project = folder, project
        for block, name in (("aggregates", self.aggregates.sql), ("features", self.features.sql)):
            if not (folder / name).is_file():
                raise SettingsError(
                    f"{block}.sql of pipeline {self.name} names {name}, but {folder / name} does "
                    "not exist; write it or correct the setting"
                )
        return copy

    @property
    def folder(self) -> Path:
        """Holds the YAML and the SQL files."""
        return self._folder

    @property
    def project(self) -> Path:
        """The folder that relative paths start from."""
        return self._project

    @cached_property
    def aggregates_sql(self) -> str:
        """Text of `aggregates.sql`."""
        return (self._folder / self.aggregates.sql).read_text()

    @cached_property
    def features_sql(self) -> str:
        """Text of `features.sql`."""
        return (self._folder / self.features.sql).read_text()

    @property
    def event_glob(self) -> str:
        """Where the landed files are, absolute or a URL."""
        path = self.events.path
        return path if "://" in path else str(self._project / path)

    def model_name(self, region: str) -> str:
        """A region's model as the model server knows it: `<pipeline>.<region>`."""
        return f"{self.name}.{region}"
