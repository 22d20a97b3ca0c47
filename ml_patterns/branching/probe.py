"""Whether an artifact works in a process that knows nothing of its training.

Belongs here: loading artifacts in one clean process per batch, reproducing their golden predictions
there, and what it means if that process dies. Does not: what follows for the version (`decide.py`).

`python -m ml_patterns.branching.probe` is that process: a JSON request on standard input, one JSON
line per artifact on standard output.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_patterns.branching.evidence import ProbeResult
from ml_patterns.errors import ArtifactError
from ml_patterns.storage.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    import lightgbm as lgb

_TOLERANCE = 1e-9
_REPETITIONS = 5
_START = timedelta(seconds=60)
_PER_ARTIFACT = timedelta(seconds=10)


def probe_artifacts(artifacts_root: str, addresses: Sequence[str]) -> dict[str, ProbeResult]:
    """Probes a batch in one clean process; an artifact that kills it costs itself alone.

    Args:
        artifacts_root: folder or URL of the artifact store.
        addresses: the artifacts; duplicates are probed once.

    Returns:
        A result for every address. A process that dies or hangs says nothing about the model, so
        its `reproduces` is None: cannot judge. The others are then probed in a new process.
    """
    results: dict[str, ProbeResult] = {}
    waiting = list(dict.fromkeys(addresses))
    while waiting:
        found, ending = _run(artifacts_root, waiting)
        results.update(found)
        waiting = [address for address in waiting if address not in found]
        if waiting:
            culprit = waiting.pop(0)
            results[culprit] = ProbeResult(None, f"the process that loaded the model {ending}")
    return results


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


def _run(root: str, addresses: Sequence[str]) -> tuple[dict[str, ProbeResult], str]:
    """What one process found before it ended, and how it ended."""
    limit = _START + _PER_ARTIFACT * len(addresses)
    request = json.dumps({"root": root, "addresses": list(addresses)})
    process = subprocess.Popen(
        [sys.executable, "-m", "ml_patterns.branching.probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        output, _ = process.communicate(request, timeout=limit.total_seconds())
        ending = f"died (exit code {process.returncode})"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        ending = f"did not finish within {limit.total_seconds():g} s"
    return dict(_complete_lines(output)), ending


def _complete_lines(output: str) -> Iterator[tuple[str, ProbeResult]]:
    for line in output.splitlines(keepends=True):
        if line.endswith("\n"):  # the last line of a killed process may be half
            document: dict[str, Any] = json.loads(line)
            yield document.pop("address"), ProbeResult(**document)


def main() -> None:
    """The clean process."""
    # LightGBM writes to standard output; the answers go where it cannot reach.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        request = json.load(sys.stdin)
        store = ArtifactStore(request["root"])
        for address in request["addresses"]:
            result = probe(store, address)
            answers.write(json.dumps({"address": address, **result.__dict__}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
