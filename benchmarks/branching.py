"""What the gate costs, and how often it is wrong.

`python -m benchmarks.branching --json PATH`: verdicts a second from ready evidence; promotions with
their audit rows on SQLite and PostgreSQL (if it is installed) under one and four writing processes;
and how often a model that is not good enough passes, simulated, by the measured value and by its
lower bound, when it has one try and when the best of five is taken.
"""

import argparse
import json
import multiprocessing
import multiprocessing.synchronize
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml_patterns.branching.conditions import reaches
from ml_patterns.branching.decide import decide
from ml_patterns.branching.evidence import ChampionEvidence, Evidence, ProbeResult
from ml_patterns.branching.policy import Metric, Policy
from ml_patterns.branching.slices import Slices
from ml_patterns.branching.statistics import binomial_bound
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.registry.postgres import postgres_server

SEED = 20_260_101
ROWS = 1_000
DECISIONS = 200
PROMOTIONS = 100
WRITERS = (1, 4)
SIMULATIONS = 200_000
TEST_ROWS = 200
METRICS: tuple[Metric, ...] = ("accuracy", "auc")


@dataclass(frozen=True)
class Speed:
    """Verdicts from ready evidence, in one process."""

    metric: str
    test_rows: int
    decisions_per_s: float


@dataclass(frozen=True)
class Promotions:
    """Register, judge and promote, each region by one process; `promote` with its audit rows."""

    database: str
    writers: int
    promotions: int
    cycles_per_s: float
    promote_p50_ms: float
    promote_p95_ms: float


@dataclass(frozen=True)
class Passes:
    """How often models of a true accuracy reach `deploy_at` on the test rows."""

    true_accuracy: float
    test_rows: int
    tries: int
    by_point: float
    by_lower_bound: float


def made_up() -> tuple[Evidence, ChampionEvidence]:
    """A model that is right in 96 % of the rows, and a champion."""
    random = np.random.default_rng(SEED)
    labels = random.random(ROWS) < 0.3

    def said(wrong: float) -> np.ndarray:
        turned = labels ^ (random.random(ROWS) < wrong)
        return (turned * 0.5 + random.random(ROWS) * 0.5).astype(np.float32).astype(np.float64)

    columns = {
        name: Slices(
            tuple(f"{name} {number}" for number in range(values)),
            random.integers(0, values, ROWS).astype(np.int8),
        )
        for name, values in (("carrier", 4), ("service", 3))
    }
    evidence = Evidence(labels, said(0.04), probe=ProbeResult(True), slices=columns)
    return evidence, ChampionEvidence(1, 1, np.ones(ROWS, dtype=bool), said(0.05))


def speed(metric: Metric) -> Speed:
    """Verdicts a second, statistics included."""
    evidence, champion = made_up()
    policy = Policy(metric=metric, deploy_at=0.9, review_at=0.8)
    decide(evidence, policy, champion)
    count = DECISIONS if metric == "accuracy" else DECISIONS // 10
    start = time.perf_counter()
    for _ in range(count):
        fresh = Evidence(**{name: getattr(evidence, name) for name in Evidence.__match_args__})
        decide(fresh, policy, champion)
    return Speed(metric, ROWS, round(count / (time.perf_counter() - start), 1))


def write(
    url: str,
    region: str,
    barrier: "multiprocessing.synchronize.Barrier",
    results: "multiprocessing.Queue[tuple[float, float, list[float]]]",
) -> None:
    """One writer: its region's champion changes again and again."""
    registry, policy, waits = Registry(engine_for(url)), Policy(), []
    evidence, champion = made_up()
    document = evidence.to_json(champion)
    barrier.wait()
    begin = time.time()
    for number in range(PROMOTIONS):
        version = registry.register(
            pipeline="bench", region=region, artifact=f"{region}-{number}", kind="own",
            training_key=str(number),
        )  # fmt: skip
        decision = registry.record_decision(
            version, verdict="deploy", reason="passed", evidence=document, policy=policy,
            test_fingerprint="rows", champion_generation=number,
        )  # fmt: skip
        start = time.perf_counter()
        registry.promote(
            version, expected_generation=number, decision=decision, actor="bench", reason="passed"
        )
        waits.append(time.perf_counter() - start)
    results.put((begin, time.time(), waits))


def promotions(database: str, url: str, writers: int) -> Promotions:
    """That many processes, each with a region of its own, at once."""
    registry = Registry(engine_for(url))
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(writers), context.Queue()
    regions = [f"{writers}-{number}" for number in range(writers)]
    processes = [
        context.Process(target=write, args=(url, region, barrier, results)) for region in regions
    ]
    for process in processes:
        process.start()
    reports = [results.get() for _ in processes]
    for process in processes:
        process.join()
    waits = np.concatenate([report[2] for report in reports]) * 1000
    seconds = max(report[1] for report in reports) - min(report[0] for report in reports)
    for region in regions:
        actions = [row.action for row in registry.audit("bench", region)]
        assert actions.count("promoted") == registry.generation("bench", region) == PROMOTIONS
    registry.engine.dispose()
    return Promotions(
        database,
        writers,
        len(waits),
        round(len(waits) / seconds, 1),
        round(float(np.percentile(waits, 50)), 2),
        round(float(np.percentile(waits, 95)), 2),
    )


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    """URLs of what is installed."""
    urls = {"sqlite": f"sqlite:///{folder / 'state.sqlite'}"}
    if shutil.which("initdb") is None:
        print("PostgreSQL is not installed (initdb is not on PATH): only SQLite is measured")
        yield urls
        return
    with postgres_server() as template:
        yield {**urls, "postgresql": template.format("postgres")}


def passes(true_accuracy: float, tries: int) -> Passes:
    """Simulated; the gate's own thresholds, bound and comparison."""
    policy = Policy()
    right = np.arange(TEST_ROWS + 1)
    by_point = np.array([reaches(k / TEST_ROWS, policy.deploy_at) for k in right])
    by_bound = np.array(
        [
            reaches(binomial_bound(int(k), TEST_ROWS, policy.confidence), policy.deploy_at)
            for k in right
        ]
    )
    random = np.random.default_rng(SEED)
    best = random.binomial(TEST_ROWS, true_accuracy, (SIMULATIONS, tries)).max(axis=1)
    return Passes(
        true_accuracy,
        TEST_ROWS,
        tries,
        round(float(by_point[best].mean()), 4),
        round(float(by_bound[best].mean()), 4),
    )


def run() -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_before": round(os.getloadavg()[0], 1),
        },
        "speed": [asdict(speed(metric)) for metric in METRICS],
    }
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        databases(Path(folder)) as urls,
    ):
        figures["promotions"] = [
            asdict(promotions(name, url, writers))
            for name, url in urls.items()
            for writers in WRITERS
        ]
    figures["passes"] = [
        asdict(passes(true_accuracy, tries)) for true_accuracy in (0.93, 0.98) for tries in (1, 5)
    ]
    return figures


def main() -> None:
    """Prints the figures and writes them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.branching", description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    arguments = parser.parse_args()
    figures = run()
    for name in ("speed", "promotions", "passes"):
        print(f"\n{name}\n{pd.DataFrame(figures[name]).to_string(index=False)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
