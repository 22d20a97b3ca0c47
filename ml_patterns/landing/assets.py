"""A database table as an asset: what changed lands as files.

Belongs here: the asset, thin. Does not: landing (`land.py`), what starts it (`sensors.py`).
"""

import dagster as dg

from ml_patterns.errors import MLPatternsError
from ml_patterns.settings import PipelineSettings

GROUP = "incremental"


def build_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The pipeline's `database_rows`; none where its events land by themselves."""
    return [_database_rows(settings)] if settings.source else []


def _database_rows(settings: PipelineSettings) -> dg.AssetsDefinition:
    @dg.asset(
        key=[settings.name, "database_rows"],
        group_name=GROUP,
        owners=list(settings.owners),
        kinds={"sql", "file"},
        description="The source's table as files: what is new or changed lands in the folder of "
        "`events.path`, whole files or none. The last stretch is read again each time, so that "
        "a transaction that commits late is not missed.",
    )
    def database_rows(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        from ml_patterns.landing.land import land

        try:
            done = land(settings)
        except MLPatternsError as error:
            # Not `from error`: its sentence is all that may be seen of a database's words.
            raise dg.Failure(str(error), allow_retries=False) from None
        context.log.info(f"{done.rows:,} of {done.read:,} rows read landed")
        if done.without_cursor:
            context.log.warning(f"{done.without_cursor:,} rows have no cursor and cannot land")
        return dg.MaterializeResult(
            metadata={
                "files": len(done.files),
                "rows": done.rows,
                "rows_read": done.read,
                "rows_without_cursor": done.without_cursor,
                "cursor": str(done.high.value if done.high else "the table is empty"),
            }
        )

    return database_rows
