"""The partitions of a pipeline, as Dagster knows them.

Belongs here: partition definitions and the mappings between them. Does not: what lies in a
partition (`incremental/`), which regions exist (`registry/regions.py`).
"""

import dagster as dg

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


def range_tags(first: str, last: str) -> dict[str, str]:
    """Run tags that make one run cover a range of partition keys, both ends included."""
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }
