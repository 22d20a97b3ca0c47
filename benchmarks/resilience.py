"""What resilience costs while all is well, and what an outage costs the server that is down.

`python -m benchmarks.resilience --json PATH`: added time per call of the closed breaker beside
pybreaker's own, in memory and on Redis (where ML_PATTERNS_REDIS_URL names one); requests that a
dead server gets from 1, 4 and 16 processes; amplification, goodput and share of labelled answers at
10, 30, 50 and 100 % faults, every HTTP request that arrived counted; time from the server's return
to the first live answer.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pybreaker

from ml_patterns.circuit_breaker.breaker import SharedBreaker
from ml_patterns.circuit_breaker.client import ModelClient
from ml_patterns.circuit_breaker.settings import PredictionsSettings
from ml_patterns.circuit_breaker.store import OperationalStore
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.circuit_breaker.model_server import Rows, serve_models
from ml_patterns_tests.serving.conftest import PIPELINE, House

REGION = "eu"
CALLS = 20_000
REQUESTS = 1000
FAULTS = (0.1, 0.3, 0.5, 1.0)
PROCESSES = (1, 4, 16)
DEAD_SECONDS = 6.0
RESET_SECONDS = 1.0


@dataclass(frozen=True)
class Overhead:
    """Added time of a call through a closed breaker."""

    breaker: str
    p50_us: float
    p99_us: float


@dataclass(frozen=True)
class Outage:
    """What a fleet asks of a dead server."""

    processes: int
    seconds_open: float
    predictions_asked: int
    predictions_answered: int
    backend_requests: int
    probes: int


@dataclass(frozen=True)
class Faults:
    """A server that fails at random."""

    share: float
    requests: int
    backend_requests: int
    amplification: float
    goodput: float
    labelled: float


def overhead(folder: Path) -> list[Overhead]:
    """The closed breaker, and pybreaker's own."""
    engine = engine_for(f"sqlite:///{folder / 'overhead.sqlite'}")
    found = [
        _overhead("ml_patterns, SQLite", SharedBreaker("bench", OperationalStore(engine)).call),
        _overhead("pybreaker, memory", pybreaker.CircuitBreaker().call),
    ]
    if url := os.environ.get("ML_PATTERNS_REDIS_URL"):
        import redis

        storage = pybreaker.CircuitRedisStorage("closed", redis.StrictRedis.from_url(url))
        breaker = pybreaker.CircuitBreaker(state_storage=storage)
        found.append(_overhead("pybreaker, Redis", breaker.call))
    return found


def _overhead(name: str, call: Callable[[Callable[[], None]], Any]) -> Overhead:
    def nothing() -> None: ...

    bare, through = [], []
    for _ in range(CALLS):
        began = time.perf_counter_ns()
        nothing()
        between = time.perf_counter_ns()
        call(nothing)
        bare.append(between - began)
        through.append(time.perf_counter_ns() - between)
    base = statistics.median(bare)
    p50, p99 = np.percentile(np.array(through) - base, [50, 99]) / 1000
    return Overhead(name, round(float(p50), 2), round(float(p99), 2))


def frame(seed: int) -> pd.DataFrame:
    """One row that was never asked before."""
    draw = random.Random(seed)
    return pd.DataFrame({"distance": [draw.random()], "carrier": ["air"], "parcels": [seed]})


def client(house: House, url: str) -> ModelClient:
    """A client with the defaults but for shorter waits."""
    settings = PredictionsSettings.model_validate(
        {
            "request_timeout": "2s",
            "min_wait": "0.001s",
            "max_wait": "0.005s",
            "breaker": {"reset_timeout": f"{RESET_SECONDS:g}s"},
        }
    )
    return ModelClient(
        engine_for(house.environment["ML_PATTERNS_STATE_URL"]),
        ArtifactStore(str(house.folder / "artifacts")),
        url,
        settings,
    )


