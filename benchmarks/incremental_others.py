"""One new hour from the command line: `ml-patterns run`, SQLMesh's `run`, dbt's microbatch.

`python -m benchmarks.incremental_others --sqlmesh PATH/TO/sqlmesh --dbt PATH/TO/dbt --json PATH`:
all three sum up the same landed Parquet files per hour and region, on DuckDB. A day is loaded
first; then hours land one by one, and after each the three commands run in turn: whole processes,
start included, each begun when nothing is left to write to the disk. Their usage statistics are
off. The three tables are compared at the end. Beside them, the floor of whatever is recorded by
Dagster: a process that records two runs of nothing. A shared machine disturbs processor seconds
least.

Each of the others goes into an environment of its own (their dependencies disagree):
`python -m venv sqlmesh && sqlmesh/bin/pip install sqlmesh`,
`python -m venv dbt && dbt/bin/pip install dbt-core dbt-duckdb`.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb

from benchmarks.incremental import (
    AGGREGATES,
    HOUR,
    START,
    Cost,
    Stage,
    command,
    machine,
    middle,
    write_project,
)

HISTORY = 24

SQLMESH_CONFIG = """\
gateways:
  local:
    connection:
      type: duckdb
      database: warehouse.duckdb
default_gateway: local
model_defaults:
  dialect: duckdb
  start: "{start:%Y-%m-%d}"
"""
SQLMESH_MODEL = """\
MODEL (
  name bench.hourly,
  kind INCREMENTAL_BY_TIME_RANGE (time_column partition_start),
  cron '@hourly'
);

SELECT date_trunc('hour', time) AS partition_start, {columns}
FROM read_parquet('{landed}/*.parquet')
WHERE time BETWEEN @start_ts AND @end_ts
GROUP BY 1, region
"""
DBT_PROJECT = """\
name: bench
version: "1.0"
profile: bench
model-paths: [models]
"""
DBT_PROFILE = """\
bench:
  target: local
  outputs:
    local:
      type: duckdb
      path: warehouse.duckdb
"""
DBT_SOURCES = """\
sources:
  - name: landed
    tables:
      - name: events
        config:
          event_time: time
        meta:
          external_location: "read_parquet('{landed}/*.parquet')"
"""
DBT_MODEL = """\
{{{{ config(
    materialized='incremental', incremental_strategy='microbatch', event_time='partition_start',
    batch_size='hour', begin='{start:%Y-%m-%d}', lookback=0, concurrent_batches=false
) }}}}
SELECT date_trunc('hour', time) AS partition_start, {columns}
FROM {{{{ source('landed', 'events') }}}}
GROUP BY 1, region
"""

NOTHING_TWICE = """\
import dagster as dg

@dg.op
def nothing():
    pass

@dg.job
def empty():
    nothing()

