"""What incremental processing costs: per event, per hour, and against processing it all again.

`python -m benchmarks.incremental --json PATH`: 240 hourly Parquet files of 100,000 events, summed
up per hour and region. Every ratio is taken within one run on one machine; times are medians. The
bare query is DuckDB alone, the same aggregation over the same files into a table of a database
file, without ledger, lateness, versions or exactly-once commits. Registration (every column of
every file is read once and hashed) is reported apart from the transformations.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from ml_patterns.incremental import audit, build, manifest, plan
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage import engine
from ml_patterns.storage.warehouse import Warehouse

START = datetime(2026, 1, 1)  # noqa: DTZ001 - UTC without a zone, as in the warehouse
HOUR = timedelta(hours=1)
HISTORIES = (24, 240, 2_400)
SMALL_HOUR = 1_000
REPEATS = 5
TURNS = 25
AUDITED = 5
YEAR = 8_760
TEN_TERABYTES = 10e12

AGGREGATES = """\
SELECT region, count(*) AS events, CAST(sum(amount) AS BIGINT) AS amount,
    count(label) AS labelled, count(*) FILTER (WHERE label) AS positives
FROM events GROUP BY region
"""
FEATURES = """\
WITH before AS (
    SELECT region, CAST(sum(events) AS BIGINT) AS events FROM aggregates GROUP BY region
)
SELECT e.id AS event_id, e.time AS event_time, e.region, e.label, e.amount, before.events AS earlier
FROM events e LEFT JOIN before ON before.region = e.region
"""
YAML = """\
type: ml_patterns.EventModelPipeline

