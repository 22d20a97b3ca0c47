"""One day of an external table: asked for, checked, selected from, kept.

Belongs here: the requests of a day, the SELECT over their JSON, the two tables. Does not: attempts
and waits (`caller.py`), where an answer ends (`pages.py`), Dagster (`assets.py`).

The answer is kept as it came, so that a changed SELECT is applied to every day without asking for
anything again.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import Any

import duckdb
import requests

from ml_patterns.errors import SettingsError, TransformError
from ml_patterns.retry.caller import RetryingCaller, Tally
from ml_patterns.retry.http import IDEMPOTENCY_KEY, Answer, fetch, idempotency_key
from ml_patterns.retry.pages import all_pages
from ml_patterns.retry.settings import ExternalSettings
from ml_patterns.storage.sql import quoted

ArrowTable = Any
"""A `pyarrow.Table`; its compiled classes carry no types."""

_PARTITION = "partition_start"
# Told by the text and not by the settings: days that were kept before those changed stay readable.
_IN_PARTS = re.compile(r'\[\{"region": (null|"[^"]*"), "page": \d+, "body": ')
_WHOLE = """
CREATE TABLE response AS
SELECT CAST(? AS JSON) AS body, CAST(NULL AS VARCHAR) AS region, CAST(1 AS BIGINT) AS page
"""
_PARTS = """
CREATE TABLE response AS
SELECT part->'body' AS body, part->>'region' AS region, CAST(part->'page' AS BIGINT) AS page
FROM (SELECT unnest(CAST(CAST(? AS JSON) AS JSON[])) AS part)
"""


@dataclass(frozen=True)
class Response:
    """A day's answer, whole and readable.

    Attributes:
        day: the partition.
        body: the JSON document as it came; of several (regions, pages) a JSON list of
            `{"region":…, "page":…, "body":…}`, the documents in it as they came.
        fetched_at: when it came, UTC.
    """

    day: date
    body: str
    fetched_at: datetime

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the body (hex)."""
        return hashlib.sha256(self.body.encode()).hexdigest()