with dg.DagsterInstance.get() as instance:
    for _ in range(2):
        empty.execute_in_process(
            instance=instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
"""


@dataclass
class Tool:
    """Something that processes one new hour when its command is called.

    Attributes:
        table: where its result lies in `warehouse.duckdb`.
        costs: of each hour; the first pays for what is made once.
    """

    folder: Path
    program: str
    table: str
    version: str = ""
    costs: list[Cost] = field(default_factory=list)

    def call(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Cost:
        """Runs a command to its end; what that took. It waits for nothing that others wrote."""
        os.sync()
        started, used = time.perf_counter(), children_cpu()
        done = subprocess.run(
            [self.program, *arguments],
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        cost = Cost(time.perf_counter() - started, children_cpu() - used)
        if done.returncode:
            raise SystemExit(f"{self.program} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return cost

    def load(self, end: datetime) -> None:
        """Processes everything before an instant."""

    def hour(self, start: datetime) -> Cost:
        """Processes the hour that has just landed."""
        raise NotImplementedError

    def rows(self) -> list[tuple[object, ...]] | None:
        """Its result; None: it makes none."""
        with duckdb.connect(str(self.folder / "warehouse.duckdb"), read_only=True) as connection:
            return connection.execute(
                f"SELECT partition_start, region, events, amount, labelled, positives "
                f"FROM {self.table} ORDER BY ALL"
            ).fetchall()


class Ours(Tool):
    """`ml-patterns run`."""

    def load(self, end: datetime) -> None:
        self.hour(end)

    def hour(self, start: datetime) -> Cost:
        places = {"DAGSTER_HOME": "dagster", "ML_PATTERNS_WAREHOUSE": "warehouse.duckdb"}
        return self.call(
            *command()[1:], environment={key: str(self.folder / p) for key, p in places.items()}
        )


class DagsterAlone(Tool):
    """Two recorded runs that do nothing: registration and computation are such a pair."""

    def hour(self, start: datetime) -> Cost:
        home = {"DAGSTER_HOME": str(self.folder)}
        return self.call("-c", NOTHING_TWICE, environment=home)

    def rows(self) -> None:
        """It has none."""


class SQLMesh(Tool):
    """`sqlmesh run` of an INCREMENTAL_BY_TIME_RANGE model."""

    def load(self, end: datetime) -> None:
        self.call("plan", "--no-prompts", "--auto-apply", "--execution-time", f"{end}")

    def hour(self, start: datetime) -> Cost:
        return self.call("run", "--ignore-cron", "--end", f"{start + HOUR}")


class Dbt(Tool):
    """`dbt run` of a microbatch model."""

    def load(self, end: datetime) -> None:
        self._run(START, end)

    def hour(self, start: datetime) -> Cost:
        return self._run(start, start + HOUR)

    def _run(self, start: datetime, end: datetime) -> Cost:
        return self.call(
            "run", "--quiet", "--event-time-start", f"{start}", "--event-time-end", f"{end}"
        )


def tools(folder: Path, stage: Stage, sqlmesh: str | None, dbt: str | None) -> list[Tool]:
    """The three, as far as they are there, each with its project written."""
    columns = AGGREGATES.removeprefix("SELECT ").split("FROM events")[0].strip()
    values = {"columns": columns, "landed": stage.landed, "start": START}
    write_project(stage.landed.parent, stage)
    dagster = f"Dagster {importlib.metadata.version('dagster')}"
    ours = Ours(stage.landed.parent, command()[0], "bench.event_aggregates", dagster)
    home = folder / "dagster_alone"
    home.mkdir()
    found: list[Tool] = [ours, DagsterAlone(home, sys.executable, "", dagster)]
    if sqlmesh:
        place = folder / "sqlmesh"
        write(place / "config.yaml", SQLMESH_CONFIG.format(**values))
        write(place / "models" / "hourly.sql", SQLMESH_MODEL.format(**values))
        tool = SQLMesh(place, sqlmesh, "bench.hourly")
        tool.version = version_of(sqlmesh, "sqlmesh")
        found.append(tool)
    if dbt:
        place = folder / "dbt"
        write(place / "dbt_project.yml", DBT_PROJECT)
        write(place / "profiles.yml", DBT_PROFILE)
        write(place / "models" / "sources.yml", DBT_SOURCES.format(**values))
        write(place / "models" / "hourly.sql", DBT_MODEL.format(**values))
        other = Dbt(place, dbt, "main.hourly")
        other.version = f"{version_of(dbt, 'dbt-core')}, dbt-duckdb {version_of(dbt, 'dbt-duckdb')}"
        found.append(other)
    return found


def children_cpu() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def version_of(program: str, package: str) -> str:
    """The version of a package in the environment of a program."""
    asked = f"import importlib.metadata as m; print(m.version('{package}'))"
    python = str(Path(program).parent / "python")
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(path: Path, text: str) -> None:
    """A file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def compare(
    folder: Path, sqlmesh: str | None, dbt: str | None, rows: int, repeats: int
) -> dict[str, object]:
    """Loads a day, then lets hours land one by one."""
    stage = Stage(folder / "ours")
    for hour in range(HISTORY):
        stage.land(hour, rows)
    chosen = tools(folder, stage, sqlmesh, dbt)
    for tool in chosen:
        tool.load(START + HISTORY * HOUR)
    for hour in range(HISTORY, HISTORY + repeats + 1):
        stage.land(hour, rows)
        for tool in chosen:
            tool.costs.append(tool.hour(START + hour * HOUR))
    results = [result for tool in chosen if (result := tool.rows()) is not None]
    ours, *_ = medians = [middle(tool.costs[1:]) for tool in chosen]
    return {
        "history_hours": HISTORY,
        "events_per_hour": rows,
        "same_result": all(result == results[0] for result in results),
        "rows_of_result": len(results[0]),
        **{
            type(tool).__name__.lower(): {
                "version": tool.version,
                "whole_s": round(median.seconds, 3),
                "cpu_s": round(median.cpu, 3),
                "runs_s": [round(one.seconds, 3) for one in tool.costs[1:]],
                "to_ours": round(median.seconds / ours.seconds, 2),
                "cpu_to_ours": round(median.cpu / ours.cpu, 2),
            }
            for tool, median in zip(chosen, medians, strict=True)
        },
    }


def main() -> None:
    """Compares and prints it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sqlmesh", help="path of the sqlmesh command")
    parser.add_argument("--dbt", help="path of the dbt command, with dbt-duckdb beside it")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    for name, install in (("sqlmesh", "sqlmesh"), ("dbt", "dbt-core dbt-duckdb")):
        if not getattr(arguments, name):
            print(f"without {name}: pip install {install}, then give --{name} PATH/TO/{name}")
    os.environ |= {
        "SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }  # fmt: skip
    report: dict[str, object] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        report["one_new_hour"] = compare(
            Path(folder), arguments.sqlmesh, arguments.dbt, arguments.rows, arguments.repeats
        )
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
