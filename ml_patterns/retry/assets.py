"""Pattern 4 in Dagster: tables that are read from HTTP APIs, day by day.

Belongs here: the assets, thin. Does not: asking and storing (`external.py`), retries of a step
(`steps.py`).
"""

from collections import Counter
from datetime import date
from typing import Any

import dagster as dg

from ml_patterns.errors import UserError
from ml_patterns.partitions import day_partitions
from ml_patterns.retry.settings import ExternalSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns.table_metadata import table_metadata

GROUP = "retry"
_ATTEMPTS = "attempts"
"""HTTP requests for a day, those of earlier tries of the step included."""


def external_key(settings: PipelineSettings, external: ExternalSettings) -> dg.AssetKey:
    """The asset key of an external table."""
    return dg.AssetKey([settings.name, "external", external.name])


def build_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """One asset per block under `external`."""
    return [_external(settings, external) for external in settings.external]


def _external(settings: PipelineSettings, external: ExternalSettings) -> dg.AssetsDefinition:
    key = external_key(settings, external)

    @dg.asset(
        key=key,
        group_name=GROUP,
        partitions_def=day_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=list(settings.owners),
        kinds={"duckdb", "api"},
        description=(
            f"`{external.name}` from its API, day by day. A day, all its regions and pages, is "
            "replaced whole or not at all; a failing upstream is asked again with "
            "growing waits inside one budget; days that were answered are not asked for again by "
            "a retry of the step."
        ),
    )
    def external_table(
        context: dg.AssetExecutionContext,
        warehouse: WarehouseResource,
        operational: OperationalResource,
    ) -> None:
        from ml_patterns.retry.budget import RetryBudget
        from ml_patterns.retry.caller import GaveUpError, RetryingCaller, Tally
        from ml_patterns.retry.classify import HttpStatusError, InvalidAnswerError
        from ml_patterns.retry.external import fetch_day, select_rows, store
        from ml_patterns.retry.http import http_session
        from ml_patterns.retry.steps import raise_for_good, raise_for_later

        retry = settings.retry
        budget = RetryBudget(
            operational.engine(), ratio=retry.budget_ratio, floor=retry.budget_floor
        )
        caller = RetryingCaller.from_settings(retry, budget)
        told: dict[str, dict[str, Any]] = {}
        refused: list[str] = []
        with http_session() as session:
            spent = _spent_before(context, key)
            for partition in _unanswered(context, key):
                tally = Tally()
                try:
                    response = fetch_day(
                        external,
                        settings.name,
                        date.fromisoformat(partition),
                        session=session,
                        caller=caller,
                        tally=tally,
                    )
                    rows = select_rows(external, response.body)
                except GaveUpError as error:
                    # The next day would meet the same upstream: later, all that is missing.
                    context.log_event(
                        dg.AssetObservation(
                            key,
                            partition=partition,
                            metadata={_ATTEMPTS: tally.attempts, "reason": str(error)},
                        )
                    )
                    _report_days(context, key, told)
                    raise_for_later(
                        retry, context.retry_number, f"{partition}: {error}", error.retry_after
                    )
                except (HttpStatusError, InvalidAnswerError, UserError) as error:
                    refused.append(f"{partition}: {error}")
                    continue
                with warehouse.get_connection() as connection:
                    store(connection, settings.name, external, [(response, rows)])
                    columns = table_metadata(connection, settings.name, f"external_{external.name}")
                told[partition] = {
                    "dagster/partition_row_count": rows.num_rows,
                    _ATTEMPTS: spent[partition] + tally.attempts,
                    "seconds_waited": round(tally.waited, 3),
                    "step_retry": context.retry_number,
                    "fingerprint": response.fingerprint,
                }
                context.log.info(f"{external.name} {partition}: {told[partition]}")
                if partition == context.partition_keys[-1]:
                    told[partition] |= columns
        if refused:
            _report_days(context, key, told)
            raise_for_good(refused)
        for partition, metadata in told.items():
            context.add_asset_metadata(metadata, partition_key=partition)

    return external_table


def _report_days(
    context: dg.AssetExecutionContext, key: dg.AssetKey, told: dict[str, dict[str, Any]]
) -> None:
    """Materializes the days that are there although the step is going to fail."""
    for partition, metadata in told.items():
        context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))


def _spent_before(context: dg.AssetExecutionContext, key: dg.AssetKey) -> Counter[str]:
    """Day -> attempts that earlier tries of this step made in vain."""
    spent = Counter[str]()
    if context.retry_number:
        keys = list(context.partition_keys)
        records = context.instance.fetch_observations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=keys),
            limit=10 * len(keys),
        ).records
        for record in records:
            observed = record.asset_observation
            if observed and record.run_id == context.run.run_id and record.partition_key:
                spent[record.partition_key] += int(str(observed.metadata[_ATTEMPTS].value))
    return spent


def _unanswered(context: dg.AssetExecutionContext, key: dg.AssetKey) -> list[str]:
    """The run's partitions, without those that an earlier try of this step has answered."""
    if context.retry_number == 0:
        return list(context.partition_keys)
    done = {
        record.partition_key
        for record in context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=list(context.partition_keys)),
            limit=10 * len(context.partition_keys),
        ).records
        if record.run_id == context.run.run_id
    }
    return [partition for partition in context.partition_keys if partition not in done]
