"""Gate mutation tests: models that are sabotaged on purpose are all stopped.

Every test here is one sabotage; `conftest.py` prints how many were stopped.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from ml_patterns.branching.deploy import deploy
from ml_patterns.branching.evidence import ProbeResult
from ml_patterns.branching.gate import Judgement
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.probe import ProbeProcess
from ml_patterns.errors import StaleDecisionError
from ml_patterns.registry.records import Verdict
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.card import Feature, ModelCard
from ml_patterns_tests.branching.conftest import START, Shop, card, events, fitted

Model = tuple[lgb.Booster, ModelCard]


def gated(shop: Shop, booster: lgb.Booster, model_card: ModelCard, test: pd.DataFrame) -> Judgement:
    """Probes and judges as the pipeline does."""
    address = shop.store.put(booster.model_to_string(), model_card)
    with ProbeProcess(shop.root) as process:
        probe = process.probe(address)
    return shop.judge(booster, model_card, test, probe=probe)


def shuffled_labels(train: pd.DataFrame, test: pd.DataFrame) -> tuple[lgb.Booster, ModelCard]:
    labels = train["label"].sample(frac=1, random_state=5).to_numpy()
    booster = fitted(train, labels=labels)
    return booster, card(train, booster)


def constant(train: pd.DataFrame, test: pd.DataFrame) -> tuple[lgb.Booster, ModelCard]:
    booster = fitted(train.assign(distance=1.0, carrier="ant"))
    return booster, card(train, booster)


def inverted(train: pd.DataFrame, test: pd.DataFrame) -> tuple[lgb.Booster, ModelCard]:
    booster = fitted(train, labels=~train["label"])
    return booster, card(train, booster)


def swapped_categories(train: pd.DataFrame, test: pd.DataFrame) -> tuple[lgb.Booster, ModelCard]:
    """The card says that ant is bee: the model was trained on another encoding."""
    booster = fitted(train)
    features = (
        Feature(name="distance", type="categorical", categories=("ant",)),
        Feature(name="carrier", type="categorical", categories=("bee", "ant", "cat")),
    )
    return booster, card(train, booster, features=features)


def wrong_schema(train: pd.DataFrame, test: pd.DataFrame) -> tuple[lgb.Booster, ModelCard]:
    booster = fitted(train)
    features = (Feature(name="not_there", type="numeric"), card(train, booster).features[1])
    return booster, card(train, booster, features=features)


SABOTAGES = (shuffled_labels, constant, inverted, swapped_categories, wrong_schema)


@pytest.fixture(autouse=True)
def counted(record_property: Callable[[str, object], None]) -> None:
    """A failing test is a model that got through."""
    record_property("sabotage", True)


@pytest.fixture(scope="module")
def sabotaged(
    tmp_path_factory: pytest.TempPathFactory, train_frame: pd.DataFrame, test_frame: pd.DataFrame
) -> dict[str, tuple[lgb.Booster, ModelCard, ProbeResult]]:
    """The saboteurs' models, probed as a batch."""
    root = str(tmp_path_factory.mktemp("batch"))
    store = ArtifactStore(root)
    models = {make.__name__: make(train_frame, test_frame) for make in SABOTAGES}
    addresses = {
        name: store.put(booster.model_to_string(), model_card)
        for name, (booster, model_card) in models.items()
    }
    with ProbeProcess(root) as process:
        return {name: (*model, process.probe(addresses[name])) for name, model in models.items()}


@pytest.mark.parametrize("sabotage", [make.__name__ for make in SABOTAGES])
def test_a_sabotaged_model_is_stopped(
    sabotage: str,
    shop: Shop,
    sabotaged: dict[str, tuple[lgb.Booster, ModelCard, ProbeResult]],
    test_frame: pd.DataFrame,
) -> None:
    booster, model_card, probe = sabotaged[sabotage]
    judgement = shop.judge(booster, model_card, test_frame, probe=probe)
    assert judgement.verdict is not Verdict.DEPLOY
    assert deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="r").champion is None


@pytest.mark.parametrize("sabotage", [shuffled_labels, constant])
def test_a_model_that_knows_nothing_is_stopped_where_one_class_is_rare(
    sabotage: Callable[..., tuple[lgb.Booster, ModelCard]],
    shop: Shop,
) -> None:
    """With 3 % positives, knowing nothing is 97 % accurate."""

    def rare(seed: int, start: Any = START) -> pd.DataFrame:
        frame = events(4000, seed=seed, start=start)
        keep = ~frame["label"] | (np.arange(4000) % 33 == 0)
        return frame[keep.to_numpy(dtype=bool)].reset_index(drop=True)

    train, test = rare(1), rare(2, START + timedelta(days=7))
    judgement = gated(shop, *sabotage(train, test), test)
    accuracy = judgement.evidence.metrics["accuracy"]
    assert accuracy is not None
    assert accuracy > 0.95
    assert judgement.verdict is not Verdict.DEPLOY


