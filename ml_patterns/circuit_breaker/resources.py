"""The model client as a Dagster resource.

Belongs here: making the client configurable and visible in the UI. Does not: the client
(`client.py`).
"""

from typing import TYPE_CHECKING

import dagster as dg

from ml_patterns.installation import Installation
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import engine_for

if TYPE_CHECKING:
    from ml_patterns.circuit_breaker.client import ModelClient


class ModelClientResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A client for the model server; every prediction is answered and labelled."""

    model_url: str
    state_url: str
    artifacts_root: str

    def client(self, settings: PipelineSettings) -> "ModelClient":
        """A client with a pipeline's settings; its accounting starts at nothing."""
        from ml_patterns.circuit_breaker.client import ModelClient

        return ModelClient(
            engine_for(self.state_url),
            ArtifactStore(self.artifacts_root),
            self.model_url,
            settings.predictions,
            settings.retry,
        )


def client_resources(installation: Installation) -> dict[str, object]:
    """The client under the name by which assets ask for it."""
    return {
        "model_client": ModelClientResource(
            model_url=installation.model_url,
            state_url=installation.state_url,
            artifacts_root=installation.artifacts,
        )
    }
