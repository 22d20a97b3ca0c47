"""The fan-in: where every region stands.

Belongs here: one entry per region, their order, the table, the picture. Does not: the verdicts
(`branching/`), who serves (`registry/`).

A region's entry is the better of what it serves and what it got last, by verdict and then by the
gate's metric. Regions without a model are entries, too: a leaderboard that leaves out what
failed would look best when everything fails.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import duckdb

from ml_patterns.branching.gate import judgement_of
from ml_patterns.branching.policy import Policy
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.registry.registry import ModelVersion, Registry, Verdict
from ml_patterns.storage.sql import quoted

_BEST_FIRST = {"deploy": 0, "review": 1, "reject": 2, "none": 3}
_TYPES = {int: "BIGINT", str: "VARCHAR", float: "DOUBLE"}


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard.

    Attributes:
        verdict: of the gate; `none` where there is no model.
        value: the gate's metric on the test slice.
        lower_bound: its one-sided lower confidence bound.
        served_version: what the region serves, whatever its entry is about.
        problem: why the newest training failed or gave no model; empty if it did not.
    """

    rank: int
    region: str
    verdict: str
    metric: str
    value: float | None
    lower_bound: float | None
    majority: float | None
    test_rows: int | None
    version: int | None
    kind: str | None
    served_version: int | None
    reason: str
    problem: str


def entries(
    registry: Registry,
    pipeline: str,
    regions: Sequence[str],
    policy: Policy,
    problems: Mapping[str, str],
) -> list[Entry]:
    """One entry per region, best first.

    Args:
        problems: region -> why its newest training gave no model.
    """
    champions = {champion.region: champion.version for champion in registry.champions(pipeline)}
    found = [
        _entry(registry, pipeline, region, policy, champions.get(region), problems.get(region, ""))
        for region in regions
    ]
    found.sort(key=lambda entry: (*_standing(entry), entry.region))
    return [_ranked(entry, rank) for rank, entry in enumerate(found, start=1)]


def shortcomings(
    board: Sequence[Entry], settings: TrainingSettings, retired: Collection[str] = ()
) -> str | None:
    """Why the fleet as a whole is not good enough to be called trained; None if it is.

    Args:
        retired: regions that are not on the board, because they are trained no more.
    """
    failed = {entry.region for entry in board if entry.problem or entry.verdict == "none"}
    succeeded = {entry.region for entry in board} - failed
    missing = sorted(set(settings.must_have) - succeeded)
    skipped = [region for region in missing if region in retired]
    if skipped:
        return (
            f"training.must_have names {', '.join(skipped)}, which is retired: take it out of the "
            "setting, or revive it by `ml-patterns region revive`"
        )
    if missing:
        return f"training.must_have names {', '.join(missing)}, which got no model this time"
    share = 1 - len(failed) / len(board) if board else 1.0
    if share < settings.min_success:
        return (
            f"{len(failed)} of {len(board)} regions got no model this time: {share:.0%} succeeded, "
            f"training.min_success asks for {settings.min_success:.0%}"
        )
    return None


def write_leaderboard(
    connection: duckdb.DuckDBPyConnection, pipeline: str, board: Sequence[Entry]
) -> None:
    """Replaces the table `<pipeline>.leaderboard`, in one transaction."""
    table = f"{quoted(pipeline)}.leaderboard"
    columns = ", ".join(f"{field.name} {_sql_type(field.type)}" for field in fields(Entry))
    connection.execute("BEGIN")
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(pipeline)}")
    connection.execute(f"CREATE OR REPLACE TABLE {table} ({columns})")
    if board:
        marks = ", ".join("?" for _ in fields(Entry))
        connection.executemany(
            f"INSERT INTO {table} VALUES ({marks})", [list(astuple(entry)) for entry in board]
        )
    connection.execute("COMMIT")


def markdown(board: Sequence[Entry], retired: Mapping[str, int | None] | None = None) -> str:
    """The leaderboard as a table to read.

    Args:
        retired: regions that are trained no more -> version that goes on serving, if any.
    """
    lines = [
        "| # | region | verdict | value | lower bound | majority | test rows | model | serves |",
        "|--:|:--|:--|--:|--:|--:|--:|:--|:--|",
    ]
    for entry in board:
        model = "" if entry.version is None else f"{entry.kind} v{entry.version}"
        serves = "" if entry.served_version is None else f"v{entry.served_version}"
        cells = (
            str(entry.rank),
            entry.region.replace("|", "\\|"),
            entry.verdict,
            _figure(entry.value),
            _figure(entry.lower_bound),
            _figure(entry.majority),
            "" if entry.test_rows is None else f"{entry.test_rows:,}",
            model,
            serves,
        )
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- **{entry.region}**: {entry.problem}" for entry in board if entry.problem]
    lines += ["", "Without a new model this time:", "", *notes] if notes else []
    serving = [
        f"- **{region}**: " + (f"v{version} goes on serving" if version else "serves no model")
        for region, version in (retired or {}).items()
    ]
    return "\n".join(lines + (["", "Retired:", "", *serving] if serving else []))


def _entry(
    registry: Registry,
    pipeline: str,
    region: str,
    policy: Policy,
    serving: int | None,
    problem: str,
) -> Entry:
    newest = registry.current(pipeline, region)
    versions = [newest] if newest else []
    if newest and serving is not None and serving != newest.number:
        versions.append(registry.version(pipeline, region, serving))
    judged = [_judged(registry, version, policy, serving, problem) for version in versions]
    if judged:
        return min(judged, key=_standing)
    return Entry(
        0, region, "none", policy.metric, None, None, None, None, None, None, serving,
        problem or "no model yet", problem,
    )  # fmt: skip


def _judged(
    registry: Registry, version: ModelVersion, policy: Policy, serving: int | None, problem: str
) -> Entry:
    decision = registry.latest_decision(version.pipeline, version.region, version.number)
    outcome = judgement_of(decision).outcome if decision else None
    metrics = decision.evidence["metrics"] if decision else {}
    return Entry(
        rank=0,
        region=version.region,
        verdict=str(decision.verdict) if decision else str(Verdict.REVIEW),
        metric=outcome.metric if outcome else policy.metric,
        value=outcome.value if outcome else None,
        lower_bound=outcome.lower_bound if outcome else None,
        majority=metrics.get("majority_accuracy"),
        test_rows=outcome.rows if outcome else None,
        version=version.number,
        kind=version.kind,
        served_version=serving,
        reason=decision.reason if decision else "not judged yet",
        problem=problem,
    )


def _standing(entry: Entry) -> tuple[int, float]:
    value = entry.value if entry.value is not None else float("-inf")
    return _BEST_FIRST[entry.verdict], -value


def _ranked(entry: Entry, rank: int) -> Entry:
    return Entry(rank, *astuple(entry)[1:])


def _sql_type(type_: object) -> str:
    # The first of a union is the value's type, the other is None.
    return _TYPES[type_ if isinstance(type_, type) else type_.__args__[0]]  # type: ignore[attr-defined]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
