"""What makes the asset graph read as a drawing of the five patterns.

Belongs here: what all assets are given alike: links to their code, tags, tables, freshness. Does
not: what only one asset knows, such as its description (each room's `assets.py`), columns
(`table_metadata.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import dagster as dg

from ml_patterns.dagster_internals import smallest_interval
from ml_patterns.settings import PipelineSettings

Asset = dg.AssetsDefinition | dg.AssetSpec

_TABLES = (
    "event_aggregates",
    "event_features",
    "leaderboard",
    "predictions",
    "prediction_quality",
)


def drawn(assets: Sequence[Asset], settings: PipelineSettings) -> list[Asset]:
    """The same assets with all that the UI can show of them."""
    policies, files = _freshness(settings), _sql_files(settings)

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = "/".join(spec.key.path[1:])
        references = [*_code_references(spec), *files.get(name, ())]
        references = [each for each in references if Path(each.file_path).is_file()]
        metadata = dict(spec.metadata)
        if references:
            metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(
                code_references=[*references]
            )
        if table := _table(name):
            metadata["dagster/table_name"] = f"{settings.name}.{table}"
        return spec.replace_attributes(
            metadata=metadata,
            tags={**spec.tags, "pipeline": settings.name, "pattern": spec.group_name or ""},
            freshness_policy=policies.get(name),
        )

    found: list[Asset] = []
    for asset in dg.with_source_code_references(list(assets)):
        if isinstance(asset, dg.AssetSpec):
            found.append(described(asset))
        elif isinstance(asset, dg.AssetsDefinition):
            found.append(asset.map_asset_specs(described))
    return found


def _code_references(spec: dg.AssetSpec) -> list[dg.LocalFileCodeReference]:
    """Where the asset is defined, as Dagster found it."""
    known = spec.metadata.get("dagster/code_references")
    if not isinstance(known, dg.CodeReferencesMetadataValue):
        return []
    return [each for each in known.code_references if isinstance(each, dg.LocalFileCodeReference)]


def _table(name: str) -> str | None:
    if name.startswith("external/"):
        return name.replace("/", "_")
    return name if name in _TABLES else None


def _sql_files(settings: PipelineSettings) -> Mapping[str, list[dg.LocalFileCodeReference]]:
    """Asset -> the SQL that a person would look for."""
    names = {"event_aggregates": settings.aggregates.sql, "event_features": settings.features.sql}
    return {
        asset: [dg.LocalFileCodeReference(file_path=str(settings.folder / name), label=name)]
        for asset, name in names.items()
    }


def _freshness(settings: PipelineSettings) -> dict[str, dg.FreshnessPolicy]:
    """Asset -> when it is late; of a stream that has ended only the training can be.

    `deployed_model` has none: how often a better model comes is not for us to promise.
    """
    # At each tick there must be models from a training since the tick before.
    cron = settings.training.schedule
    trained = dg.FreshnessPolicy.cron(
        deadline_cron=cron, lower_bound_delta=smallest_interval(cron), timezone="UTC"
    )
    fleet: dict[str, dg.FreshnessPolicy] = dict.fromkeys(("regional_model", "leaderboard"), trained)
    events = settings.events
    if events.end is not None:
        return fleet
    quiet = events.grain_length + events.grace
    day = timedelta(days=1)
    stream = dg.FreshnessPolicy.time_window(fail_window=2 * quiet, warn_window=quiet)
    daily = dg.FreshnessPolicy.time_window(
        fail_window=2 * day + events.grace, warn_window=day + events.grace
    )
    return {
        **fleet,
        **dict.fromkeys(("event_files", "event_aggregates", "event_features"), stream),
        "predictions": stream,
        "prediction_quality": daily,
        **{f"external/{table.name}": daily for table in settings.external},
    }