def installation(folder: Path) -> House:
    """A registry with one champion."""
    folder.mkdir()
    house = House.build(folder)
    house.deploy(REGION, seed=1)
    return house


def ask_for_a_while(
    folder: Path, url: str, number: int, seconds: float, told: "multiprocessing.Queue[list[int]]"
) -> None:
    """One process of a fleet: asks until its time is over."""
    mine, asked, answered = client(House.build(folder), url), 0, 0
    told.put([])
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        answers = mine.predict(PIPELINE, REGION, frame(number * 10**6 + asked))
        asked += 1
        answered += int(answers["prediction"].notna().all() and (answers["source"] != "").all())
    told.put([asked, answered])


def outage(folder: Path, processes: int) -> Outage:
    """A server that is down all the time, asked by a fleet."""
    house = installation(folder)
    spawn = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[list[int]] = spawn.Queue()
    with serve_models(lambda _rows: 503) as server:
        fleet = [
            spawn.Process(
                target=ask_for_a_while, args=(folder, server.url, number, DEAD_SECONDS, told)
            )
            for number in range(processes)
        ]
        for process in fleet:
            process.start()
        results = [told.get(timeout=120) for _ in range(2 * processes)]
        for process in fleet:
            process.join()
        arrived = server.calls
    store = OperationalStore(house.registry.engine)
    (name,) = store.all()
    events = store.events(name, limit=10_000)
    probes = sum(event.to_state == "half-open" for event in events)
    return Outage(
        processes=processes,
        seconds_open=round((events[0].at - events[-1].at).total_seconds(), 1),
        predictions_asked=sum(result[0] for result in results if result),
        predictions_answered=sum(result[1] for result in results if result),
        backend_requests=arrived,
        probes=probes,
    )


def faults(folder: Path, share: float) -> Faults:
    """A server that fails a share of what arrives."""
    draw = random.Random(1)

    def behaviour(_rows: Rows) -> object:
        return 503 if draw.random() < share else None

    mine_house = installation(folder)
    with serve_models(behaviour) as server:
        mine = client(mine_house, server.url)
        answers = pd.concat(mine.predict(PIPELINE, REGION, frame(n)) for n in range(REQUESTS))
        arrived = server.calls
    labelled = answers["prediction"].notna() & (answers["source"] != "")
    return Faults(
        share=share,
        requests=REQUESTS,
        backend_requests=arrived,
        amplification=round(arrived / REQUESTS, 4),
        goodput=round(float((answers["source"] == "live").mean()), 4),
        labelled=float(labelled.mean()),
    )


def recovery(folder: Path) -> float:
    """Seconds from the server's return to the first live answer; the reset time-out included."""
    house = installation(folder)
    with serve_models(lambda _rows: 503) as server:
        mine = client(house, server.url)
        for number in range(20):
            mine.predict(PIPELINE, REGION, frame(number))
        server.behaviour = lambda _rows: None
        began, number = time.monotonic(), 20
        while (mine.predict(PIPELINE, REGION, frame(number))["source"] != "live").any():
            number += 1
            time.sleep(0.005)
        return round(time.monotonic() - began, 3)


def run() -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python "
            f"{platform.python_version()}",
            "overhead": [asdict(each) for each in overhead(folder)],
            "outage": [asdict(outage(folder / f"outage{n}", n)) for n in PROCESSES],
            "faults": [asdict(faults(folder / f"faults{share}", share)) for share in FAULTS],
            "recovery_seconds": recovery(folder / "recovery"),
            "reset_timeout_seconds": RESET_SECONDS,
        }


def main() -> None:
    """Prints the figures and writes them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resilience", description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    arguments = parser.parse_args()
    figures = run()
    for name in ("overhead", "outage", "faults"):
        print(f"\n{name}\n{pd.DataFrame(figures[name]).to_string(index=False)}")
    print(
        f"\nfirst live answer {figures['recovery_seconds']} s after the server's return "
        f"(reset time-out {RESET_SECONDS:g} s, jittered)"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
