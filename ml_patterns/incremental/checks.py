"""Promises of the incremental room as Dagster asset checks.

Belongs here: thin shells around questions to the ledger. Does not: the questions' answers
(`ledger.py`, `audit.py`).
"""

import dagster as dg

from ml_patterns.incremental import audit, ledger
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import WarehouseResource


def build_checks(settings: PipelineSettings) -> list[dg.AssetChecksDefinition]:
    """The checks that are steps of their own."""
    files = dg.AssetKey([settings.name, "event_files"])

    @dg.asset_check(
        asset=files,
        description="Every landed file can be read, and none that was read has disappeared.",
    )
    def every_file_readable(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        with warehouse.reading() as connection:
            bad = ledger.unreadable_files(connection, settings.name)
        return dg.AssetCheckResult(
            passed=not bad,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"unreadable": dg.MetadataValue.json([file.error for file in bad])},
        )

    return [every_file_readable]


def every_row_accounted_for_spec(settings: PipelineSettings) -> dg.AssetCheckSpec:
    """The check that `event_aggregates` evaluates itself, at the end of each run.

    A check of its own step would be skipped by runs of due partitions, which have no output.
    """
    return dg.AssetCheckSpec(
        "every_row_accounted_for",
        asset=dg.AssetKey([settings.name, "event_aggregates"]),
        blocking=True,
        description="No row is lost or doubled: files against manifest, accepted against kept + "
        "superseded + duplicate, kept events against features.",
    )


def every_row_accounted_for(
    settings: PipelineSettings, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """Holds files, ledger and tables against each other."""
    with warehouse.reading() as connection:
        found = ledger.accounts(connection, settings.name)
        lost = audit.unaccounted_rows(connection, settings)
    return dg.AssetCheckResult(
        check_name="every_row_accounted_for",
        passed=not lost,
        metadata={
            "delivered": found.delivered,
            "accepted": found.accepted,
            "too_late": found.too_late,
            "future": found.future,
            "invalid": found.invalid,
            "kept": found.kept,
            "superseded": found.superseded,
            "duplicate": found.duplicate,
            "discrepancies": dg.MetadataValue.json([item.sentence for item in lost]),
        },
    )
