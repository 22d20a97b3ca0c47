"""MLServer with its LightGBM runtime as a process: the server that ours is compared with.

Belongs here: starting and ending it. Does not: asking it (`benchmarks/serving.py`, the tests).

It pins versions that do not go with ours, so it lives in an environment of its own:
`python -m venv mlserver && mlserver/bin/pip install mlserver mlserver-lightgbm`, and
ML_PATTERNS_MLSERVER names the program, `mlserver/bin/mlserver`.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import lightgbm
import requests

VARIABLE = "ML_PATTERNS_MLSERVER"
_PATIENCE = 60.0


def program() -> str | None:
    """MLServer's program, where it is installed."""
    return os.environ.get(VARIABLE) or None


@contextlib.contextmanager
def mlserver(folder: Path, name: str, booster: lightgbm.Booster) -> Iterator[str]:
    """The URL of an MLServer that serves one model as version 1, until the block ends.

    Args:
        folder: empty or new; model and settings are written into it.
        name: of the model, in the protocol.

    Raises:
        RuntimeError: it is not installed, or was not ready within a minute.
    """
    found = program()
    if found is None:
        raise RuntimeError(f"{VARIABLE} does not name MLServer's program")
    folder.mkdir(exist_ok=True)
    http, grpc, metrics = _free_ports(3)
    booster.save_model(folder / "model.bst")
    model = {
        "name": name,
        "implementation": "mlserver_lightgbm.LightGBMModel",
        "parameters": {"uri": "./model.bst", "version": "1"},
    }
    server = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "settings.json").write_text(json.dumps(server))
    log = folder / "mlserver.log"
    with log.open("w") as output:
        process = subprocess.Popen([found, "start", str(folder)], stdout=output, stderr=output)
    url = f"http://127.0.0.1:{http}"
    try:
        _await(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait()


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{url}/v2/health/ready", timeout=5).ok:
                return
        time.sleep(0.1)
    raise RuntimeError(f"MLServer did not become ready:\n{log.read_text()}")


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [taken.getsockname()[1] for taken in sockets]
