"""Which version of a region deploys."""

import lightgbm as lgb
import pandas as pd
import pytest

from ml_patterns.branching.deploy import deploy, deployable
from ml_patterns.branching.gate import Judgement
from ml_patterns.branching.policy import Policy
from ml_patterns.registry.records import Verdict
from ml_patterns.registry.regions import add_regions, retire_region, revive_region
from ml_patterns.storage.card import ModelCard
from ml_patterns_tests.branching.conftest import Shop

Model = tuple[lgb.Booster, ModelCard]
REVIEWING = Policy(deploy_at=0.999, review_at=0.5)


def judged(shop: Shop, model: Model, number: int, test: pd.DataFrame, **kind: object) -> Judgement:
    """Judges the region's version of that number; another seed on the card makes another one."""
    booster, card = model
    judgement = shop.judge(booster, card.model_copy(update={"seed": number}), test, **kind)  # type: ignore[arg-type]
    assert judgement.decision.version == number
    return judgement


@pytest.mark.parametrize("newer", [Verdict.REVIEW, Verdict.REJECT])
def test_an_older_version_that_passed_and_never_served_deploys(
    shop: Shop, honest: Model, test_frame: pd.DataFrame, newer: Verdict
) -> None:
    """Training returned to it, because its data came back, and the newer one did not pass."""
    judged(shop, honest, 1, test_frame)
    few = test_frame.head(30)  # cannot be judged: review
    flipped = test_frame.assign(label=~test_frame["label"])
    other = judged(shop, honest, 2, few if newer is Verdict.REVIEW else flipped)
    assert other.verdict is newer
    back = judged(shop, honest, 1, test_frame)
    assert judged(shop, honest, 1, test_frame).decision == back.decision, "judged once"
    assert deployable(shop.registry, "shop", Policy()) == [back.decision]
    deployment = deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run")
    assert deployment.promoted
    assert deployment.version is not None
    assert deployment.version.number == 1
    assert deployable(shop.registry, "shop", Policy()) == []


def test_of_several_that_passed_the_one_judged_last_deploys(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    for number in (1, 2):
        judged(shop, honest, number, test_frame)
    (decision,) = deployable(shop.registry, "shop", Policy())
    assert decision.version == 2
    again = judged(shop, honest, 1, test_frame)
    current = shop.registry.current("shop", "eu")
    assert current is not None
    assert current.number == 1
    assert deployable(shop.registry, "shop", Policy()) == [again.decision]


def test_a_version_that_passed_against_an_earlier_champion_does_not_deploy(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    for number in (1, 2):
        judged(shop, honest, number, test_frame)
    assert deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run").promoted
    idle = deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run")
    assert (idle.promoted, shop.registry.generation("shop", "eu")) == (False, 1)


def test_a_version_whose_review_was_voided_is_asked_about_again(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    """A newer version voids the review; when training returns, somebody must be able to answer."""
    judged(shop, honest, 1, test_frame, policy=REVIEWING)
    judged(shop, honest, 2, test_frame, policy=REVIEWING)
    assert shop.registry.version("shop", "eu", 1).state == "voided"
    judged(shop, honest, 1, test_frame, policy=REVIEWING)
    (review,) = shop.registry.reviews("shop")
    assert review.version == 1


def test_a_retired_region_is_not_deployed_and_says_so(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    """A sentence, not a failure: other regions of the run deploy."""
    judged(shop, honest, 1, test_frame)
    engine = shop.registry.engine
    add_regions(engine, "shop", ["eu"])
    retire_region(engine, "shop", "eu", actor="ada", reason="closed")
    idle = deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run")
    assert (idle.champion, idle.sentence) == (
        None, "eu version 1 is not deployed: the region is retired",
    )  # fmt: skip
    revive_region(engine, "shop", "eu", actor="ada", reason="open again")
    assert deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run").promoted
    retire_region(engine, "shop", "eu", actor="ada", reason="closed")
    serving = deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run")
    assert serving.champion is not None
    assert serving.sentence == "eu version 1 already serves, as generation 1"
