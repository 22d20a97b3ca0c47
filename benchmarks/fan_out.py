"""What one run for many regions costs over a bare process pool doing the same fits.

`python -m benchmarks.fan_out --json PATH`: 100 regions × 10,000 rows × 20 features and at most 200
rounds. The bare pool is `multiprocessing.Pool(2)` calling the same training function on the same
rows, which lie ready as one file per region; ours reads them from the warehouse, trains, writes
artifacts, registers, probes, judges and reports every region to a Dagster instance on SQLite. The
bare pool runs before and after ours and counts with the mean of both, so that a machine that grows
faster or slower meanwhile favours neither. Then the same range again with nothing changed, one
region in a run of its own, and 1,000 regions × 1,000 rows.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import lightgbm
import numpy as np
import pandas as pd

from benchmarks.incremental import Cost, middle
from ml_patterns.branching.policy import Policy
from ml_patterns.fan_out.assets import regional_model
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.fan_out.training import train
from ml_patterns.incremental.settings import EventsSettings
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.features import FeatureColumn
from ml_patterns.storage.resources import (
    ArtifactsResource,
    OperationalResource,
    WarehouseResource,
)
from ml_patterns.storage.warehouse import Warehouse

START = datetime(2026, 1, 1, tzinfo=UTC)
NUMERIC, CATEGORICAL = 17, 3
COLUMNS = (
    *(FeatureColumn(f"number_{index}", "DOUBLE") for index in range(NUMERIC)),
    *(FeatureColumn(f"text_{index}", "VARCHAR") for index in range(CATEGORICAL)),
)
WORKERS = 2
PIPELINE = "bench"
MODEL = dg.AssetKey([PIPELINE, "regional_model"])


@dataclass(frozen=True)
class Result:
    """Figures of one size.

    Attributes:
        ratio: `ours` over `bare_pool`, Dagster's start included.
        start_seconds: of `ours`, what Dagster takes to create the run, with a planned event for
            each region, before the first line of ours.
        ratio_without_start: without it; the target is 1.10 for 100 regions × 10,000 rows.
        cpu_ratio: the same of the processor time that all processes used, which a busy machine
            disturbs less.
        beside_training_ms_per_region: what reading, gating, reporting and Dagster add to a region.
        alone_seconds: one region in a Dagster run of its own, processes started already.
    """

    regions: int
    rows: int
    bare_pool_seconds: float
    ours_seconds: float
    ratio: float
    start_seconds: float
    ratio_without_start: float
    cpu_ratio: float
    beside_training_ms_per_region: float
    unchanged_seconds: float
    alone_seconds: float
    worker_seconds: float
    parent_peak_mib: float
    worker_peak_mib: float


def made_up(region: str, rows: int) -> pd.DataFrame:
    """A region's rows: a rule over some of the features, and noise."""
    random = np.random.default_rng([7, *region.encode()])
    numbers = random.normal(size=(rows, NUMERIC))
    texts = random.choice(np.array(["a", "b", "c", "d", "e"]), (rows, CATEGORICAL))
    score = numbers[:, 0] + 0.5 * numbers[:, 1] * numbers[:, 2] + (texts[:, 0] == "a")
    label = (score + random.normal(scale=0.5, size=rows)) > 0.5
    seconds = np.sort(random.integers(0, 28 * 86_400, rows))
    times = pd.Series(
        pd.Timestamp(START.replace(tzinfo=None)) + pd.to_timedelta(seconds, unit="s")
    ).astype("datetime64[us]")
    keys = {
        "partition_start": times.dt.floor("h"),
        "event_id": [f"{region}-{number}" for number in range(rows)],
        "event_time": times,
        "region": region,
        "label": pd.array(label, dtype="boolean"),
    }
    columns = {f"number_{index}": numbers[:, index] for index in range(NUMERIC)}
    return pd.DataFrame({**keys, **columns, **_texts(texts)})


def _texts(texts: np.ndarray) -> dict[str, np.ndarray]:
    return {f"text_{index}": texts[:, index] for index in range(CATEGORICAL)}


def settings() -> PipelineSettings:
    """Default training; a gate that lets the made-up models through."""
    return PipelineSettings(
        name=PIPELINE,
        events=EventsSettings(
            path="none", id="id", time="t", version="v", region="r", start=START.date()
        ),
        training=TrainingSettings(workers=WORKERS),
        gate=Policy(deploy_at=0.8, review_at=0.7),
    )


def fit(path: Path) -> int:
    """What a worker of the bare pool does."""
    model = train(
        pd.read_feather(path),
        COLUMNS,
        settings().training,
        pipeline=PIPELINE,
        region=path.stem,
        label_delay=timedelta(0),
        watermark=None,
    )
    return len(model.model_text)


def bare_pool(paths: Sequence[Path]) -> Cost:
    """The same fits by a bare pool of two, its start included as ours is."""
    started, used = time.perf_counter(), cpu_seconds()
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        for _ in pool.imap_unordered(fit, paths):
            pass
    return Cost(time.perf_counter() - started, cpu_seconds() - used)


