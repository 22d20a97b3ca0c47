"""Whether an artifact works in a process that knows nothing of its training.

Belongs here: loading artifacts in a clean process, reproducing their golden predictions there, and
what it means if that process dies. Does not: what follows for the version (`decide.py`).

`python -m ml_patterns.branching.probe ROOT` is that process: an address per line on standard input,
a JSON line per artifact on standard output.
"""

import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from ml_patterns.branching.evidence import ProbeResult
from ml_patterns.errors import ArtifactError
from ml_patterns.storage.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    import lightgbm as lgb

_TOLERANCE = 1e-9
_REPETITIONS = 5
_PATIENCE = timedelta(seconds=70)
"""For an artifact, the start of the process included."""


class ProbeProcess:
    """A clean process that probes one artifact after the other; ends with its `with` block.

    An artifact that kills it or hangs in it costs itself alone: the next is probed in a new one.

    Args:
        artifacts_root: folder or URL of the artifact store.
        patience: how long one artifact may take.
    """

    def __init__(self, artifacts_root: str, patience: timedelta = _PATIENCE) -> None:
        self._root = artifacts_root
        self.patience = patience
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def start(self) -> subprocess.Popen[str]:
        """Starts the process, unless it runs, so that it is ready when the first artifact is."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ml_patterns.branching.probe", self._root],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process

    def probe(self, address: str) -> ProbeResult:
        """What the process says about an artifact.

        Returns:
            A process that dies or hangs says nothing about the model: `reproduces` is None, cannot
            judge.
        """
        process, overdue = self.start(), threading.Event()

        def end_it() -> None:
            overdue.set()
            process.kill()

        clock = threading.Timer(self.patience.total_seconds(), end_it)
        clock.start()
        try:
            answer = _ask(process, address)
        finally:
            clock.cancel()
            clock.join()  # it must not end the process while that looks at the next artifact
        if answer.endswith("\n") and not overdue.is_set():  # a killed process's may be half a line
            return ProbeResult(**json.loads(answer))
        code = self._end()
        limit = f"did not finish within {self.patience.total_seconds():g} s"
        ending = limit if overdue.is_set() else f"died (exit code {code})"
        return ProbeResult(None, f"the process that loaded the model {ending}")

    def _end(self) -> int | None:
        """Ends the process and returns its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        # What it was never able to read is not worth a word.
        with suppress(BrokenPipeError), process:
            process.kill()
        return process.returncode


def _ask(process: subprocess.Popen[str], address: str) -> str:
    """The process's answer, a line; empty if it died."""
    asked, answers = process.stdin, process.stdout
    if asked is None or answers is None:  # pragma: no cover - `start` opens both
        raise AssertionError("the process has no pipes")
    with suppress(BrokenPipeError):
        asked.write(f"{address}\n")
        asked.flush()
    return answers.readline()


def probe(store: ArtifactStore, address: str) -> ProbeResult:
    """Loads an artifact and reproduces its golden predictions, in this process."""
    import lightgbm as lgb

    try:
        artifact = store.get(address)
        booster = lgb.Booster(model_str=artifact.model_text)
        return _reproduce(artifact, booster)
    except (ArtifactError, ValueError, lgb.basic.LightGBMError) as error:
        return ProbeResult(False, f"the artifact is unusable: {str(error).splitlines()[0]}")


def _reproduce(artifact: Artifact, booster: "lgb.Booster") -> ProbeResult:
    golden, features = artifact.card.golden, len(artifact.card.features)
    if booster.num_feature() != features:
        return ProbeResult(
            False,
            f"the model takes {booster.num_feature()} features, its card names {features}",
        )
    if not golden.rows:
        return ProbeResult(None, "the model card holds no golden rows to reproduce")
    matrix = np.array(golden.rows, dtype=np.float64)
    seconds = []
    for _ in range(_REPETITIONS):
        start = time.perf_counter()
        predicted = np.asarray(booster.predict(matrix, num_threads=1))
        seconds.append(time.perf_counter() - start)
    expected = np.array(golden.predictions)
    same = predicted.shape == expected.shape and np.allclose(
        predicted, expected, rtol=0, atol=_TOLERANCE
    )
    return ProbeResult(
        reproduces=bool(same),
        problem="" if same else "the model does not reproduce its golden predictions",
        milliseconds=statistics.median(seconds) * 1000,
        size_bytes=len(artifact.model_text.encode())
        + len(artifact.card.model_dump_json().encode()),
    )


def main() -> None:
    """The clean process. It ends at once when nobody is left to ask it, even amid an artifact."""
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line.strip())
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    store = ArtifactStore(sys.argv[1])
    # LightGBM writes to standard output; the answers go where it cannot reach.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        while True:
            result = probe(store, asked.get())
            answers.write(json.dumps(result.__dict__) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
