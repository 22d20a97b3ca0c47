"""Promises of the incremental room as Dagster asset checks.

Belongs here: thin shells around questions to the ledger. Does not: the questions' answers
(`ledger.py`, `audit.py`).
"""

import random
from collections.abc import Sequence

import dagster as dg
import duckdb

from ml_patterns.incremental import audit, ledger
from ml_patterns.incremental.audit import Discrepancy
from ml_patterns.incremental.dead_letter import removed
from ml_patterns.incremental.grain import Grain
from ml_patterns.incremental.plan import LAYERS
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import WarehouseResource

_RECOMPUTED = 5
_SHOWN = 20


def build_checks(settings: PipelineSettings) -> list[dg.AssetChecksDefinition]:
    """The checks that are steps of their own."""
    return [
        _no_gaps(settings),
        _event_ids_have_one_time(settings),
        _matches_full_recompute(settings),
    ]


def daily_checks(settings: PipelineSettings) -> list[dg.AssetCheckKey]:
    """Checks of the whole table: they have a job and a schedule of their own."""
    names = ("no_gaps", "event_ids_have_one_time", "matches_full_recompute")
    return [dg.AssetCheckKey(_key(settings, "event_features"), name) for name in names]


def _key(settings: PipelineSettings, asset: str) -> dg.AssetKey:
    return dg.AssetKey([settings.name, asset])


def _warning(
    name: str, found: Sequence[Discrepancy], **metadata: dg.MetadataValue | int | float
) -> dg.AssetCheckResult:
    """Passed where nothing was found; the first sentence says what."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=found[0].sentence if found else None,
        metadata={
            "found": dg.MetadataValue.json([item.sentence for item in found[:_SHOWN]]),
            **metadata,
        },
    )


def event_files_specs(settings: PipelineSettings) -> list[dg.AssetCheckSpec]:
    """The checks that `event_files` evaluates itself: they ask the ledger that it has just written.

    As steps of their own they would take longer than most registrations.
    """
    asset = _key(settings, "event_files")
    return [
        dg.AssetCheckSpec(
            "every_file_readable",
            asset=asset,
            description="Every landed file can be read, and none whose rows count went away: that "
            "is an error until it is back, or somebody lets it go.",
        ),
        dg.AssetCheckSpec(
            "arrives_within_grace",
            asset=asset,
            description="The share of rows that come too late stays below "
            f"{settings.events.max_too_late_share:.2%}; `ml-patterns plan --lateness` shows what "
            "another grace period would change.",
        ),
        dg.AssetCheckSpec(
            "schema_unchanged",
            asset=asset,
            description="The newest files have the columns and types of the files before them.",
        ),
    ]


def check_event_files(
    connection: duckdb.DuckDBPyConnection,
    settings: PipelineSettings,
    found: ledger.Accounts,
    missing: Sequence[str],
) -> list[dg.AssetCheckResult]:
    """What the ledger says to each of `event_files_specs`.

    Args:
        missing: files that were read before and are gone.
    """
    bad = [file.error for file in ledger.unreadable_files(connection, settings.name)]
    gone = [removed(path, settings.name) for path in missing]
    share = found.too_late / found.delivered if found.delivered else 0.0
    sentence = f"{found.too_late:,} of {found.delivered:,} rows came too late"
    late = [Discrepancy(sentence)] if share > settings.events.max_too_late_share else []
    return [
        dg.AssetCheckResult(
            check_name="every_file_readable",
            passed=not bad and not gone,
            severity=dg.AssetCheckSeverity.ERROR if gone else dg.AssetCheckSeverity.WARN,
            description=next(iter([*gone, *bad]), None),
            metadata={
                "found": dg.MetadataValue.json([*gone, *bad][:_SHOWN]),
                "unreadable_files": len(bad),
                "missing_files": len(gone),
            },
        ),
        _warning("arrives_within_grace", late, share=share, too_late=found.too_late),
        _warning("schema_unchanged", audit.schema_changes(connection, settings)),
    ]


def _no_gaps(settings: PipelineSettings) -> dg.AssetChecksDefinition:
    grain = Grain(settings.events.grain)

    @dg.asset_check(
        asset=_key(settings, "event_features"),
        description="Every partition below the watermark is built, be it empty.",
    )
    def no_gaps(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        with warehouse.reading() as connection:
            missing = audit.gaps(connection, settings)
        return _warning(
            "no_gaps",
            [Discrepancy(f"{grain.key(partition)} was never built") for partition in missing],
            gaps=len(missing),
        )

    return no_gaps


def _event_ids_have_one_time(settings: PipelineSettings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=_key(settings, "event_features"),
        description="Among open partitions no event id lies in two: versions of an event meet "
        "only within a partition, so an event whose time was changed counts twice.",
    )
    def event_ids_have_one_time(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        with warehouse.reading() as connection:
            ids = audit.ids_with_many_times(connection, settings)
        return _warning(
            "event_ids_have_one_time",
            [Discrepancy(f"event {name} lies in several partitions") for name in ids],
            events=len(ids),
        )

    return event_ids_have_one_time


def _matches_full_recompute(settings: PipelineSettings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=_key(settings, "event_features"),
        description=f"{_RECOMPUTED} closed partitions of each layer, chosen at random, equal a "
        "recompute from the landed files, bit for bit.",
    )
    def matches_full_recompute(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        chance = random.Random()  # noqa: S311 - a sample, not a secret
        found: list[Discrepancy] = []
        compared = 0
        with warehouse.reading() as connection:
            for layer in LAYERS:
                chosen = audit.closed_partitions(connection, settings, layer, _RECOMPUTED, chance)
                found += audit.recompute_differences(connection, settings, layer, chosen)
                compared += len(chosen)
        return dg.AssetCheckResult(
            passed=not found,
            description=found[0].sentence if found else None,
            metadata={
                "partitions_compared": compared,
                "found": dg.MetadataValue.json([item.sentence for item in found]),
            },
        )

    return matches_full_recompute


def every_row_accounted_for_spec(settings: PipelineSettings) -> dg.AssetCheckSpec:
    """The check that `event_aggregates` evaluates itself, at the end of each run.

    A check of its own step would be skipped by runs of due partitions, which have no output.
    """
    return dg.AssetCheckSpec(
        "every_row_accounted_for",
        asset=_key(settings, "event_aggregates"),
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