@dataclass(frozen=True)
class House:
    """Stores and a Dagster instance in a folder."""

    folder: Path
    instance: dg.DagsterInstance

    def materialize(self, first: str, last: str) -> float:
        """Seconds of one run."""
        started = time.perf_counter()
        result = dg.materialize(
            [regional_model(settings()), dg.AssetSpec(dg.AssetKey([PIPELINE, "event_features"]))],
            selection=[MODEL],
            instance=self.instance,
            tags={
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            },
            resources={
                "warehouse": WarehouseResource(database=str(self.folder / "w.duckdb")),
                "operational": OperationalResource(url=f"sqlite:///{self.folder / 's.sqlite'}"),
                "artifacts": ArtifactsResource(root=str(self.folder / "artifacts")),
            },
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        if not result.success:
            raise RuntimeError("the run failed")
        return time.perf_counter() - started


@contextmanager
def house(regions: Sequence[str], rows: int) -> Iterator[House]:
    """A warehouse and files with made-up rows, and a Dagster that knows the regions."""
    with tempfile.TemporaryDirectory() as name, dg.instance_for_test() as instance:
        folder = Path(name)
        with Warehouse(folder / "w.duckdb").connect() as connection:
            connection.execute(f"CREATE SCHEMA {PIPELINE}")
            table = f"{PIPELINE}.event_features"
            for region in regions:
                part = made_up(region, rows)
                part.to_feather(folder / f"{region}.feather")
                connection.register("part", part)
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table} AS FROM part LIMIT 0")
                connection.execute(f"INSERT INTO {table} FROM part")
        instance.add_dynamic_partitions(f"{PIPELINE}_region", list(regions))
        yield House(folder, instance)


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(count: int, rows: int) -> Result:
    """One size, ours beside the bare pool."""
    regions = [f"region_{number:04d}" for number in range(count)]
    with house(regions, rows) as stores:
        paths = [stores.folder / f"{region}.feather" for region in regions]
        around = [bare_pool(paths)]
        asked, used = time.time(), cpu_seconds()
        ours = stores.materialize(regions[0], regions[-1])
        used = cpu_seconds() - used
        start = _started(stores.instance) - asked
        around.append(bare_pool(paths))
        baseline = middle(around)  # of two, the median is the mean
        worked = _worked(stores.instance, count)
        unchanged = stores.materialize(regions[0], regions[-1])
        with Warehouse(stores.folder / "w.duckdb").connect() as connection:
            connection.execute(
                f"DELETE FROM {PIPELINE}.event_features WHERE event_id = ?", [f"{regions[0]}-0"]
            )
        alone = stores.materialize(regions[0], regions[0])
    return Result(
        regions=count,
        rows=rows,
        bare_pool_seconds=round(baseline.seconds, 2),
        ours_seconds=round(ours, 2),
        ratio=round(ours / baseline.seconds, 3),
        start_seconds=round(start, 2),
        ratio_without_start=round((ours - start) / baseline.seconds, 3),
        cpu_ratio=round(used / baseline.cpu, 3),
        beside_training_ms_per_region=round((ours - baseline.seconds) / count * 1000, 1),
        unchanged_seconds=round(unchanged, 2),
        alone_seconds=round(alone, 2),
        worker_seconds=round(sum(seconds for seconds, _ in worked), 2),
        parent_peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        worker_peak_mib=max(peak for _, peak in worked),
    )


def _started(instance: dg.DagsterInstance) -> float:
    """When the newest run's step began, in seconds since 1970."""
    (record,) = instance.get_run_records(limit=1)
    (step,) = instance.get_run_step_stats(record.dagster_run.run_id)
    if step.start_time is None:
        raise RuntimeError("the run has no step that began")
    return step.start_time


def _worked(instance: dg.DagsterInstance, count: int) -> list[tuple[float, float]]:
    """Seconds and peak memory that the workers reported, by region."""
    records = instance.fetch_materializations(MODEL, limit=count).records
    found = [record.asset_materialization for record in records]
    return [
        (float(each.metadata["seconds"].value), float(each.metadata["worker_peak_mb"].value))
        for each in found
        if each is not None
    ]


def medians(results: Sequence[Result]) -> dict[str, float]:
    """Of every figure; all of one size."""
    figures: dict[str, list[float]] = {}
    for result in results:
        for name, value in asdict(result).items():
            figures.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in figures.items()}


def main() -> None:
    """Measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--regions", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=1000, help="0: leave the large fleet out")
    parser.add_argument("--repeat", type=int, default=1, help="of each size; medians are added")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes = [(options.regions, options.rows)] + [(options.many, 1000)] * bool(options.many)
    results, load = [], [os.getloadavg()[0]]
    for count, rows in sizes * options.repeat:
        results.append(measure(count, rows))
        load.append(os.getloadavg()[0])
        print(results[-1])
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "lightgbm": lightgbm.__version__,
        "workers": WORKERS,
        # Above the number of cores, others took part: ratios of wall times then say little.
        "load_average": [round(each, 1) for each in load],
        "results": [asdict(result) for result in results],
        "medians": [medians(results[start :: len(sizes)]) for start in range(len(sizes))],
    }
    options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
