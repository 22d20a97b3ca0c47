"""A model is a function of rows, settings and code; it knows nothing that came later."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from ml_patterns.errors import NothingToTrainError
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.fan_out.training import TrainedModel, standard_error, train
from ml_patterns.fan_out.unchanged import fingerprint
from ml_patterns.storage.card import ModelCard
from ml_patterns.storage.features import FeatureColumn
from ml_patterns_tests.fan_out.conftest import COLUMNS, START, end_of, made_up

SETTINGS = TrainingSettings(max_rounds=60)
DELAY = timedelta(hours=2)


def trained(
    frame: pd.DataFrame,
    settings: TrainingSettings = SETTINGS,
    columns: tuple[FeatureColumn, ...] = COLUMNS,
    watermark: datetime | None = None,
) -> TrainedModel:
    """Trains region eu."""
    return train(
        frame,
        columns,
        settings,
        pipeline="p",
        region="eu",
        label_delay=DELAY,
        watermark=watermark or end_of(frame),
    )


def test_the_order_of_the_rows_changes_no_byte() -> None:
    """Model text and card, from rows as they happen to arrive."""
    frame = made_up("eu")
    assert trained(frame) == trained(frame.sample(frac=1, random_state=3))


def test_types_that_pandas_chose_for_the_batch_change_no_byte() -> None:
    """An integer column is float64 as soon as any region of the batch misses a value."""
    frame = made_up("eu")
    other = frame.assign(
        parcels=frame["parcels"].astype("float64"), weather=frame["weather"].astype("object")
    )
    assert trained(frame) == trained(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(distance=frame["distance"].where(frame.index != 9, 0.1234)),
        lambda frame: frame.assign(label=frame["label"] ^ (frame.index == len(frame) - 1)),
        lambda frame: frame.iloc[1:],
    ],
    ids=["a feature", "a label of the test slice", "a row"],
)
def test_any_change_of_the_rows_changes_the_key(
    change: Callable[[pd.DataFrame], pd.DataFrame],
) -> None:
    """What is skipped as unchanged is unchanged."""
    frame = made_up("eu")
    assert trained(frame).card.training_key != trained(change(frame)).card.training_key


@pytest.mark.parametrize(
    ("texts", "others"),
    [(["ab", "c"], ["a", "bc"]), (["a", None], ["a", ""]), (["a", None], ["a", "nan"])],
    ids=["another boundary", "missing or empty", "missing or its name"],
)
def test_texts_that_spell_the_same_have_different_fingerprints(
    texts: list[str | None], others: list[str | None]
) -> None:
    """They are hashed one after the other."""
    frame, weather = made_up("eu", 2), COLUMNS[-1:]
    first, second = (fingerprint(frame.assign(weather=each), weather) for each in (texts, others))
    assert first != second
    of_objects = frame.assign(weather=pd.Series(texts, dtype="object"))
    assert fingerprint(of_objects, weather) == first


def test_settings_that_change_the_model_change_the_key_and_others_do_not() -> None:
    """Another seed is another training; another number of workers is the same one."""
    frame = made_up("eu")
    key = trained(frame).card.training_key
    assert trained(frame, SETTINGS.model_copy(update={"seed": 8})).card.training_key != key
    assert trained(frame, SETTINGS.model_copy(update={"workers": 5})).card.training_key == key


def test_the_card_survives_json_and_its_golden_rows_the_model_text() -> None:
    """What the artifact store returns says the same to the same rows, missing values included."""
    model = trained(made_up("eu"))
    card = ModelCard.model_validate_json(model.card.model_dump_json())
    assert card == model.card
    matrix = np.array(card.golden.rows, dtype=np.float64)
    booster = lgb.Booster(model_str=model.model_text)
    assert booster.predict(matrix).tolist() == list(card.golden.predictions)
    assert sum(card.importances.values()) == pytest.approx(1)


def test_it_learns_the_rule() -> None:
    """Five labels of a hundred are turned round: a good model is right on the other 95."""
    metrics = trained(made_up("eu", 3000)).card.metrics
    assert metrics["accuracy"] > 0.92
    assert metrics["auc"] > 0.9


def test_shuffled_labels_score_no_better_than_the_majority() -> None:
    """Nothing of the label leaks past the split into the features."""
    frame = made_up("eu", 3000)
    shuffled = frame.assign(label=frame["label"].sample(frac=1, random_state=1).to_numpy())
    metrics = trained(shuffled).card.metrics
    error = np.sqrt(0.25 / 600)
    assert metrics["accuracy"] < metrics["majority_accuracy"] + 2 * error
    assert abs(metrics["auc"] - 0.5) < 4 * error


def with_history(frame: pd.DataFrame, *, leaks: bool) -> pd.DataFrame:
    """Adds a feature over the rows there are: the mean label around a row, or strictly before."""
    labels = frame["label"].astype("float64")
    mean = (
        labels.rolling(5, center=True, min_periods=1).mean()
        if leaks
        else (labels.shift(1).rolling(5, min_periods=1).mean())
    )
    return frame.assign(recent=mean)


@pytest.mark.parametrize("leaks", [False, True])
def test_a_feature_from_the_future_is_caught_when_the_split_moves(leaks: bool) -> None:
    """Trained as of an earlier day, an honest feature gives the model that day would have given.

    A feature that looks ahead differs in the rows before the watermark, once there are rows
    after it.
    """
    history = made_up("eu", 2000)
    columns = (*COLUMNS, FeatureColumn("recent", "DOUBLE"))
    then = START + timedelta(days=5)
    until_then = history[history["event_time"] < pd.Timestamp(then.replace(tzinfo=None))]

    on_the_day = trained(with_history(until_then, leaks=leaks), columns=columns, watermark=then)
    in_hindsight = trained(with_history(history, leaks=leaks), columns=columns, watermark=then)

    assert (on_the_day == in_hindsight) is not leaks


def test_rows_without_a_label_and_rows_above_the_watermark_are_left_out() -> None:
    """They may still change: neither trains, validates or tests."""
    frame = made_up("eu", 2000)
    watermark = START + timedelta(days=6)
    below = frame["event_time"] < pd.Timestamp(watermark.replace(tzinfo=None))
    unlabelled = frame[below].assign(
        label=pd.array([pd.NA] * below.sum(), dtype="boolean"),
        event_id=[f"new {number}" for number in range(below.sum())],
    )
    more = pd.concat([frame, unlabelled], ignore_index=True)
    assert trained(more, watermark=watermark) == trained(frame[below], watermark=watermark)
    assert trained(more, watermark=watermark).card.test.end <= watermark


def test_the_simplest_candidate_within_one_standard_error_wins() -> None:
    """A gain that chance could have made does not pay for a larger tree."""
    frame = made_up("eu", 1500, noise=0.1, seed=3)
    small, large = {"num_leaves": 4}, {"num_leaves": 15}

    def choosing_from(*candidates: dict[str, int]) -> ModelCard:
        return trained(frame, SETTINGS.model_copy(update={"candidates": candidates})).card

    losses = [choosing_from(candidate).metrics["log_loss"] for candidate in (small, large)]
    assert losses[1] < losses[0], "the example needs a larger tree that is a little better"
    assert choosing_from(small, large).candidate == small
    assert choosing_from(large, small).candidate == large


def test_with_class_weights_the_standard_error_is_that_of_the_weighted_mean() -> None:
    """The few rows of the rare class weigh most, so chance makes larger gains than without."""
    frame = made_up("eu", 2000, noise=0.1, seed=1)
    rare = frame[frame["label"] & (frame.index % 8 == 0) | ~frame["label"]]
    candidates = ({"num_leaves": 4}, {"num_leaves": 15})
    weighed = SETTINGS.model_copy(update={"class_weights": True, "candidates": candidates})
    assert trained(rare, weighed).card.candidate == candidates[0]


@pytest.mark.parametrize("weigh", [True, False])
def test_the_standard_error_is_the_spread_of_the_mean_over_many_slices(weigh: bool) -> None:
    """Slices of 400 rows, of which every tenth is of the rare class and harder to guess."""
    random = np.random.default_rng(11)
    rare = random.random((4000, 400)) < 0.1
    losses = random.exponential(np.where(rare, 1.5, 0.3))
    weights = np.where(rare, 5.0, 0.6) if weigh else np.ones(rare.shape)
    spread = np.average(losses, axis=1, weights=weights).std()
    errors = [
        standard_error(each, its_weights if weigh else None)
        for each, its_weights in zip(losses, weights, strict=True)
    ]
    assert np.mean(errors) == pytest.approx(spread, rel=0.05)


def test_a_single_row_has_no_standard_error() -> None:
    """The best candidate wins then."""
    assert standard_error(np.array([0.3]), None) == 0.0
    assert standard_error(np.array([0.3]), np.array([2.0])) == 0.0


def test_training_stops_where_validation_stops_gaining() -> None:
    """The rounds of the card are those that validated best, long before the most there may be."""
    card = trained(made_up("eu"), SETTINGS.model_copy(update={"max_rounds": 400})).card
    assert 0 < card.rounds < 200


def test_a_candidate_that_is_clearly_better_wins_wherever_it_stands() -> None:
    """One leaf more than a stump is not enough for the made-up rule."""
    hopeless, good = {"num_leaves": 2, "learning_rate": 1e-4}, {"num_leaves": 15}
    settings = SETTINGS.model_copy(update={"candidates": (hopeless, good)})
    assert trained(made_up("eu", 3000), settings).card.candidate == good


def test_candidates_with_different_leaf_sizes_share_one_dataset() -> None:
    """LightGBM filters features by the first candidate's leaf size unless it is told not to."""
    candidates = ({"min_data_in_leaf": 400}, {"min_data_in_leaf": 5})
    alone = SETTINGS.model_copy(update={"candidates": candidates[1:]})
    together = SETTINGS.model_copy(update={"candidates": candidates})
    frame = made_up("eu", 900)
    assert trained(frame, together).model_text == trained(frame, alone).model_text


def test_class_weights_find_the_rare_class() -> None:
    """Weighed alike, the rare class is guessed at all."""
    frame = made_up("eu", 3000, noise=0.3)
    rare = frame[frame["label"] & (frame.index % 8 == 0) | ~frame["label"]]
    weighed = SETTINGS.model_copy(update={"class_weights": True})
    plain, balanced = trained(rare).card.metrics, trained(rare, weighed).card.metrics
    assert balanced["balanced_accuracy"] > plain["balanced_accuracy"] + 0.05


def test_a_short_history_is_a_sentence() -> None:
    """All rows at one instant leave nothing to validate on."""
    frame = made_up("eu", 50)
    frame["event_time"] = frame["event_time"].iloc[0]
    with pytest.raises(NothingToTrainError, match="region eu has too short a history"):
        trained(frame, watermark=datetime(2026, 2, 1, tzinfo=UTC))
