"""A partition's rows asked, and what is to be told of the answers.

Belongs here: asking region by region, the figures of a partition. Does not: which rows are asked
(`asking.py`), how a row gets its answer (`client.py`), Dagster (`assets.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pandas as pd

from ml_patterns.base import utc_now
from ml_patterns.circuit_breaker.answers import COLUMNS
from ml_patterns.circuit_breaker.asking import Asked
from ml_patterns.circuit_breaker.client import NO_CHAMPION, ModelClient
from ml_patterns.circuit_breaker.live import Accounting, is_outage
from ml_patterns.circuit_breaker.predictions import append, naive


@dataclass(frozen=True)
class Served:
    """A partition's answers, and what is to be told of them."""

    answers: pd.DataFrame
    degraded: bool
    metadata: dict[str, Any]


def serve(
    client: ModelClient, pipeline: str, rows: Asked, rates: Mapping[str, float], *, healing: bool
) -> Served:
    """Asks for a partition; for one that heals, only for what has no live answer yet.

    Args:
        rates: share of positives by region, the last of the fallbacks.
    """
    before = replace(client.accounting, transitions=list(client.accounting.transitions))
    answers = _answers(client, pipeline, rows.unanswered() if healing else rows, rates)
    degraded = bool(answers["reason"].map(is_outage).any())
    metadata = _metadata(client, before, answers)
    return Served(
        answers.assign(made_at=naive(utc_now())),
        degraded,
        metadata | {"asked_again": healing, "degraded": degraded},
    )


def keep(connection: duckdb.DuckDBPyConnection, pipeline: str, served: Iterable[Served]) -> None:
    """Adds the answers of several partitions in one transaction."""
    append(connection, pipeline, pd.concat([one.answers for one in served]))


def _answers(
    client: ModelClient, pipeline: str, rows: Asked, rates: Mapping[str, float]
) -> pd.DataFrame:
    """The rows' keys and answers, region by region."""
    parts = [
        client.predict(pipeline, region, features, base_rate=rates.get(region))
        for region, features in rows.by_region()
    ]
    if not parts:
        return rows.keys.assign(**dict.fromkeys(COLUMNS))
    return rows.keys.join(pd.concat(parts))


def _metadata(client: ModelClient, before: Accounting, answers: pd.DataFrame) -> dict[str, Any]:
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