def day_url(external: ExternalSettings, day: date, region: str = "", page: int = 1) -> str:
    """The URL of a day, for one region and page where there are such.

    Raises:
        SettingsError: the template names a field that does not exist.
    """
    try:
        return external.url.format(
            start=day.isoformat(),
            end=day.isoformat(),
            region=external.regions.get(region, ""),
            page=page,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise SettingsError(
            f"external.url of {external.name} cannot be filled in ({error}); only {{start}}, "
            "{end}, {region} and {page} are known, other braces are doubled"
        ) from error


def headers_of(external: ExternalSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """The headers with their values.

    Raises:
        SettingsError: a variable is not set; names it, never its value.
    """
    headers = {}
    for header, variable in external.headers.items():
        if variable not in environment:
            raise SettingsError(
                f"external.headers of {external.name} takes {header} from the environment variable "
                f"{variable}, which is not set; set it"
            )
        headers[header] = environment[variable]
    return headers


def fetch_day(
    external: ExternalSettings,
    pipeline: str,
    day: date,
    *,
    session: requests.Session,
    caller: RetryingCaller,
    tally: Tally,
    environment: Mapping[str, str] | None = None,
) -> Response:
    """A day's answer; a part of one is never taken for the whole.

    Raises:
        GaveUpError: the upstream did not answer; later it may.
        HttpStatusError: it refused.
        InvalidAnswerError: what it sent is no JSON document, or not all of its pages.
    """
    secret = headers_of(external, os.environ if environment is None else environment)

    def ask(url: str) -> Answer:
        headers = {
            "Accept": "application/json",
            IDEMPOTENCY_KEY: idempotency_key(pipeline, external.name, url),
            **secret,
        }
        return caller.call(
            lambda timeout: fetch(session, "GET", url, timeout=timeout, headers=headers), tally
        )

    found = [
        (region, number, text)
        for region in external.regions or ("",)
        for number, text in all_pages(partial(day_url, external, day, region), external.pages, ask)
    ]
    if not external.regions and external.pages is None:
        return Response(day, found[0][2], caller.clock())
    parts = ",\n".join(
        f'{{"region": {json.dumps(region or None)}, "page": {number}, "body": {text}}}'
        for region, number, text in found
    )
    return Response(day, f"[{parts}]", caller.clock())


def select_rows(external: ExternalSettings, body: str) -> ArrowTable:
    """The SELECT over one answer; runs in memory, away from the warehouse.

    Raises:
        TransformError: the SELECT failed; says how.
    """
    with duckdb.connect(":memory:") as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET autoinstall_known_extensions = false")
            connection.execute(_PARTS if _IN_PARTS.match(body) else _WHOLE, [body])
            return connection.sql(external.select).to_arrow_table()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise TransformError(
                f"external.select of {external.name} does not fit the answer: {reason}"
            ) from error


def store(
    connection: duckdb.DuckDBPyConnection,
    pipeline: str,
    external: ExternalSettings,
    responses: Sequence[tuple[Response, ArrowTable]],
) -> None:
    """Replaces days, rows and answers alike, in one transaction.

    If the SELECT now gives other columns, all days are selected anew from their kept answers.
    """
    schema, table = quoted(pipeline), f"{quoted(pipeline)}.{quoted('external_' + external.name)}"
    connection.execute("BEGIN")
    try:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {schema}.external_responses (name VARCHAR, "
            f"{_PARTITION} TIMESTAMP, fetched_at TIMESTAMP, body VARCHAR, fingerprint VARCHAR)"
        )
        for response, _ in responses:
            _keep(connection, schema, external.name, response)
        days = [(_start(response.day), rows) for response, rows in responses]
        if days and not _fits(connection, pipeline, external.name, days[0][1]):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            days = _from_kept(connection, schema, external)
            connection.register("incoming", days[0][1])
            connection.execute(
                f"CREATE TABLE {table} AS SELECT CAST(NULL AS TIMESTAMP) AS {_PARTITION}, * "
                "FROM incoming LIMIT 0"
            )
        for start, rows in days:
            connection.execute(f"DELETE FROM {table} WHERE {_PARTITION} = ?", [start])
            connection.register("incoming", rows)
            connection.execute(
                f"INSERT INTO {table} BY NAME SELECT CAST(? AS TIMESTAMP) AS {_PARTITION}, * "
                "FROM incoming",
                [start],
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _keep(
    connection: duckdb.DuckDBPyConnection, schema: str, name: str, response: Response
) -> None:
    start = _start(response.day)
    connection.execute(
        f"DELETE FROM {schema}.external_responses WHERE name = ? AND {_PARTITION} = ?",
        [name, start],
    )
    connection.execute(
        f"INSERT INTO {schema}.external_responses VALUES (?, ?, ?, ?, ?)",
        [
            name,
            start,
            response.fetched_at.replace(tzinfo=None),
            response.body,
            response.fingerprint,
        ],
    )


def _fits(
    connection: duckdb.DuckDBPyConnection, pipeline: str, name: str, rows: ArrowTable
) -> bool:
    """Whether the table exists and has the columns of these rows, in any order."""
    known = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = ? AND table_name = ?",
        [pipeline, f"external_{name}"],
    ).fetchall()
    connection.register("incoming", rows)
    described = connection.execute("DESCRIBE SELECT * FROM incoming").fetchall()
    wanted = {(_PARTITION, "TIMESTAMP")} | {(row[0], row[1]) for row in described}
    return set(known) == wanted


def _from_kept(
    connection: duckdb.DuckDBPyConnection, schema: str, external: ExternalSettings
) -> list[tuple[datetime, ArrowTable]]:
    kept = connection.execute(
        f"SELECT {_PARTITION}, body FROM {schema}.external_responses WHERE name = ? ORDER BY 1",
        [external.name],
    ).fetchall()
    return [(start, select_rows(external, body)) for start, body in kept]


def _start(day: date) -> datetime:
    """A day as the warehouse writes it: UTC without a zone."""
    return datetime(day.year, day.month, day.day)  # noqa: DTZ001
