"""Pattern 2 in the asset graph: one model per region, one leaderboard.

Belongs here: the assets, and what the leaderboard shows. Does not: what a training run does and
reports (`steps.py`), training and judging (`fleet.py`), promoting (`branching/assets.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_patterns.branching.checks import quality_gate_spec
from ml_patterns.partitions import region_partitions
from ml_patterns.registry.regions import known_regions, retired_regions
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import (
    ArtifactsResource,
    OperationalResource,
    WarehouseResource,
)
from ml_patterns.table_metadata import table_metadata

if TYPE_CHECKING:
    from ml_patterns.fan_out.leaderboard import Entry
    from ml_patterns.fan_out.pool import Work

GROUP = "fan_out"


class TrainingConfig(dg.Config):
    """What the launchpad may ask for."""

    force: bool = False
    """Train regions whose data, settings and code have not changed, too."""


def build_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """`regional_model` and `leaderboard` of a pipeline."""
    return [regional_model(settings), leaderboard(settings)]


def regional_model(settings: PipelineSettings, work: "Work | None" = None) -> dg.AssetsDefinition:
    """The fan-out: all regions of a run in one pool of workers.

    Args:
        work: what a worker does with a region; None: `train_job`.
    """
    key = dg.AssetKey([settings.name, "regional_model"])
    spec = quality_gate_spec(settings)

    @dg.asset(
        key=key,
        description=(
            "One LightGBM model per region, trained side by side; the quality gate judges each. "
            "A region that fails costs no other region its model, and what has not changed is not "
            "trained again: run the same range once more to retry the failed ones."
        ),
        group_name=GROUP,
        kinds={"lightgbm", "python"},
        owners=list(settings.owners),
        partitions_def=region_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetDep(
                dg.AssetKey([settings.name, "event_features"]),
                partition_mapping=dg.AllPartitionMapping(),
            )
        ],
        check_specs=[spec],
        output_required=False,
    )
    def _regional_model(
        context: dg.AssetExecutionContext,
        config: TrainingConfig,
        warehouse: WarehouseResource,
        operational: OperationalResource,
        artifacts: ArtifactsResource,
    ) -> Iterator[Any]:
        from ml_patterns.fan_out.pool import train_job
        from ml_patterns.fan_out.steps import train_and_report

        yield from train_and_report(
            context,
            settings,
            warehouse,
            operational,
            artifacts,
            force=config.force,
            work=work or train_job,
        )

    return _regional_model


def leaderboard(settings: PipelineSettings) -> dg.AssetsDefinition:
    """The fan-in: where every region stands."""
    model_key = dg.AssetKey([settings.name, "regional_model"])

    @dg.asset(
        key=dg.AssetKey([settings.name, "leaderboard"]),
        description=(
            "Every region's best model, sorted by verdict and metric, with who serves and which "
            "regions got no model this time. Fails when fewer regions succeeded than "
            "training.min_success asks for, or one of training.must_have is missing."
        ),
        group_name=GROUP,
        kinds={"duckdb", "python"},
        owners=list(settings.owners),
        pool="warehouse",
        deps=[dg.AssetDep(model_key, partition_mapping=dg.AllPartitionMapping())],
    )
    def _leaderboard(
        context: dg.AssetExecutionContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> dg.MaterializeResult[None]:
        from ml_patterns.fan_out.leaderboard import entries, shortcomings, write_leaderboard

        engine = operational.engine()
        registry = Registry(engine)
        serving = {each.region: each.version for each in registry.champions(settings.name)}
        retired = {name: serving.get(name) for name in retired_regions(engine, settings.name)}
        board = entries(
            registry,
            settings.name,
            known_regions(engine, settings.name),
            settings.gate,
            problems_of_newest_training(context.instance, model_key),
        )
        with warehouse.get_connection() as connection:
            write_leaderboard(connection, settings.name, board)
            columns = table_metadata(connection, settings.name, "leaderboard")
        metadata = _board_metadata(board, settings, retired) | columns
        shortcoming = shortcomings(board, settings.training, retired)
        if shortcoming:
            raise dg.Failure(
                f"{shortcoming}; the leaderboard is written all the same",
                metadata=metadata,
                allow_retries=False,
            )
        return dg.MaterializeResult(metadata=metadata)

    return _leaderboard


def _board_metadata(
    board: "list[Entry]", settings: PipelineSettings, retired: Mapping[str, int | None]
) -> dict[str, Any]:
    from ml_patterns.fan_out.leaderboard import markdown
    from ml_patterns.fan_out.picture import as_markdown, leaderboard_svg

    picture = as_markdown(leaderboard_svg(board, settings.gate))
    verdicts = Counter(entry.verdict for entry in board)
    values = [entry.value for entry in board if entry.value is not None]
    return {
        "regions": len(board),
        **({f"median_{settings.gate.metric}": median(values)} if values else {}),
        "without_new_model": sum(bool(entry.problem) for entry in board),
        **{verdict: verdicts[verdict] for verdict in ("deploy", "review", "reject", "none")},
        "serving": sum(entry.served_version is not None for entry in board),
        "retired": len(retired),
        "leaderboard": dg.MetadataValue.md(markdown(board, retired)),
        "picture": dg.MetadataValue.md(picture),
        "dagster/row_count": len(board),
        "table": dg.MetadataValue.table(
            [dg.TableRecord(asdict(entry)) for entry in board]
            or [dg.TableRecord({"region": "none yet"})]
        ),
    }


def problems_of_newest_training(
    instance: dg.DagsterInstance, model_key: dg.AssetKey
) -> dict[str, str]:
    """Region -> why its newest training gave no model, for those where it did not."""
    trained = instance.get_latest_storage_id_by_partition(
        model_key, dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    observed = instance.get_latest_storage_id_by_partition(
        model_key, dg.DagsterEventType.ASSET_OBSERVATION
    )
    without = [key for key, event in observed.items() if event > trained.get(key, -1)]
    problems = {}
    for region in without:
        (record,) = instance.fetch_observations(
            dg.AssetRecordsFilter(asset_key=model_key, asset_partitions=[region]), limit=1
        ).records
        observation = record.asset_observation
        problems[region] = str(observation.metadata["reason"].value) if observation else ""
    return problems
