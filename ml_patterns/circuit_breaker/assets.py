"""Pattern 5 in Dagster: predictions that are always answered, and how good they were.

Belongs here: the assets, thin. Does not: predicting (`client.py`), the tables (`predictions.py`),
which partitions are asked again (`degraded.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import dagster as dg
import pandas as pd

from ml_patterns.base import utc_now
from ml_patterns.circuit_breaker.answers import COLUMNS
from ml_patterns.circuit_breaker.client import NO_CHAMPION, ModelClient
from ml_patterns.circuit_breaker.degraded import degraded_partitions, remember
from ml_patterns.circuit_breaker.live import is_outage
from ml_patterns.circuit_breaker.predictions import (
    append,
    base_rates,
    judge_day,
    newest_answers,
    still_to_ask,
)
from ml_patterns.circuit_breaker.resources import ModelClientResource
from ml_patterns.partitions import day_partitions, time_partitions
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.features import read_features
from ml_patterns.storage.resources import OperationalResource, WarehouseResource

GROUP = "circuit_breaker"


def predictions_key(settings: PipelineSettings) -> dg.AssetKey:
    """The asset key of the predictions."""
    return dg.AssetKey([settings.name, "predictions"])


def build_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """`predictions` and `prediction_quality`."""
    return [_predictions(settings), _prediction_quality(settings)]


@dataclass(frozen=True)
class _Partition:
    """A partition to answer: its rows, and how many of them are asked again."""

    key: str
    start: datetime
    rows: pd.DataFrame
    healing: bool


def _predictions(settings: PipelineSettings) -> dg.AssetsDefinition:
    key, partitions = predictions_key(settings), time_partitions(settings)

    @dg.asset(
        key=key,
        group_name=GROUP,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=list(settings.owners),
        kinds={"duckdb", "http"},
        deps=[
            dg.AssetDep(dg.AssetKey([settings.name, "event_features"])),
            dg.AssetDep(
                dg.AssetKey([settings.name, "deployed_model"]),
                partition_mapping=dg.AllPartitionMapping(),
            ),
        ],
        description=(
            "One answer per event, always, labelled with where it came from: the model server, its "
            "cached answer, the champion scored here, or the region's base rate. Answers are only "
            "ever added; a partition that healed asks again for what was not answered live."
        ),
    )
    def predictions(
        context: dg.AssetExecutionContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
        model_client: ModelClientResource,
    ) -> None:
        engine, client = operational.engine(), model_client.client(settings)
        degraded = set(degraded_partitions(engine, settings.name))
        with warehouse.reading() as connection:
            rates = base_rates(connection, settings.name)
        for partition_key in context.partition_keys:
            start, end = _bounds(partitions, partition_key)
            with warehouse.reading() as connection:
                rows = read_features(connection, settings.name, start=start, end=end)
                newest = newest_answers(connection, settings.name, start, end)
            healing = start in degraded
            if healing:
                rows = still_to_ask(rows, newest)
            before = replace(client.accounting, transitions=list(client.accounting.transitions))
            made_at, answers = utc_now(), _answers(client, settings.name, rows, rates)
            with warehouse.get_connection() as connection:
                append(connection, settings.name, answers, made_at)
            is_degraded = bool(answers["reason"].map(is_outage).any())
            healed = remember(engine, settings.name, {start: is_degraded}, utc_now())
            metadata = _metadata(client, before, answers) | {
                "asked_again": healing,
                "degraded": is_degraded,
                "healed": bool(healed),
            }
            context.log.info(f"predictions {partition_key}: {metadata}")
            context.add_asset_metadata(metadata, partition_key=partition_key)

    return predictions


def _bounds(
    partitions: dg.TimeWindowPartitionsDefinition, partition_key: str
) -> tuple[datetime, datetime]:
    window = partitions.time_window_for_partition_key(partition_key)
    return window.start, window.end


def _answers(
    client: ModelClient, pipeline: str, rows: pd.DataFrame, rates: Mapping[str, float]
) -> pd.DataFrame:
    """The rows' keys and answers, region by region."""
    keys = rows[["partition_start", "event_id", "region"]]
    parts = [
        client.predict(pipeline, str(region), part, base_rate=rates.get(str(region)))
        for region, part in rows.groupby("region", sort=True)
    ]
    if not parts:
        return keys.assign(**dict.fromkeys(COLUMNS))
    return keys.join(pd.concat(parts))


def _metadata(client: ModelClient, before: Any, answers: pd.DataFrame) -> dict[str, Any]:
    with_model = answers[answers["reason"] != NO_CHAMPION]
    live, now = int((with_model["source"] == "live").sum()), client.accounting
    return {
        "dagster/partition_row_count": len(answers),
        **{
            f"rows_{source}": int((answers["source"] == source).sum())
            for source in ("live", "cache", "champion", "base_rate")
        },
        "rows_without_model": len(answers) - len(with_model),
        "fallback_rate": round(1 - live / len(with_model), 4) if len(with_model) else 0.0,
        "oldest_answer_s": float(answers["age_s"].max()) if len(answers) else 0.0,
        "requests": now.requests - before.requests,
        "http_attempts": now.backend_calls - before.backend_calls,
        "refused_by_circuit": now.refused_by_circuit - before.refused_by_circuit,
        "breaker": client.breaker.current_state,
        "breaker_transitions": ", ".join(now.transitions[len(before.transitions) :]) or "none",
        "breaker_is_local": client.breaker.storage.local_because or "no",
    }


def _prediction_quality(settings: PipelineSettings) -> dg.AssetsDefinition:
    key, partitions = dg.AssetKey([settings.name, "prediction_quality"]), day_partitions(settings)

    @dg.asset(
        key=key,
        group_name=GROUP,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=list(settings.owners),
        kinds={"duckdb"},
        deps=[predictions_key(settings)],
        description=(
            "How good the answers of a day turned out to be, per region and source, once labels "
            "are known: accuracy, and its one-sided 95 % lower bound."
        ),
    )
    def prediction_quality(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> None:
        for partition_key in context.partition_keys:
            start, end = _bounds(partitions, partition_key)
            with warehouse.get_connection() as connection:
                judged = judge_day(connection, settings.name, start, end)
            rows, correct = int(judged["rows"].sum()), int(judged["correct"].sum())
            metadata: dict[str, Any] = {
                "rows_judged": rows,
                "by_region_and_source": dg.MetadataValue.md(_table(judged)),
            }
            if rows:
                metadata["accuracy"] = correct / rows
            context.add_asset_metadata(metadata, partition_key=partition_key)

    return prediction_quality


def _table(judged: pd.DataFrame) -> str:
    lines = ["| region | source | rows | accuracy | at least |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.region} | {row.source} | {row.rows} | {row.accuracy:.3f} | {row.lower_bound:.3f} |"
        for row in judged.itertuples()
    ]
    return "\n".join(lines)
