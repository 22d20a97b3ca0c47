"""How good answers turned out to be, and which models that asks to be trained again.

Belongs here: judging days, live accuracy per region and version, its confidence. Does not: the
answers (`predictions.py`), requesting the training (`sensors.py`).

A label usually arrives as a later version of its event. Every answer remembers whether the label
was known when its row was read, so that an answer made in time can be told from one given in
hindsight by a model that may have been trained on that very row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import duckdb
import sqlalchemy as sa

from ml_patterns.circuit_breaker.predictions import ensure_table, naive
from ml_patterns.registry.registry import Registry
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted
from ml_patterns.storage.warehouse import has_table

if TYPE_CHECKING:
    import pandas as pd

_CONFIDENCE = 0.95
_COLUMNS = {
    "day": "TIMESTAMP",
    "region": "VARCHAR",
    "source": "VARCHAR",
    "model_version": "VARCHAR",
    "in_time": "BOOLEAN",
    "rows": "BIGINT",
    "correct": "BIGINT",
    "accuracy": "DOUBLE",
    "lower_bound": "DOUBLE",
}


def judged_live(settings: PipelineSettings) -> bool:
    """Whether live accuracy can be held against the gate's thresholds: they are of accuracy."""
    return settings.gate.metric == "accuracy"


def lower_bound(correct: int, rows: int, confidence: float = _CONFIDENCE) -> float:
    """One-sided Clopper-Pearson bound of a share (Clopper and Pearson 1934, Biometrika 26)."""
    from scipy.special import betaincinv

    if correct == 0:
        return 0.0
    return float(betaincinv(correct, rows - correct + 1, 1 - confidence))


def judge_day(
    connection: duckdb.DuckDBPyConnection, pipeline: str, start: datetime, end: datetime
) -> "pd.DataFrame":
    """Measures a day's answers against the labels known by now, and writes it down.

    Each labelled event counts once: with the last answer made before its label was known; where
    all came later, with the first, as `in_time` false.

    Returns:
        region, source, model_version, in_time, rows, correct, accuracy, lower_bound (one-sided,
        95 %).
    """
    schema = quoted(pipeline)
    ensure_table(connection, pipeline)
    judged = connection.execute(
        f"""
        WITH labelled AS (
            SELECT answers.*, features.label,
                coalesce(NOT answers.label_known, FALSE) AS in_time
            FROM {schema}.predictions AS answers JOIN {schema}.event_features AS features
                USING (partition_start, event_id)
            WHERE features.label IS NOT NULL AND partition_start >= ? AND partition_start < ?
            QUALIFY row_number() OVER (
                PARTITION BY partition_start, event_id
                ORDER BY in_time DESC, CASE WHEN in_time THEN made_at END DESC, made_at
            ) = 1
        )
        SELECT region, source, model_version, in_time, count(*) AS rows,
               count(*) FILTER (WHERE (prediction >= 0.5) = label) AS correct
        FROM labelled GROUP BY ALL ORDER BY ALL
        """,
        [naive(start), naive(end)],
    ).df()
    judged["accuracy"] = judged["correct"] / judged["rows"]
    judged["lower_bound"] = _bounds(judged)
    _write(connection, pipeline, judged.assign(day=naive(start)), start)
    return judged


def as_markdown(judged: "pd.DataFrame") -> str:
    """A day's measurements as a table for people."""
    lines = [
        "| region | source | version | answered | rows | accuracy | at least |",
        "|---|---|---|---|--:|--:|--:|",
    ]
    for row in (
        judged.astype({"model_version": "string"}).fillna({"model_version": "-"}).itertuples()
    ):
        when = "in time" if row.in_time else "in hindsight"
        lines.append(
            f"| {row.region} | {row.source} | {row.model_version!s} | {when} | {row.rows} | "
            f"{row.accuracy:.3f} | {row.lower_bound:.3f} |"
        )
    return "\n".join(lines)


def _bounds(judged: "pd.DataFrame") -> list[float]:
    return [
        lower_bound(int(correct), int(rows))
        for correct, rows in zip(judged["correct"], judged["rows"], strict=True)
    ]


def _write(
    connection: duckdb.DuckDBPyConnection, pipeline: str, judged: "pd.DataFrame", start: datetime
) -> None:
    """Replaces a day, in one transaction; a table of another shape is judged anew from nothing."""
    table = f"{quoted(pipeline)}.prediction_quality"
    types = ", ".join(f'"{name}" {type_}' for name, type_ in _COLUMNS.items())
    selected = ", ".join(
        f'CAST("{name}" AS {type_}) AS "{name}"' for name, type_ in _COLUMNS.items()
    )
    connection.execute("BEGIN")
    try:
        if has_table(connection, pipeline, "prediction_quality"):
            found = connection.execute(f"DESCRIBE {table}").fetchall()
            if [row[0] for row in found] != list(_COLUMNS):
                connection.execute(f"DROP TABLE {table}")
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({types})")
        connection.execute(f"DELETE FROM {table} WHERE day = ?", [naive(start)])
        if len(judged):
            connection.register("judged", judged)
            connection.execute(f"INSERT INTO {table} BY NAME SELECT {selected} FROM judged")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


@dataclass(frozen=True)
class LiveRecord:
    """What became of a model version's live answers that were made in time.

    Attributes:
        newest_day: the last day among those judged.
    """

    region: str
    version: str
    rows: int
    correct: int
    newest_day: datetime

    @property
    def lower_bound(self) -> float:
        """Of the accuracy: one-sided, 95 %."""
        return lower_bound(self.correct, self.rows)

    def could_prove(self, threshold: float) -> bool:
        """Whether so many rows, all of them correct, would reach the threshold."""
        return lower_bound(self.rows, self.rows) >= threshold


def champion_versions(engine: sa.Engine, pipeline: str) -> dict[str, str]:
    """Region -> version of the champion, as predictions name it."""
    return {
        champion.region: str(champion.version) for champion in Registry(engine).champions(pipeline)
    }


def to_retrain(
    records: Sequence[LiveRecord], threshold: float, retired: Collection[str] = ()
) -> list[LiveRecord]:
    """The records that ask for training: enough rows to prove the threshold, and they do not.

    A model that has answered for a handful of rows is not proven either, but that is no fault of
    its own.

    Args:
        retired: regions that a training would skip.
    """
    return [
        record
        for record in records
        if record.region not in retired
        and record.lower_bound < threshold
        and record.could_prove(threshold)
    ]


def live_records(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    champions: Mapping[str, str],
    window: timedelta,
    last: datetime | None = None,
) -> list[LiveRecord]:
    """The record of each region's present champion; none for those without live answers.

    Args:
        champions: region -> version as text. Former champions are not held against it.
        window: days this far behind the last one count.
        last: the last day to look at (UTC); None: the newest that was judged.
    """
    if not has_table(connection, pipeline, "prediction_quality"):
        return []
    table = f"{quoted(pipeline)}.prediction_quality"
    if last is None:
        found = connection.execute(f"SELECT max(day) FROM {table}").fetchone()
        last = found[0] if found else None
        if last is None:
            return []
    rows = connection.execute(
        f"SELECT region, model_version, CAST(sum(rows) AS BIGINT), CAST(sum(correct) AS BIGINT), "
        f"max(day) FROM {table} WHERE source = 'live' AND in_time AND day <= ? AND day > ? "
        "GROUP BY region, model_version ORDER BY region",
        [naive(last), naive(last) - window],
    ).fetchall()
    return [LiveRecord(*row) for row in rows if champions.get(row[0]) == row[1]]
