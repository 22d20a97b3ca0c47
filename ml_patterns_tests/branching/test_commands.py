"""Reviews, rollback, replay and what-if, as a person uses them."""

import lightgbm as lgb
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_patterns.branching.commands import (
    approve,
    reject,
    replay_decisions,
    review_case,
    rollback,
    what_if,
)
from ml_patterns.branching.deploy import deploy
from ml_patterns.branching.gate import Judgement
from ml_patterns.branching.policy import Policy
from ml_patterns.errors import SettingsError, StaleDecisionError, UserError
from ml_patterns.registry.records import Verdict
from ml_patterns.storage.card import ModelCard
from ml_patterns_tests.branching.conftest import Shop, card, events, fitted

Model = tuple[lgb.Booster, ModelCard]
REVIEWING = Policy(deploy_at=0.999, review_at=0.5)


@pytest.fixture
def reviewed(shop: Shop, honest: Model, test_frame: pd.DataFrame) -> Judgement:
    return shop.judge(*honest, test_frame, policy=REVIEWING)


def test_a_reviewer_sees_every_condition(shop: Shop, reviewed: Judgement) -> None:
    (review,) = shop.registry.reviews("shop")
    case = review_case(shop.registry, review.id)
    assert case.decision.id == reviewed.decision.id
    assert case.outcome.findings == reviewed.outcome.findings


def test_an_approval_deploys_with_the_reviewers_reason(shop: Shop, reviewed: Judgement) -> None:
    (review,) = shop.registry.reviews("shop")
    assert deploy(shop.registry, shop.store, REVIEWING, "shop", "eu", actor="run").champion is None
    approve(shop.registry, review.id, reviewer="ada", reason="holiday", policies={})
    deployment = deploy(shop.registry, shop.store, REVIEWING, "shop", "eu", actor="run")
    assert deployment.promoted
    (generation,) = shop.registry.generations("shop")
    assert generation.reason == f"review {review.id} approved by ada: holiday"


def test_a_refusal_does_not_deploy(shop: Shop, reviewed: Judgement) -> None:
    (review,) = shop.registry.reviews("shop")
    reject(shop.registry, review.id, reviewer="ada", reason="too odd")
    deployment = deploy(shop.registry, shop.store, REVIEWING, "shop", "eu", actor="run")
    assert deployment.champion is None
    assert deployment.sentence.endswith(f"review {review.id} is rejected: too odd")


def test_an_approval_under_another_policy_is_void(shop: Shop, reviewed: Judgement) -> None:
    (review,) = shop.registry.reviews("shop")
    with pytest.raises(StaleDecisionError, match="the policy of the gate changed"):
        approve(shop.registry, review.id, reviewer="ada", reason="ok", policies={"shop": Policy()})
    assert shop.registry.review(review.id).state == "voided"


def test_new_test_rows_void_an_approval_that_was_not_deployed(
    shop: Shop, honest: Model, reviewed: Judgement, test_frame: pd.DataFrame
) -> None:
    (review,) = shop.registry.reviews("shop")
    approve(shop.registry, review.id, reviewer="ada", reason="ok")
    shop.judge(*honest, test_frame.head(400), policy=REVIEWING)
    voided = shop.registry.review(review.id)
    assert voided.state == "voided"
    assert voided.reason is not None
    assert "the rows of the test slice changed" in voided.reason
    assert deploy(shop.registry, shop.store, REVIEWING, "shop", "eu", actor="r").champion is None


def test_what_was_rolled_back_goes_to_a_human(shop: Shop, test_frame: pd.DataFrame) -> None:
    """Judging the same model again must not undo a person's rollback."""
    for seed in (1, 5):
        frame = events(800, seed=seed)
        booster = fitted(frame)
        second = (booster, card(frame, booster))
        shop.judge(*second, test_frame)
        assert deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run").promoted
    (restored,) = rollback(shop.registry, "shop", "eu", actor="ada", reason="incident 7")
    assert restored.version == 1
    idle = deploy(shop.registry, shop.store, Policy(), "shop", "eu", actor="run")
    assert (idle.champion, "was rolled back: incident 7" in idle.sentence) == (None, True)
    again = shop.judge(*second, test_frame)
    assert again.verdict is Verdict.REVIEW
    assert "taken out of service before: incident 7 (ada)" in again.sentence


def test_a_generation_cannot_be_named_for_all_regions(shop: Shop) -> None:
    with pytest.raises(UserError, match="per region"):
        rollback(shop.registry, "shop", None, actor="ada", reason="r", to_generation=3)


def test_replay_finds_a_decision_that_was_tampered_with(shop: Shop, reviewed: Judgement) -> None:
    assert replay_decisions(shop.registry) == []
    with shop.registry.engine.begin() as connection:
        connection.execute(sa.text("UPDATE registry_decisions SET verdict = 'deploy'"))
    (difference,) = replay_decisions(shop.registry)
    assert difference.decision.region == "eu"
    assert difference.replayed == reviewed.sentence


def test_what_if_names_the_decisions_that_would_turn(shop: Shop, reviewed: Judgement) -> None:
    (flip,) = what_if(shop.registry, deploy_at=0.9)
    assert (flip.before, flip.after) == (Verdict.REVIEW, Verdict.DEPLOY)
    assert what_if(shop.registry, deploy_at=0.9985) == []
    (flip,) = what_if(shop.registry, review_at=0.9985)
    assert flip.after is Verdict.REJECT
    with pytest.raises(SettingsError, match="give both thresholds"):
        what_if(shop.registry, deploy_at=0.4)
    assert len(shop.registry.decisions()) == 1
