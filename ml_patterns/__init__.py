"""ml_patterns: five production patterns of ML platforms as one Dagster code location.

The component is loaded only when it is asked for, so that the core, the command line and the model
server do not pay for importing Dagster.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_patterns.pipeline import EventModelPipeline

__all__ = ["EventModelPipeline"]


def __getattr__(name: str) -> Any:
    if name == "EventModelPipeline":
        try:
            from ml_patterns.pipeline import EventModelPipeline
        except AttributeError as error:
            # An AttributeError would read as if the component did not exist.
            raise ImportError(f"ml_patterns.pipeline cannot be loaded: {error}") from error
        return EventModelPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
