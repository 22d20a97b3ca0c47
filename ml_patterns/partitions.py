"""The partitions of a pipeline, as Dagster knows them.

Belongs here: partition definitions and the mappings between them. Does not: what lies in a
partition (`incremental/`), which regions exist (`registry/regions.py`).
"""

import dagster as dg
import sqlalchemy as sa

from ml_patterns.registry.regions import known_regions
from ml_patterns.settings import PipelineSettings

DAY_FORMAT = "%Y-%m-%d"


def time_partitions(settings: PipelineSettings) -> dg.TimeWindowPartitionsDefinition:
    """Hours or days of the stream, UTC."""
    events = settings.events
    if events.grain == "hour":
        return dg.HourlyPartitionsDefinition(
            start_date=events.start_time, end_date=events.end_time, timezone="UTC"
        )
    return day_partitions(settings)


def day_partitions(settings: PipelineSettings) -> dg.TimeWindowPartitionsDefinition:
    """Days of the stream, UTC."""
    events = settings.events
    return dg.DailyPartitionsDefinition(
        start_date=events.start_time, end_date=events.end_time, timezone="UTC"
    )


def region_partitions(settings: PipelineSettings) -> dg.DynamicPartitionsDefinition:
    """The regions found in the data."""
    return dg.DynamicPartitionsDefinition(name=f"{settings.name}_region")


def trained_regions(
    instance: dg.DagsterInstance, settings: PipelineSettings, engine: sa.Engine
) -> list[str]:
    """Partition keys of the regions that are not retired, in Dagster's order.

    A retired region's partition stays: its runs, materializations and checks are its history.
    """
    known = set(known_regions(engine, settings.name))
    keys = instance.get_dynamic_partitions(region_partitions(settings).name or "")
    return [key for key in keys if key in known]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Run tags that make one run cover a range of partition keys, both ends included."""
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }
