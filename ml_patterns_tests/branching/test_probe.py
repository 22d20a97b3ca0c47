"""The probe: a clean process finds out what an artifact is worth, and may die of it."""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import lightgbm as lgb

from ml_patterns.branching.probe import ProbeProcess
from ml_patterns.storage.card import Golden, ModelCard
from ml_patterns_tests.branching.conftest import Shop

Model = tuple[lgb.Booster, ModelCard]


def stored(shop: Shop, model: Model, **changes: object) -> str:
    booster, card = model
    return shop.store.put(booster.model_to_string(), card.model_copy(update=changes))


def file_of(shop: Shop, address: str, name: str) -> Path:
    return Path(shop.root) / address[:2] / address / name


def test_a_batch_is_judged_artifact_by_artifact(shop: Shop, honest: Model) -> None:
    golden = honest[1].golden
    off = Golden(rows=golden.rows, predictions=tuple(p + 1e-6 for p in golden.predictions))
    good, lying = stored(shop, honest), stored(shop, honest, golden=off)
    silent = stored(shop, honest, golden=Golden(rows=(), predictions=()))
    narrow = stored(shop, honest, features=honest[1].features[:1])
    broken = shop.store.put("tree\nthis is no model", honest[1])
    swapped, gone = stored(shop, honest, seed=8), stored(shop, honest, seed=9)
    file_of(shop, swapped, "model.txt").write_text("another model")
    file_of(shop, gone, "model.txt").unlink()
    with ProbeProcess(shop.root) as process:
        results = {
            address: process.probe(address)
            for address in (good, lying, silent, narrow, broken, swapped, gone, good)
        }
    assert {address: result.reproduces for address, result in results.items()} == {
        good: True,
        lying: False,
        silent: None,
        narrow: False,
        broken: False,
        swapped: False,
        gone: False,
    }
    assert results[good].milliseconds is not None
    assert results[good].size_bytes is not None
    assert results[good].size_bytes > 1000
    assert "was altered" in results[swapped].problem
    assert "is missing" in results[gone].problem
    assert "takes 2 features, its card names 1" in results[narrow].problem


def never_read(shop: Shop, model: Model, **changes: object) -> str:
    """An artifact whose reader waits for ever: its model is a pipe that nobody writes to."""
    address = stored(shop, model, **changes)
    file_of(shop, address, "model.txt").unlink()
    os.mkfifo(file_of(shop, address, "model.txt"))
    return address


def test_a_model_that_kills_the_process_costs_itself_alone(shop: Shop, honest: Model) -> None:
    """LightGBM aborts its process when the sizes of the trees in a model's text are wrong."""
    before, after = stored(shop, honest), stored(shop, honest, seed=8)
    text = honest[0].model_to_string().replace("leaf_value=", "leaf_value= ")
    killer = shop.store.put(text, honest[1])
    with ProbeProcess(shop.root) as process:
        results = {address: process.probe(address) for address in (before, killer, after)}
    assert [results[a].reproduces for a in (before, killer, after)] == [True, None, True]
    assert results[killer].problem == "the process that loaded the model died (exit code -6)"


def test_one_process_probes_them_all(shop: Shop, honest: Model) -> None:
    """Starting one costs a second of processor time."""
    with ProbeProcess(shop.root) as process:
        first = process.start().pid
        for seed in range(3):
            assert process.probe(stored(shop, honest, seed=seed)).reproduces is True
        assert process.start().pid == first


def test_an_artifact_that_hangs_costs_itself_alone(shop: Shop, honest: Model) -> None:
    """The next one is probed in a new process."""
    with ProbeProcess(shop.root, patience=timedelta(seconds=3)) as process:
        hung = process.start()
        result = process.probe(never_read(shop, honest))
        process.patience = timedelta(minutes=2)
        after = process.probe(stored(shop, honest, seed=8))
    assert result.reproduces is None
    assert result.problem == "the process that loaded the model did not finish within 3 s"
    assert hung.returncode == -signal.SIGKILL
    assert after.reproduces is True


def test_the_process_does_not_outlive_its_run(shop: Shop) -> None:
    """However the run ends."""
    with ProbeProcess(shop.root) as process:
        running = process.start()
    assert running.returncode is not None
    with suppress(ArithmeticError), ProbeProcess(shop.root) as process:
        running = process.start()
        raise ArithmeticError
    assert running.returncode is not None


ASKS = """
import sys
from ml_patterns.branching.probe import ProbeProcess
with ProbeProcess(sys.argv[1]) as process:
    process.probe(sys.argv[2])
"""


def test_a_killed_run_takes_its_busy_probe_along(shop: Shop, honest: Model) -> None:
    """An orphan would wait for its artifact for ever, and nobody would end it."""
    address = never_read(shop, honest)
    with (
        subprocess.Popen([sys.executable, "-c", ASKS, shop.root, address]) as run,
        file_of(shop, address, "model.txt").open("wb") as pipe,  # waits for its reader
    ):
        readers = select.poll()
        readers.register(pipe, select.POLLERR)
        run.kill()
        assert readers.poll(60_000), "the probe reads on"
