"""What the model server costs over a bare `Booster.predict`.

`python -m benchmarks.serving --json PATH`: latency (p50, p99) and rows per second for batches of 1,
32 and 1,000 rows, as JSON and as binary tensors, beside bare LightGBM in the same run; with 1 and
100 hosted models; by 1 and 4 clients at once; start-up time and memory of the server process.
MLServer is asked the same, where ML_PATTERNS_MLSERVER names its program (`benchmarks/mlserver.py`).

Bodies are written before the clock starts and answers are parsed in it: writing 20,000 numbers as
JSON takes Python longer than the server takes to read them.
"""

import argparse
import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import requests

from benchmarks.mlserver import mlserver, program
from ml_patterns.branching.policy import Policy
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import Feature, Golden, ModelCard, Window
from ml_patterns.storage.operational import engine_for

FEATURES = 20
TREES = 200
BATCHES = (1, 32, 1000)
CLIENTS = 4
PIPELINE = "bench"
_LENGTH_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Timing:
    """One way of asking for one batch size."""

    way: str
    models: int
    clients: int
    rows: int
    p50_ms: float
    p99_ms: float
    rows_per_second: float
    share_of_bare: float


@dataclass(frozen=True)
class Process:
    """The server process with some number of models."""

    models: int
    start_seconds: float
    first_answers_seconds: float
    memory_mib: float


def train(seed: int) -> lightgbm.Booster:
    """20 features, 200 trees of 31 leaves."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(4000, FEATURES))
    score = matrix @ random.normal(size=FEATURES) + random.normal(size=4000)
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": seed}
    return lightgbm.train(parameters, lightgbm.Dataset(matrix, score > 0), TREES)


def deploy(folder: Path, models: int) -> lightgbm.Booster:
    """A registry with champions `bench.region_0`, …; returns the first one's booster."""
    registry = Registry(engine_for(f"sqlite:///{folder / 'state.sqlite'}"))
    artifacts = ArtifactStore(str(folder / "artifacts"))
    window = Window(start=None, end=None, rows=4000, positives=2000)
    boosters = [train(seed) for seed in range(min(models, 4))]
    for number in range(models):
        region = f"region_{number}"
        card = ModelCard(
            pipeline=PIPELINE,
            region=region,
            kind="own",
            reason="benchmark",
            features=tuple(Feature(name=f"f{i}", type="numeric") for i in range(FEATURES)),
            base_rate=0.5,
            rounds=TREES,
            candidate={},
            seed=number,
            training_key=str(number),
            data_fingerprint="",
            train=window,
            validation=window,
            test=window,
            metrics={},
            importances={},
            golden=Golden(rows=(), predictions=()),
            versions={},
        )
        version = registry.register(
            pipeline=PIPELINE,
            region=region,
            artifact=artifacts.put(boosters[number % len(boosters)].model_to_string(), card),
            kind="own",
            training_key=str(number),
        )
        decision = registry.record_decision(
            version,
            verdict="deploy",
            reason="benchmark",
            evidence={},
            policy=Policy(),
            test_fingerprint="",
            champion_generation=0,
        )
        registry.promote(
            version, expected_generation=0, decision=decision, actor="benchmark", reason="benchmark"
        )
    return boosters[0]


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """The model server as a process: its URL and process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ml_patterns.serving", "--port", "0"],
        env={
            **os.environ,
            "ML_PATTERNS_STATE_URL": f"sqlite:///{folder / 'state.sqlite'}",
            "ML_PATTERNS_ARTIFACTS": str(folder / "artifacts"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1], process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def json_request(matrix: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a JSON request."""
    tensor = {
        "name": "input",
        "datatype": "FP64",
        "shape": list(matrix.shape),
        "data": matrix.ravel().tolist(),
    }
    return json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"}


def binary_request(matrix: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with binary tensors both ways."""
    raw = matrix.tobytes()
    tensor = {
        "name": "input",
        "datatype": "FP64",
        "shape": list(matrix.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"parameters": {"binary_data_output": True}, "inputs": [tensor]}).encode()
    return head + raw, {
        "Content-Type": "application/octet-stream",
        _LENGTH_HEADER: str(len(head)),
    }


def predictions_of(response: requests.Response) -> np.ndarray:
    """The predictions of either kind of answer."""
    response.raise_for_status()
    length = response.headers.get(_LENGTH_HEADER)
    if length is not None:
        return np.frombuffer(response.content, dtype="<f8", offset=int(length))
    return np.array(response.json()["outputs"][0]["data"])


def measure(ways: dict[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Durations of each way in seconds, taken in turns so that all meet the same machine."""
    durations: dict[str, list[float]] = {way: [] for way in ways}
    for ask in ways.values():
        for _ in range(5):
            ask()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for way, ask in ways.items():
            started = time.perf_counter()
            ask()
            durations[way].append(time.perf_counter() - started)
    return {way: np.array(taken) for way, taken in durations.items()}


def measure_crowd(
    ways: dict[str, Callable[[requests.Session], object]], clients: int, seconds: float
) -> dict[str, tuple[np.ndarray, float]]:
    """Durations of each way when several clients ask without a pause, and answers per second.

    The clients are threads of this process; the ways take turns of a few hundred milliseconds.
    """
    turns = max(1, round(seconds / 0.4))
    durations: dict[str, list[float]] = {way: [] for way in ways}
    spent = dict.fromkeys(ways, 0.0)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(clients))
        sessions = [stack.enter_context(requests.Session()) for _ in range(clients)]

        def keep_asking(
            ask: Callable[[requests.Session], object], session: requests.Session, end: float
        ) -> list[float]:
            taken = []
            while (started := time.perf_counter()) < end:
                ask(session)
                taken.append(time.perf_counter() - started)
            return taken

        for _ in range(turns):
            for way, ask in ways.items():
                started = time.perf_counter()
                asking = [
                    pool.submit(keep_asking, ask, session, started + 0.4) for session in sessions
                ]
                for asked in asking:
                    durations[way] += asked.result()
                spent[way] += time.perf_counter() - started
    return {way: (np.array(taken), len(taken) / spent[way]) for way, taken in durations.items()}