def test_a_leak_is_stopped(shop: Shop, train_frame: pd.DataFrame, test_frame: pd.DataFrame) -> None:
    """A column that is written when the label is known, and agrees with it."""
    train, test = (
        frame.assign(distance=frame["label"].astype(float) * 2 + frame["distance"].clip(-0.5, 0.5))
        for frame in (train_frame, test_frame)
    )
    booster = fitted(train)
    judgement = gated(shop, booster, card(train, booster), test)
    assert judgement.verdict is Verdict.REVIEW
    assert "feature distance alone separates the classes" in judgement.sentence


def test_one_bad_slice_is_stopped(shop: Shop) -> None:
    """Right in 95 % of all rows, and wrong about nearly every parcel of a small carrier."""

    def with_a_small_carrier(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(carrier=frame["carrier"].where(np.arange(len(frame)) % 33 > 0, "cat"))

    train = with_a_small_carrier(events(4000, seed=1, noise=0.002))
    test = with_a_small_carrier(events(2000, seed=2, noise=0.002, start=START + timedelta(days=7)))
    booster = fitted(train, labels=train["label"] ^ (train["carrier"] == "cat"))
    judgement = gated(shop, booster, card(train, booster), test)
    accuracy = judgement.evidence.metrics["accuracy"]
    assert accuracy is not None
    assert accuracy > 0.95
    assert judgement.verdict is Verdict.REVIEW
    assert "in slice carrier=cat the accuracy is" in judgement.sentence


def test_predictions_that_are_not_numbers_are_stopped(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    """A model text whose leaves are NaN: it loads, and it answers."""
    lines = [
        "leaf_value=" + " ".join(["nan"] * len(line.split()))
        if line.startswith("leaf_value=")
        else line
        for line in honest[0].model_to_string().splitlines()
        if not line.startswith("tree_sizes=")  # with it, LightGBM reads by offsets and aborts
    ]
    judgement = shop.judge("\n".join(lines), honest[1], test_frame)
    assert np.isnan(judgement.evidence.probabilities).all()
    assert judgement.verdict is Verdict.REVIEW


def test_a_file_swapped_after_the_gate_is_not_deployed(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    judgement = gated(shop, *honest, test_frame)
    assert judgement.verdict is Verdict.DEPLOY
    address = shop.registry.version("shop", "eu", 1).artifact
    other = fitted(events(300, seed=9))
    (Path(shop.root) / address[:2] / address / "model.txt").write_text(other.model_to_string())
    with pytest.raises(StaleDecisionError, match="was altered"):
        deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run")
    assert shop.registry.champion("shop", "eu") is None


def test_a_stale_artifact_is_not_judged_in_the_name_of_a_newer_version(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    """A decision about version 1 promotes neither version 2 nor, after it, version 1."""
    shop.judge(*honest, test_frame)
    frame = events(800, seed=5)
    booster = fitted(frame)
    shop.judge(booster, card(frame, booster), test_frame)
    old = shop.registry.latest_decision("shop", "eu", 1)
    newest = shop.registry.version("shop", "eu", 2)
    assert old is not None
    with pytest.raises(StaleDecisionError, match="not its newest"):
        shop.registry.promote(
            newest, expected_generation=0, decision=old, actor="ada", reason="mistake"
        )
    assert deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run").promoted
    with pytest.raises(StaleDecisionError, match="judged against champion generation 0"):
        shop.registry.promote(
            shop.registry.version("shop", "eu", 1),
            expected_generation=1,
            decision=old,
            actor="ada",
            reason="late",
        )


def test_an_unreadable_model_is_not_loaded_into_the_gate(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    died = ProbeResult(None, "the process that loaded the model died (exit code -11)")
    judgement = shop.judge(*honest, test_frame, probe=died)
    assert judgement.verdict is Verdict.REVIEW
    assert np.isnan(judgement.evidence.probabilities).all()
    # Once a probe succeeds, the question is asked again.
    assert shop.judge(*honest, test_frame).verdict is Verdict.DEPLOY
