"""The exactly-once commit: one transaction that replaces partitions by what was computed.

Belongs here: what happens inside the transaction. Does not: computing (`computing.py`), the order
of batches (`build.py`).

Compare-and-set the generation row of every partition, delete, insert, check, note the cost. One row
less updated than claimed, or a transaction conflict, means that someone else won: nothing is
committed.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import duckdb

from ml_patterns.errors import ConflictError, MLPatternsError
from ml_patterns.incremental.copying import Counts
from ml_patterns.incremental.grain import Grain, naive
from ml_patterns.incremental.ledger import Transaction
from ml_patterns.incremental.manifest import timestamp
from ml_patterns.incremental.plan import Layer, Wanted
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.sql import quoted

TABLES: Mapping[Layer, str] = {"aggregates": "event_aggregates", "features": "event_features"}


class Commit:
    """The transaction that replaces some partitions of a layer.

    Raises:
        ConflictError: somebody else built one of them meanwhile, also when only the commit shows
            it; names the partition where it is the only one.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        settings: PipelineSettings,
        layer: Layer,
        partitions: Sequence[datetime],
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._schema = quoted(settings.name)
        self._layer = layer
        self._partitions = list(partitions)
        self._table = f"{self._schema}.{TABLES[layer]}"
        self._transaction = Transaction(connection)

    def __enter__(self) -> Self:
        self._transaction.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        try:
            self._transaction.__exit__(kind, error, trace)
        except duckdb.TransactionException as conflict:
            raise self._lost() from conflict
        if isinstance(error, duckdb.TransactionException):
            raise self._lost() from error

    def claim(self, generations: Mapping[datetime, int], wants: Mapping[datetime, Wanted]) -> None:
        """Compare-and-set of the generation rows; each rises by one."""
        chosen = [wants[partition] for partition in self._partitions]
        claimed = self._connection.execute(
            f"""
            UPDATE {self._schema}.partition_state AS held
            SET events = want.events, code = want.code, upstream = want.upstream,
                generation = held.generation + 1
            FROM (
                SELECT unnest(?::TIMESTAMP[]) AS partition_start, unnest(?::BIGINT[]) AS generation,
                    unnest(?::VARCHAR[]) AS events, unnest(?::VARCHAR[]) AS code,
                    unnest(?::VARCHAR[]) AS upstream
            ) want
            WHERE held.layer = ? AND held.partition_start = want.partition_start
                AND held.generation = want.generation
            RETURNING held.partition_start
            """,
            [
                self._partitions, [generations[partition] for partition in self._partitions],
                [want.events for want in chosen], [want.code for want in chosen],
                [want.upstream for want in chosen], self._layer,
            ],
        ).fetchall()  # fmt: skip
        if len(claimed) < len(self._partitions):
            raise self._lost()

    def fit_table(self, columns: Mapping[str, str]) -> None:
        """Adds, retypes and drops columns so that the table fits what the SQL returns now.

        Partitions that the old SQL computed are due anyway: their code differs. Where a file
        brought the first value of a column, and with it the type, what others hold stays.
        """
        connection, table = self._connection, self._table
        described = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table}({described})")
        present = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {table}").fetchall()}
        for name, kind in columns.items():
            if name not in present:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {kind}")
            elif present[name] != kind:
                connection.execute(
                    f"ALTER TABLE {table} ALTER COLUMN {quoted(name)} TYPE {kind} "
                    f"USING TRY_CAST(CAST({quoted(name)} AS VARCHAR) AS {kind})"
                )
        for name in present:
            if name not in columns:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(name)}")

    def delete(self) -> None:
        """Takes out what was built before."""
        self._connection.execute(f"DELETE FROM {self._table} WHERE {self._these()}")

    def insert(self, computed: str) -> None:
        """Puts in what was computed, from a table that may hold other partitions, too."""
        self._connection.execute(
            f"INSERT INTO {self._table} BY NAME FROM {computed} WHERE {self._these()}"
        )

    def check(self, computed: Mapping[datetime, int]) -> None:
        """Lets nothing be committed unless each partition holds the rows that were computed.

        Raises:
            MLPatternsError: names a partition and both numbers of rows.
        """
        held: dict[datetime, int] = dict(
            self._connection.execute(
                f"SELECT partition_start, count(*) FROM {self._table} WHERE {self._these()} "
                "GROUP BY partition_start"
            ).fetchall()
        )
        for partition in self._partitions:
            if held.get(partition, 0) != computed[partition]:
                raise MLPatternsError(
                    f"{self._layer} {Grain(self._settings.events.grain).key(partition)} of "
                    f"{self._settings.name} would hold {held.get(partition, 0)} rows, and "
                    f"{computed[partition]} were computed; nothing was committed"
                )

    def record_cost(
        self,
        generations: Mapping[datetime, int],
        counts: Mapping[datetime, Counts],
        seconds: Mapping[datetime, float],
        at: datetime,
    ) -> None:
        """Notes where the rows went and what it took."""
        found = [counts[partition] for partition in self._partitions]
        self._connection.execute(
            f"INSERT INTO {self._schema}.run_cost SELECT ?, unnest(?::TIMESTAMP[]), "
            "unnest(?::BIGINT[]), ?, unnest(?::BIGINT[]), unnest(?::BIGINT[]), "
            "unnest(?::BIGINT[]), unnest(?::BIGINT[]), unnest(?::BIGINT[]), unnest(?::DOUBLE[])",
            [
                self._layer, self._partitions,
                [generations[partition] + 1 for partition in self._partitions], naive(at),
                [one.accepted for one in found], [one.kept for one in found],
                [one.superseded for one in found], [one.duplicate for one in found],
                [one.scanned for one in found],
                [seconds[partition] for partition in self._partitions],
            ],
        )  # fmt: skip

    def _these(self) -> str:
        """The bounds let DuckDB skip what lies elsewhere."""
        listed = ", ".join(map(timestamp, self._partitions))
        first, last = timestamp(min(self._partitions)), timestamp(max(self._partitions))
        return f"partition_start BETWEEN {first} AND {last} AND partition_start IN ({listed})"

    def _lost(self) -> ConflictError:
        key = Grain(self._settings.events.grain).key
        named = ", ".join(map(key, self._partitions))
        return ConflictError(
            f"{self._layer} {named} of {self._settings.name} was built by another process "
            "meanwhile; theirs stands"
        )
