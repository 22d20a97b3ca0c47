"""One region's failure costs no other region its model."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd

from ml_patterns.errors import UserError
from ml_patterns.fan_out.pool import Failed, Job, Member, Outcome, Trained, train_job, train_regions
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns_tests.fan_out.conftest import COLUMNS, end_of, made_up

SETTINGS = TrainingSettings(max_rounds=10)
PATIENCE = timedelta(minutes=1)


def job_for(folder: Path, *regions: str, kind: str = "own", rows: int = 300) -> Job:
    """A job on made-up rows."""
    frame = pd.concat([made_up(region, rows) for region in regions], ignore_index=True)
    path = folder / f"{'-'.join(regions)}.feather"
    frame.to_feather(path)
    return Job(
        kind=kind,
        members=tuple(Member(region, f"because of {region}") for region in regions),
        path=str(path),
        columns=COLUMNS,
        settings=SETTINGS,
        pipeline="p",
        label_delay=timedelta(hours=1),
        watermark=end_of(frame),
        artifacts=str(folder / "artifacts"),
    )


class TwoArgumentsError(Exception):
    """An exception like many: pickled, it cannot be rebuilt."""

    def __init__(self, place: str, trouble: str) -> None:
        super().__init__(f"{place}: {trouble}")


def misbehave(job: Job) -> tuple[Trained, ...]:
    """Trains, unless the region's name asks for something else."""
    match job.regions[0]:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "killed_once":
            marker = Path(job.artifacts).with_suffix(".killed")
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "endless":
            while True:
                time.sleep(60)
        case "raises":
            raise ArithmeticError("no such luck")
        case "raises_two":
            raise TwoArgumentsError("store", "no such bucket")
        case "store_timeout":
            raise TimeoutError("the store did not answer")
        case "mistaken":
            raise UserError("the label is a number; make it a boolean")
    return train_job(job)


def outcomes(jobs: Iterable[Job], **options: object) -> dict[str, Outcome]:
    """What became of each region."""
    options = {"workers": 2, "timeout": PATIENCE, **options}
    found = {outcome.region: outcome for outcome in train_regions(jobs, **options)}
    assert not multiprocessing.active_children(), "no worker outlives the batch"
    return found


def test_failures_are_named_and_cost_no_other_region_its_model(tmp_path: Path) -> None:
    """An exception, a killed worker and an endless one, amid healthy regions."""
    regions = ["a", "killed", "b", "endless", "c", "raises", "d", "killed_once"]
    jobs = [job_for(tmp_path, region) for region in regions]

    found = outcomes(jobs, timeout=timedelta(seconds=5), work=misbehave)

    failed = {region: found[region] for region in ("killed", "endless", "raises")}
    assert all(isinstance(outcome, Failed) for outcome in failed.values())
    assert "killed by signal 9 twice" in failed["killed"].reason
    assert "training.region_timeout 5s" in failed["endless"].reason
    assert "ArithmeticError: no such luck" in failed["raises"].reason
    store = ArtifactStore(str(tmp_path / "artifacts"))
    for region in set(regions) - set(failed):
        outcome = found[region]
        assert isinstance(outcome, Trained)
        assert store.get(outcome.artifact).card.region == region


RAISED = {
    "raises": "training raised ArithmeticError: no such luck",
    "raises_two": "training raised TwoArgumentsError: store: no such bucket",
    "store_timeout": "training raised TimeoutError: the store did not answer",
    "mistaken": "the label is a number; make it a boolean",
}


def test_an_exception_of_any_kind_is_named_and_costs_its_own_region_alone(tmp_path: Path) -> None:
    """One that cannot be pickled back broke the pool, and with it every other region."""
    found = outcomes([job_for(tmp_path, region) for region in [*RAISED, "a", "b"]], work=misbehave)
    assert {region: found[region].reason for region in RAISED} == RAISED
    assert isinstance(found["a"], Trained)
    assert isinstance(found["b"], Trained)


def test_a_pooled_model_that_fails_fails_for_each_of_its_regions(tmp_path: Path) -> None:
    """The regions that wait for it are all named."""
    found = outcomes([job_for(tmp_path, "raises_two", "a", kind="pooled")], work=misbehave)
    reasons = {region: outcome.reason for region, outcome in found.items()}
    assert reasons == dict.fromkeys(("raises_two", "a"), RAISED["raises_two"])