def run(seconds: float) -> dict[str, Any]:
    """All figures.

    Args:
        seconds: for each batch size and number of models.
    """
    before = os.getloadavg()[0]
    timings: list[Timing] = []
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        other = None
        if program() is not None:
            other = stack.enter_context(mlserver(Path(name), f"{PIPELINE}.region_0", train(0)))
        for models in (1, 100):
            measure_fleet(models, other if models == 1 else None, seconds, timings, processes)
    return {
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_before": before,
            "load_after": os.getloadavg()[0],
        },
        "lightgbm": lightgbm.__version__,
        "features": FEATURES,
        "trees": TREES,
        "timings": [asdict(timing) for timing in timings],
        "processes": [asdict(process) for process in processes],
    }


def measure_fleet(
    models: int,
    other: str | None,
    seconds: float,
    timings: list[Timing],
    processes: list[Process],
) -> None:
    """Adds the figures of our server with a number of models; `other` is MLServer's URL."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        booster = deploy(folder, models)
        started = time.perf_counter()
        with server(folder) as (url, pid), requests.Session() as session:
            listening = time.perf_counter()
            ask_all(session, url, models)
            answered = time.perf_counter()
            for rows in BATCHES:
                timings += compare(session, url, other, booster, models, rows, seconds)
            processes.append(
                Process(models, listening - started, answered - listening, memory_mib(pid))
            )


def ask_all(session: requests.Session, url: str, models: int) -> None:
    """One request to every model, which loads it."""
    body, headers = json_request(np.zeros((1, FEATURES)))
    for number in range(models):
        path = f"{url}/v2/models/{PIPELINE}.region_{number}/infer"
        session.post(path, data=body, headers=headers).raise_for_status()


def compare(
    session: requests.Session,
    url: str,
    other: str | None,
    booster: lightgbm.Booster,
    models: int,
    rows: int,
    seconds: float,
) -> list[Timing]:
    """Bare prediction, JSON and binary, side by side for one batch size."""
    matrix = np.random.default_rng(rows).normal(size=(rows, FEATURES))
    path = f"/v2/models/{PIPELINE}.region_0/infer"

    def way(
        request: Callable[[np.ndarray], tuple[bytes, dict[str, str]]], base: str = url
    ) -> Callable[[requests.Session], np.ndarray]:
        body, headers = request(matrix)
        return lambda session: predictions_of(
            session.post(f"{base}{path}", data=body, headers=headers)
        )

    ways: dict[str, Callable[[requests.Session], np.ndarray]] = {
        "bare": lambda _session: np.asarray(booster.predict(matrix, num_threads=1)),
        "json": way(json_request),
        "binary": way(binary_request),
    }
    if other is not None:
        ways["mlserver"] = way(json_request, other)
    answers = {name: ask(session).tobytes() for name, ask in ways.items()}
    if len(set(answers.values())) != 1:
        raise SystemExit("the server's predictions differ from LightGBM's own")
    alone = measure({name: functools.partial(ask, session) for name, ask in ways.items()}, seconds)
    found = {(name, 1): (taken, 1 / float(np.median(taken))) for name, taken in alone.items()}
    if models == 1:
        crowd = measure_crowd(ways, CLIENTS, seconds)
        found |= {(name, CLIENTS): figures for name, figures in crowd.items()}
    return [
        Timing(
            way=name,
            models=models,
            clients=clients,
            rows=rows,
            p50_ms=float(np.median(durations)) * 1e3,
            p99_ms=float(np.quantile(durations, 0.99)) * 1e3,
            rows_per_second=rows * rate,
            share_of_bare=rate / found["bare", clients][1],
        )
        for (name, clients), (durations, rate) in found.items()
    ]


def memory_mib(pid: int) -> float:
    """Resident memory of a process; NaN where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Prints a table, and writes the figures where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--seconds", type=float, default=5.0, help="per batch size")
    arguments = parser.parse_args()
    figures = run(arguments.seconds)
    print(
        f"{'way':10}{'models':>7}{'clients':>8}{'rows':>6}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'rows/s':>11}{'of bare':>9}"
    )
    for timing in figures["timings"]:
        print(
            f"{timing['way']:10}{timing['models']:7}{timing['clients']:8}{timing['rows']:6}"
            f"{timing['p50_ms']:9.2f}{timing['p99_ms']:9.2f}{timing['rows_per_second']:11.0f}"
            f"{timing['share_of_bare']:9.2f}"
        )
    for process in figures["processes"]:
        print(
            f"{process['models']} models: listening after {process['start_seconds']:.2f} s, all "
            f"answered {process['first_answers_seconds']:.2f} s later, "
            f"{process['memory_mib']:.0f} MiB"
        )
    machine = figures["machine"]
    print(
        f"{machine['cores']} cores; load {machine['load_before']:.1f} before, "
        f"{machine['load_after']:.1f} after"
    )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
