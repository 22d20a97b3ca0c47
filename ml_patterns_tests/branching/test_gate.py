"""The gate: an honest model passes, and what was judged is judged once."""

import lightgbm as lgb
import pandas as pd

from ml_patterns.branching.gate import judgement_of
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.slices import slices_of
from ml_patterns.storage.card import ModelCard
from ml_patterns_tests.branching.conftest import Shop, card, events, fitted

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


def test_the_champion_is_compared_only_after_its_own_training(
    shop: Shop, honest: Model, test_frame: pd.DataFrame
) -> None:
    """A champion that was trained on the test rows knows them by heart."""
    learnt = fitted(test_frame, rounds=200)
    end = test_frame["event_time"].iloc[400].tz_localize("UTC")  # slices exclude their end
    window = honest[1].train.model_copy(update={"end": end.to_pydatetime(warn=False)})
    knows = card(test_frame, learnt, train=window, validation=window)
    address = shop.store.put(learnt.model_to_string(), knows)
    serving = shop.registry.register(
        pipeline="shop", region="eu", artifact=address, kind="own", training_key="knows"
    )
    decision = shop.registry.record_decision(
        serving,
        verdict="deploy",
        reason="",
        evidence={},
        policy=Policy(),
        test_fingerprint="",
        champion_generation=0,
    )
    shop.registry.promote(
        serving, expected_generation=0, decision=decision, actor="ada", reason="first"
    )
    judgement = shop.judge(*honest, test_frame)
    assert judgement.champion is not None
    assert judgement.champion.rows.tolist() == [False] * 400 + [True] * 200


def test_every_text_column_is_sliced(shop: Shop, honest: Model, test_frame: pd.DataFrame) -> None:
    evidence = shop.judge(*honest, test_frame).evidence
    (name,) = evidence.slices
    assert name == "carrier"
    counted = {value: int(rows.sum()) for value, rows in evidence.slices[name].of_at_least(1)}
    assert counted == test_frame["carrier"].value_counts().to_dict()


def test_missing_and_rare_values_are_in_no_slice() -> None:
    frame = events(300).assign(carrier=[None, *[f"c{n}" for n in range(150)], *["ant"] * 149])
    slices = slices_of(frame)["carrier"]
    assert slices.names[0] == "ant"
    assert len(slices.names) == 100
    assert int((slices.codes < 0).sum()) == 1 + 51
