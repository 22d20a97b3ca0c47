"""`dg scaffold defs ml_patterns.EventModelPipeline NAME`: a pipeline's starting files.

Belongs here: what Dagster's command asks for and gets. Does not: the guesses and the files
(`onboarding/`), which `ml-patterns init` shares.
"""

from pathlib import Path

import click
import dagster as dg
from pydantic import BaseModel, Field

from ml_patterns.errors import MLPatternsError, SettingsError, UserError


class ScaffoldParams(BaseModel):
    """Options of the command."""

    events: str | None = Field(
        default=None,
        description="Landed files, a folder, a file or a glob: settings and SQL are proposed from "
        "a look at them. Without: names to be replaced.",
    )
    id: str | None = Field(default=None, description="Column of the event's identity.")
    time: str | None = Field(default=None, description="Column of the event time.")
    version: str | None = Field(
        default=None, description="Column of the time at which a row became known."
    )
    region: str | None = Field(
        default=None, description="Column that says which model an event belongs to."
    )
    label: str | None = Field(default=None, description="Column to foretell, or a condition.")


class PipelineScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes `defs.yaml`, `aggregates.sql` and `features.sql`, never over existing ones."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """The command's options."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Writes the files.

        Raises:
            click.ClickException: one sentence, which Dagster's command prints without a stack
                trace; the folder that it made for us is gone again.
        """
        try:
            self._scaffold(request)
        except MLPatternsError as error:
            if not any(request.target_path.iterdir()):
                request.target_path.rmdir()
            raise click.ClickException(str(error)) from error

    def _scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        from ml_patterns.onboarding.proposal import Wishes, blank, propose
        from ml_patterns.onboarding.writing import write

        if request.scaffold_format != "yaml" or request.append:
            raise SettingsError(
                "a pipeline is a folder with defs.yaml and two SQL files of its own: scaffold it "
                "as YAML, under a new name"
            )
        name = request.target_path.name
        said = request.params.model_dump(exclude_none=True)
        events = said.pop("events", None)
        if events is None and said:
            raise UserError(f"--{next(iter(said))} needs --events, whose columns it names")
        root = request.project_root or Path.cwd()
        proposal = propose(name, events, root, Wishes(said)) if events else blank(name)
        write(proposal, request.target_path)