attributes:
  name: bench
  events:
    path: landed/*.parquet
    id: id
    time: time
    version: known
    region: region
    start: "2026-01-01"
    grace: 6h
"""
BARE = """\
CREATE OR REPLACE TABLE bare AS
SELECT date_trunc('hour', time) AS partition_start, region, count(*) AS events,
    CAST(sum(amount) AS BIGINT) AS amount, count(label) AS labelled,
    count(*) FILTER (WHERE label) AS positives
FROM {events} GROUP BY ALL
"""
NEWEST = """\
(FROM read_parquet('{folder}/*.parquet') QUALIFY row_number() OVER (
    PARTITION BY date_trunc('hour', time), id ORDER BY known DESC) = 1)
"""


@dataclass(frozen=True)
class Cost:
    """Wall clock and processor seconds of all threads."""

    seconds: float
    cpu: float


class Stage:
    """A pipeline in a folder of its own: landed files, warehouse, settings."""

    def __init__(self, folder: Path) -> None:
        self.landed = folder / "landed"
        self.landed.mkdir(parents=True)
        (folder / "aggregates.sql").write_text(AGGREGATES)
        (folder / "features.sql").write_text(FEATURES)
        document = {
            "name": "bench",
            "events": {
                "path": "landed/*.parquet", "id": "id", "time": "time", "version": "known",
                "region": "region", "start": START.date(), "grace": "6h",
            },
        }  # fmt: skip
        self.settings = PipelineSettings.model_validate(document).located(folder, folder)
        self.warehouse = Warehouse(folder / "warehouse.duckdb")

    def clock(self) -> datetime:
        """Long after the events."""
        return datetime(2030, 1, 1, tzinfo=UTC)

    def land(self, hour: int, rows: int) -> Path:
        """One file of one hour."""
        path = self.landed / f"{hour:06}.parquet"
        write_hour(path, hour, rows)
        return path

    def ingest(self) -> Cost:
        """Registers what landed, as a run begins: in a process that has opened nothing yet."""
        engine.end_idle()
        with measured() as cost, self.warehouse.connect() as connection:
            manifest.ingest(connection, self.settings, self.clock)
        return cost()

    def build(self, layer: plan.Layer = "aggregates") -> tuple[Cost, int, int]:
        """Builds what is due; also rows scanned and rows accepted."""
        with measured() as cost, self.warehouse.connect() as connection:
            due = plan.plan(connection, self.settings, layer, self.clock())
            wants = {entry.partition: entry.want for entry in due}
            done = list(
                build.build(connection, self.settings, layer, list(wants), self.clock, wants=wants)
            )
        return cost(), sum(b.scanned for b in done), sum(b.counts.accepted for b in done)


@contextmanager
def measured() -> Iterator[Callable[[], Cost]]:
    """Measures the block; the result may be asked for after it."""
    wall, cpu = time.perf_counter(), time.process_time()
    found: list[Cost] = []
    yield lambda: found[0]
    found.append(Cost(time.perf_counter() - wall, time.process_time() - cpu))


def write_hour(path: Path, hour: int, rows: int) -> None:
    """Events of one hour, an id each, 40 regions."""
    first = f"TIMESTAMP '{START + hour * HOUR}'"
    with duckdb.connect() as connection:
        connection.execute(
            f"""
            COPY (
                SELECT 'event-' || ({hour}::BIGINT * 10000000 + i) AS id,
                    {first} + INTERVAL (i * 3600000 // {rows}) MILLISECONDS AS time,
                    time + INTERVAL 5 SECONDS AS known,
                    'region_' || lpad((hash(i, {hour}) % 40)::VARCHAR, 2, '0') AS region,
                    (hash(i) % 10000)::BIGINT AS amount, (hash(i, 1) % 500)::INTEGER AS weight,
                    (hash(i, 2) % 100 < 12) AS label
                FROM range({rows}) t(i)
            ) TO '{path}' (FORMAT parquet)
            """
        )


def bare(stage: Stage, events: str, repeats: int) -> Cost:
    """The same aggregation by DuckDB alone; the median run."""
    costs = []
    for number in range(repeats):
        path = stage.landed.parent / f"bare-{number}.duckdb"
        with measured() as cost, duckdb.connect(str(path)) as connection:
            connection.execute(BARE.format(events=events))
            connection.execute("CHECKPOINT")
        costs.append(cost())
        path.unlink()
    return middle(costs)


def full_load(folder: Path, hours: int, rows: int) -> dict[str, object]:
    """Loads everything, then one more hour, beside the bare query."""
    stage = Stage(folder)
    for hour in range(hours):
        stage.land(hour, rows)
    size = sum(path.stat().st_size for path in stage.landed.iterdir())
    pattern = f"read_parquet('{stage.landed}/*.parquet')"
    newest = bare(stage, NEWEST.format(folder=stage.landed), 1)
    registered = stage.ingest()
    alone, built, (scanned, accepted) = bare_and_ours(stage, pattern)
    audited = audits(stage)
    increments = []
    for hour in range(hours, hours + REPEATS):
        stage.land(hour, rows)
        one_registered = stage.ingest()
        one_built, one_scanned, one_accepted = stage.build()
        increments.append((one_registered, one_built, one_scanned, one_accepted))
    landed = hours + REPEATS
    days = [one_day(stage, landed + 24 * day, rows) for day in range(3)]
    idle, opening = nothing_new(stage)
    least = least_of_one_hour(stage, sorted(stage.landed.iterdir())[hours])
    events = hours * rows
    whole = Cost(registered.seconds + built.seconds, registered.cpu + built.cpu)
    per_event = statistics.median(
        (registration.cpu + transformation.cpu) / count
        for registration, transformation, _, count in increments
    )
    hour_seconds = statistics.median(r.seconds + t.seconds for r, t, _, _ in increments)
    return {
        "files": hours,
        "events": events,
        "gigabytes": round(size / 1e9, 3),
        "bare_query": figures(alone, events),
        "bare_query_newest_version_only": figures(newest, events),
        "registration": figures(registered, events),
        "transformation": figures(built, events),
        "transformation_throughput_to_bare": round(alone.seconds / built.seconds, 3),
        "transformation_throughput_to_bare_in_cpu_seconds": round(alone.cpu / built.cpu, 3),
        "transformation_throughput_to_bare_newest": round(newest.seconds / built.seconds, 3),
        "whole_throughput_to_bare": round(alone.seconds / whole.seconds, 3),
        "rows_read_to_rows_due": round(scanned / accepted, 4),
        "audits": audited,
        "one_hour": {
            "registration_s": round(statistics.median(r.seconds for r, *_ in increments), 4),
            "transformation_s": round(statistics.median(t.seconds for _, t, *_ in increments), 4),
            "cpu_microseconds_per_event": round(per_event * 1e6, 3),
            "rows_read_to_rows_due": round(
                sum(i[2] for i in increments) / sum(i[3] for i in increments), 4
            ),
        },
        "cpu_per_event_incremental_to_full": round(per_event / (whole.cpu / events), 3),
        "cpu_per_event_least_to_full": round(
            (least * hours + registered.cpu) / whole.cpu, 3
        ),
        "cpu_per_event_one_day_to_full": round(
            statistics.median(days) / (whole.cpu / events), 3
        ),
        "cpu_seconds_of_a_run": {
            "one_new_hour": round(per_event * rows, 4),
            "nothing_new": round(idle, 4),
            "of_which_opening_the_file": round(opening, 4),
            "an_hour_of_the_full_load": round(whole.cpu / hours, 4),
            "duckdb_alone_for_one_hour": round(least, 4),
            "reading_an_hour_once": round(registered.cpu / hours, 4),
        },
        "full_to_one_hour": round(whole.seconds / hour_seconds, 1),
        "cores_for_10_tb_a_day": round(
            per_event * TEN_TERABYTES / (size / events) / 86_400, 1
        ),
    }  # fmt: skip


def bare_and_ours(stage: Stage, pattern: str) -> tuple[Cost, Cost, tuple[int, int]]:
    """The bare query and the transformation in turn, so that both meet the same neighbours."""
    registered = stage.warehouse.path.with_name("registered.duckdb")
    shutil.copy(stage.warehouse.path, registered)
    alone: list[Cost] = []
    ours: list[Cost] = []
    scanned, accepted = 0, 0
    for _ in range(REPEATS):
        shutil.copy(registered, stage.warehouse.path)
        alone.append(bare(stage, pattern, 1))
        engine.end_idle()
        cost, scanned, accepted = stage.build()
        ours.append(cost)
    return middle(alone), middle(ours), (scanned, accepted)


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu for cost in costs),
    )


def one_day(stage: Stage, first: int, rows: int) -> float:
    """Processor seconds per event of 24 hours that arrive together."""
    for hour in range(first, first + 24):
        stage.land(hour, rows)
    return (stage.ingest().cpu + stage.build()[0].cpu) / (24 * rows)


def audits(stage: Stage) -> dict[str, float]:
    """Seconds of the audits after the load: no run of new events waits for the second."""
    with stage.warehouse.connect() as connection:
        with measured() as accounted:
            lost = audit.unaccounted_rows(connection, stage.settings)
        chosen = audit.closed_partitions(
            connection, stage.settings, "aggregates", AUDITED, random.Random(1)
        )
        with measured() as recomputed:
            lost += audit.recompute_differences(connection, stage.settings, "aggregates", chosen)
    if lost:
        raise RuntimeError(lost[0].sentence)
    return {
        "every_row_accounted_for_s": round(accounted().seconds, 3),
        f"recompute_of_{AUDITED}_hours_s": round(recomputed().seconds, 3),
    }


def nothing_new(stage: Stage) -> tuple[float, float]:
    """Processor seconds of a run that finds nothing, and of opening the file twice for it."""
    idle, opening = [], []
    for _ in range(REPEATS):
        with measured() as cost:
            stage.ingest()
            stage.build()
        idle.append(cost().cpu)
        engine.end_idle()
        with measured() as cost:
            for _ in range(2):
                with stage.warehouse.connect():
                    pass
        opening.append(cost().cpu)
    return statistics.median(idle), statistics.median(opening)


def least_of_one_hour(stage: Stage, path: Path) -> float:
    """Processor seconds of DuckDB alone for one hour: opens a file, aggregates into it, closes it.

    Nothing that adds an hour to a DuckDB file can cost less, and nothing of the ledger is in it.
    """
    target = stage.warehouse.path.with_name("least.duckdb")
    select = BARE.split("AS\n", 1)[1].format(events=f"read_parquet('{path}')")
    with duckdb.connect(str(target)) as connection:
        connection.execute(f"CREATE TABLE bare AS {select}")
    used = []
    for _ in range(REPEATS):
        with measured() as cost, duckdb.connect(str(target)) as connection:
            connection.execute(f"INSERT INTO bare {select}")
        used.append(cost().cpu)
    return statistics.median(used)


def figures(cost: Cost, events: int) -> dict[str, float]:
    """A cost with its throughput."""
    return {
        "seconds": round(cost.seconds, 3),
        "cpu_seconds": round(cost.cpu, 3),
        "million_events_per_s": round(events / cost.seconds / 1e6, 3),
    }


def flatness(folder: Path, histories: Sequence[int], rows: int) -> dict[str, object]:
    """One new hour of full size behind histories of different length, in turn.

    The ratio is the median of the turns' own: a busy moment hits both of a turn.
    """
    stages = {history: Stage(folder / str(history)) for history in histories}
    whole: dict[int, float] = {}
    for history, stage in stages.items():
        for hour in range(history):
            stage.land(hour, SMALL_HOUR)
        whole[history] = stage.ingest().seconds + stage.build()[0].seconds
    times: dict[int, list[float]] = {history: [] for history in histories}
    for turn in range(TURNS):
        for history, stage in stages.items():
            stage.land(history + turn, rows)
            times[history].append(stage.ingest().seconds + stage.build()[0].seconds)
    medians = {history: statistics.median(found) for history, found in times.items()}
    alike: dict[int, list[float]] = {history: [] for history in histories}
    for turn in range(REPEATS):
        for history, stage in stages.items():
            stage.land(history + TURNS + turn, SMALL_HOUR)
            alike[history].append(stage.ingest().seconds + stage.build()[0].seconds)
    return {
        "hours_of_history": {
            str(history): {
                "one_hour_s": round(medians[history], 4),
                "everything_s": round(whole[history], 3),
                "everything_to_an_hour_like_the_others": round(
                    whole[history] / statistics.median(alike[history]), 1
                ),
            }
            for history in histories
        },
        "longest_to_shortest": round(
            statistics.median(
                long / short
                for long, short in zip(times[histories[-1]], times[histories[0]], strict=True)
            ),
            3,
        ),
    }  # fmt: skip


def planning(folder: Path) -> dict[str, float]:
    """Planning a year of hourly partitions, all of them built, one of them changed."""
    stage = Stage(folder)
    stage.land(0, 10)
    stage.ingest()
    stage.build()
    with stage.warehouse.connect() as connection:
        connection.execute(
            f"""
            INSERT INTO bench.source_files SELECT 1 + h, '/landed/' || h, 1, 'tag', 1, NULL,
                registered_at, reading, 'read', NULL, columns, types
                FROM bench.source_files, range(1, {YEAR}) t(h);
            INSERT INTO bench.partition_manifest SELECT partition_start + INTERVAL (h) HOURS, 1 + h,
                class, rows, fingerprint || h, newest + INTERVAL (h) HOURS, ids
                FROM bench.partition_manifest, range(1, {YEAR}) t(h)
            """
        )
        times = {}
        for layer in plan.LAYERS:
            due = plan.plan(connection, stage.settings, layer, stage.clock())
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                plan.plan(connection, stage.settings, layer, stage.clock())
                seconds.append(time.perf_counter() - started)
            times[f"{layer}_s"] = round(statistics.median(seconds), 3)
            times[f"{layer}_due"] = len(due)
    return {"partitions": YEAR, **times}


def write_project(folder: Path, stage: Stage) -> None:
    """The stage's pipeline as a Dagster project."""
    pipeline = folder / "bench" / "defs" / "bench"
    pipeline.mkdir(parents=True)
    (folder / "bench" / "__init__.py").write_text("")
    (folder / "bench" / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n\n@dg.definitions\ndef defs():\n"
        "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "bench"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n'
        '[tool.dg.project]\nroot_module = "bench"\n'
    )
    (pipeline / "defs.yaml").write_text(YAML)
    for name in ("aggregates.sql", "features.sql"):
        shutil.copy(stage.landed.parent / name, pipeline)


def command() -> list[str]:
    """Catches the pipeline up, as cron would do it; compiled once, as an installed package is."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in [name for name in os.environ if name.startswith("ML_PATTERNS_")]:
        del os.environ[name]
    return [
        str(Path(sys.executable).parent / "ml-patterns"), "run", "bench", "--steps",
        "ingest,aggregates", "--json",
    ]  # fmt: skip


def machine() -> dict[str, object]:
    """Where the figures come from."""
    return {
        "cores": os.cpu_count(), "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(), "duckdb": duckdb.__version__,
    }  # fmt: skip


def command_line(folder: Path, history: int, rows: int) -> dict[str, float]:
    """One new hour by `ml-patterns run`, as cron would do it, Dagster's start included."""
    stage = Stage(folder)
    write_project(folder, stage)
    environment = {**os.environ, "DAGSTER_HOME": str(folder / "dagster")}
    for hour in range(history):
        stage.land(hour, rows)
    runs = []
    for hour in range(history, history + REPEATS + 1):
        started = time.perf_counter()
        done = subprocess.run(
            command(), cwd=folder, env=environment, check=True, capture_output=True, text=True
        )
        whole = time.perf_counter() - started
        steps = {step["step"]: step["seconds"] for step in json.loads(done.stdout)["steps"]}
        runs.append((whole, sum(steps.values())))
        stage.land(hour, rows)
    core = core_of_one_hour(folder / "core", history, rows)
    whole = statistics.median(run[0] for run in runs[1:])
    in_runs = statistics.median(run[1] for run in runs[1:])
    return {
        "whole_s": round(whole, 3),
        "start_and_loading_s": round(whole - in_runs, 3),
        "dagster_runs_s": round(in_runs - sum(core.values()), 3),
        **{f"ours_{name}_s": round(seconds, 3) for name, seconds in core.items()},
        "ours_s": round(sum(core.values()), 3),
    }


def core_of_one_hour(folder: Path, history: int, rows: int) -> dict[str, float]:
    """The same hour without Dagster, split at the boundaries of its commit."""
    stage = Stage(folder)
    for hour in range(history):
        stage.land(hour, rows)
    stage.ingest()
    stage.build()
    found: dict[str, list[float]] = {"registration": [], "computation": [], "commit": []}
    for hour in range(history, history + REPEATS):
        stage.land(hour, rows)
        found["registration"].append(stage.ingest().seconds)
        moments: dict[str, float] = {}

        def note(name: str, moments: dict[str, float] = moments) -> None:
            moments[name] = time.perf_counter()

        started = time.perf_counter()
        with stage.warehouse.connect() as connection:
            due = plan.plan(connection, stage.settings, "aggregates", stage.clock())
            chosen = [entry.partition for entry in due]
            list(build.build(connection, stage.settings, "aggregates", chosen, stage.clock, note))
        commit = moments["committed"] - moments["computed"]
        found["commit"].append(commit)
        found["computation"].append(time.perf_counter() - started - commit)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Measures everything and prints it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--files", type=int, default=240)
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    files, rows = arguments.files, arguments.rows
    histories = [history for history in HISTORIES if history <= 10 * files]
    report: dict[str, object] = {"machine": machine()}
    parts: dict[str, Callable[[Path], object]] = {
        "planning_a_year": planning,
        "full_load": lambda folder: full_load(folder, files, rows),
        "history": lambda folder: flatness(folder, histories, rows),
        "command_line": lambda folder: command_line(folder, 24, rows),
    }
    for name, measure in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            report[name] = measure(Path(folder) / name)
        print(json.dumps({name: report[name]}, indent=2), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
