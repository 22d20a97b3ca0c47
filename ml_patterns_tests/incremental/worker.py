"""A process of its own that works on a shop, and may be killed on the way.

`python -m ml_patterns_tests.incremental.worker FOLDER catch-up N PARTITIONS` kills itself with
SIGKILL at the N-th boundary (0: never) of a run that commits so many partitions at once;
`… compete N PARTITIONS` delivers, catches up and recomputes N times.
"""

import os
import signal
import sys
from pathlib import Path

from ml_patterns.errors import ConflictError
from ml_patterns.incremental import build
from ml_patterns.incremental.plan import LAYERS
from ml_patterns_tests.incremental.conftest import HOUR, START, Shop, make_settings, row


def catch_up(folder: Path, deadly: int) -> None:
    """Prints each boundary when it is reached."""
    passed = 0

    def step(name: str) -> None:
        nonlocal passed
        passed += 1
        print(name, flush=True)
        if passed == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    Shop(folder, make_settings(folder), step=step).catch_up()


def compete(folder: Path, rounds: int) -> None:
    """Every process delivers an event for each of the same six hours and builds all of them."""
    shop = Shop(folder, make_settings(folder, grace="12h"))
    for turn in range(rounds):
        name = f"{os.getpid()}-{turn}"
        shop.land(f"{name}.parquet", [row(f"{name}-{hour}", hour) for hour in range(6)])
        shop.catch_up()
        chosen = [START + hour * HOUR for hour in range(turn % 3, 6)]
        with shop.connect() as connection:
            for layer in LAYERS:
                try:
                    list(build.build(connection, shop.settings, layer, chosen, shop.clock))
                except ConflictError:
                    print("somebody else won", flush=True)


if __name__ == "__main__":
    build.PARTITIONS_AT_ONCE = int(sys.argv[4])
    {"catch-up": catch_up, "compete": compete}[sys.argv[2]](Path(sys.argv[1]), int(sys.argv[3]))
