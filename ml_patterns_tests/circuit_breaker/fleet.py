"""A process of a fleet: asks one server through the shared breaker, over and over.

`python -m ml_patterns_tests.circuit_breaker.fleet STATE_URL SERVER_URL LEASE` runs until its input
is closed. It prints what became of its calls, whenever that changes: `answered`, `failed` or
`refused` (the circuit let none through).

Sixteen processes on two busy cores wait long for one another's writes; none of them may become a
breaker of its own for that, as a request's does soon.
"""

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator

FAIL_MAX, RESET, CACHED = 5, 0.4, 0.05
PATIENCE_MS = 20_000


def main(state_url: str, server_url: str, lease: float) -> None:
    """Asks until standard input ends."""
    from ml_patterns.circuit_breaker.breaker import CircuitOpenError, SharedBreaker
    from ml_patterns.circuit_breaker.store import OperationalStore
    from ml_patterns.retry.classify import Outcome, classify
    from ml_patterns.retry.http import fetch, http_session
    from ml_patterns.storage.operational import engine_for

    breaker = SharedBreaker(
        "server",
        OperationalStore(engine_for(state_url), patience_ms=PATIENCE_MS),
        fail_max=FAIL_MAX,
        reset_timeout=RESET,
        lease=lease,
        cached_for=CACHED,
    )
    session = http_session()
    body = b'{"inputs": [{"shape": [1, 1], "data": [0.5]}]}'
    url = f"{server_url}/v2/models/p.eu/versions/1/infer"
    print("ready", flush=True)
    said = None
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        try:
            breaker.call(lambda: fetch(session, "POST", url, timeout=30, body=body))
            outcome = "answered"
        except CircuitOpenError:
            outcome = "refused"
        except Exception as error:
            if classify(error) is not Outcome.TRANSIENT:
                raise
            outcome = "failed"
        if outcome != said:
            print(outcome, flush=True)
            said = outcome


@contextlib.contextmanager
def running_fleet(
    state_url: str, server_url: str, processes: int, lease: float = 40.0
) -> Iterator[list["subprocess.Popen[str]"]]:
    """So many processes, all of them asking already."""
    command = [sys.executable, "-m", __name__, state_url, server_url, str(lease)]
    fleet = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        await_each(fleet, "ready")
        yield fleet
    finally:
        for process in fleet:
            process.kill()
        for process in fleet:
            process.communicate()


def await_each(fleet: list["subprocess.Popen[str]"], outcome: str) -> None:
    """Reads until every process has said this."""
    for process in fleet:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != f"{outcome}\n":
            assert line, "the process ended"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
