"""The probe: a clean process finds out what an artifact is worth, and may die of it."""

from pathlib import Path

import lightgbm as lgb

from ml_patterns.branching.probe import probe_artifacts
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
    results = probe_artifacts(shop.root, [good, lying, silent, narrow, broken, swapped, gone, good])
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


def test_a_model_that_kills_the_process_costs_itself_alone(shop: Shop, honest: Model) -> None:
    """LightGBM aborts its process when the sizes of the trees in a model's text are wrong."""
    before, after = stored(shop, honest), stored(shop, honest, seed=8)
    text = honest[0].model_to_string().replace("leaf_value=", "leaf_value= ")
    killer = shop.store.put(text, honest[1])
    results = probe_artifacts(shop.root, [before, killer, after])
    assert [results[a].reproduces for a in (before, killer, after)] == [True, None, True]
    assert results[killer].problem == "the process that loaded the model died (exit code -6)"
