"""The gate: an honest model passes, and what was judged is judged once."""

import lightgbm as lgb
import pandas as pd

from ml_patterns.branching.gate import judgement_of
from ml_patterns.branching.policy import Policy
from ml_patterns.storage.card import ModelCard
from ml_patterns_tests.branching.conftest import Shop

Model = tuple[lgb.Booster, ModelCard]


def test_an_honest_model_passes(shop: Shop, honest: Model, test_frame: pd.DataFrame) -> None:
    judgement = shop.judge(*honest, test_frame)
    assert judgement.sentence.startswith("deploy: accuracy 0.9")
    assert shop.registry.latest("shop", "eu").state == "approved"  # type: ignore[union-attr]


def test_the_same_question_is_not_asked_twice(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    first = shop.judge(*honest, test_frame)
    shuffled = test_frame.sample(frac=1, random_state=3)
    assert shop.judge(*honest, shuffled).decision == first.decision
    assert len(shop.registry.decisions("shop")) == 1
    shop.judge(*honest, test_frame, policy=Policy(deploy_at=0.96))
    shop.judge(*honest, test_frame.head(500))
    assert len(shop.registry.decisions("shop")) == 3


def test_a_recorded_decision_is_reproduced_from_its_evidence(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    first = shop.judge(*honest, test_frame)
    (recorded,) = shop.registry.decisions("shop")
    again = judgement_of(recorded)
    assert again.outcome == first.outcome
    assert again.evidence.probabilities.tolist() == first.evidence.probabilities.tolist()
    assert again.outcome.sentence == recorded.reason
