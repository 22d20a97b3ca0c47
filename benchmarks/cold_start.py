"""How long a fresh process takes before it does anything: `python -m benchmarks.cold_start`.

Belongs here: `ml-patterns --help` and the definitions, beside `import dagster` alone. Does not:
which libraries they load, which is no question of seconds (`ml_patterns_tests/test_cold_start.py`).

Every round starts each of them once, in turn, so that a busy moment hits all alike.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
BASELINE = "import dagster"
STARTS = {
    BASELINE: ["-c", "import dagster"],
    "import ml_patterns.definitions": ["-c", "import ml_patterns.definitions"],
    "load the definitions": ["-c", "from ml_patterns.definitions import defs; defs()"],
    "ml-patterns --help": ["-m", "ml_patterns", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Wall-clock time of one fresh interpreter."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main() -> None:
    """Prints medians, and their ratio to the baseline of the same run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for arguments in STARTS.values():  # once in vain: bytecode and disk cache
        seconds(arguments)
    taken = {name: list[float]() for name in STARTS}
    for _ in range(rounds):
        for name, arguments in STARTS.items():
            taken[name].append(seconds(arguments))
    baseline = statistics.median(taken[BASELINE])
    print(f"{rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, all_taken in taken.items():
        median = statistics.median(all_taken)
        print(f"{name:<32} {median:6.2f} s  {median / baseline:5.2f} x")


if __name__ == "__main__":
    main()