def test_the_same_artifacts_whatever_the_number_of_workers_and_the_order(tmp_path: Path) -> None:
    """Addresses are hashes of model text and card: equal addresses are equal bytes."""
    jobs = [job_for(tmp_path, f"region {number}", rows=300 + number) for number in range(5)]

    def addresses(found: dict[str, Outcome]) -> dict[str, str]:
        return {region: outcome.artifact for region, outcome in found.items()}

    alone = addresses(outcomes(jobs, workers=1))
    together = addresses(outcomes(jobs[::-1], workers=2))

    assert len(set(alone.values())) == 5
    assert alone == together


def test_a_pooled_model_serves_each_member_with_a_card_of_its_own(tmp_path: Path) -> None:
    """Trained once; each region's card has its reason and its own test slice."""
    job = job_for(tmp_path, "big", "small", kind="pooled")

    found = outcomes([job])

    store = ArtifactStore(str(tmp_path / "artifacts"))
    artifacts = {region: store.get(outcome.artifact) for region, outcome in found.items()}
    assert artifacts["big"].model_text == artifacts["small"].model_text
    for region, artifact in artifacts.items():
        card = artifact.card
        assert (card.region, card.kind) == (region, "pooled")
        assert card.reason == f"because of {region}"
        assert card.features[-1].categories == ("big", "small")
        rows = made_up(region, 300)
        start = card.test.start.replace(tzinfo=None)
        assert card.test.rows == (rows["event_time"] >= start).sum()
    assert artifacts["big"].card.training_key != artifacts["small"].card.training_key


def test_leaving_early_ends_the_workers(tmp_path: Path) -> None:
    """A cancelled run stops iterating; nothing goes on behind its back."""
    jobs = [job_for(tmp_path, "a"), job_for(tmp_path, "endless")]
    iteration = train_regions(jobs, workers=2, timeout=timedelta(hours=1), work=misbehave)
    assert isinstance(next(iteration), Trained)
    iteration.close()
    assert not multiprocessing.active_children()


def test_workers_start_before_the_last_job_is_prepared(tmp_path: Path) -> None:
    """Preparing a hundred regions takes seconds, in which a core would be idle."""
    artifacts = tmp_path / "artifacts"

    def jobs() -> Iterator[Job]:
        yield job_for(tmp_path, "a")
        deadline = time.monotonic() + 60
        while not list(artifacts.glob("*/*/card.json")):
            assert time.monotonic() < deadline, "nobody trains the first job"
            time.sleep(0.01)
        yield job_for(tmp_path, "b")

    found = outcomes(jobs(), workers=1)

    assert [type(outcome) for outcome in found.values()] == [Trained, Trained]


class EndsItsReader:
    """Unpickled in a worker, it ends the worker before the task is acknowledged."""

    def __call__(self, job: Job) -> tuple[Trained, ...]:
        raise AssertionError

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (3,)


def test_workers_that_cannot_start_are_a_sentence_not_an_endless_loop(tmp_path: Path) -> None:
    """Before it acknowledges its task, a dying worker breaks pebble's pool altogether."""
    found = outcomes([job_for(tmp_path, "a"), job_for(tmp_path, "b")], work=EndsItsReader())
    assert all("no worker stayed alive" in outcome.reason for outcome in found.values())
    assert set(found) == {"a", "b"}


def never_ends(job: Job) -> tuple[Trained, ...]:
    """Says who it is, and goes on for ever."""
    print(os.getpid(), flush=True)
    while True:
        time.sleep(60)


PARENT = """
import sys
from pathlib import Path
from ml_patterns_tests.fan_out import test_pool as t
if __name__ == "__main__":
    jobs = [t.job_for(Path(sys.argv[1]), "a")]
    list(t.train_regions(jobs, workers=1, timeout=t.timedelta(hours=1), work=t.never_ends))
"""


def test_a_killed_run_takes_its_busy_workers_along(tmp_path: Path) -> None:
    """An orphan would train on for nobody, and nobody would end it: its clock was the parent's."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
        try:
            # The worker holds the pipe, too: its end is the end of the worker.
            parent.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            raise
