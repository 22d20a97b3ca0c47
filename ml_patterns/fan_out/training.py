"""One region's rows become one model.

Belongs here: candidates, the choice between them, the refit, the card. Does not: whether a region
gets a model of its own (`cold_start.py`), where it is trained (`pool.py`), whether it may be
deployed (`branching/`).

The same rows, settings, code and LightGBM give the same model text and card byte for byte, whatever
the order of the rows, the number of workers or the machine's cores.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_patterns.errors import NothingToTrainError
from ml_patterns.fan_out.metrics import Labels, Values, measure, persistence, row_losses
from ml_patterns.fan_out.settings import Candidate, TrainingSettings
from ml_patterns.fan_out.split import Mask, naive, split_rows, window
from ml_patterns.fan_out.unchanged import fingerprint, installed, training_key
from ml_patterns.storage.card import Feature, Golden, ModelCard
from ml_patterns.storage.encoding import encode
from ml_patterns.storage.features import FeatureColumn

if TYPE_CHECKING:
    import lightgbm as lgb

REGION_COLUMN = FeatureColumn("region", "VARCHAR")
"""The pooled model's extra feature."""

_GOLDEN_ROWS = 8
_LIBRARIES = ("lightgbm", "numpy", "pandas")


@dataclass(frozen=True)
class TrainedModel:
    """A model as it goes into the artifact store."""

    model_text: str
    card: ModelCard


@dataclass(frozen=True)
class _Matrix:
    """Encoded rows of one slice."""

    values: npt.NDArray[np.float64]
    labels: Labels
    weights: Values | None


@dataclass(frozen=True)
class _Fit:
    """A candidate and how it did on the validation slice."""

    candidate: Candidate
    rounds: int
    probabilities: Values
    losses: Values


def train(
    frame: pd.DataFrame,
    columns: tuple[FeatureColumn, ...],
    settings: TrainingSettings,
    *,
    pipeline: str,
    region: str,
    label_delay: timedelta,
    watermark: datetime | None,
    kind: Literal["own", "pooled"] = "own",
    reason: str = "",
    key: str | None = None,
) -> TrainedModel:
    """Chooses a candidate on the validation slice and refits it on train + validation.

    Args:
        frame: rows of `read_features` in any order; rows without a label are left out.
        columns: the features; a pooled model gets the region as one more.
        watermark: only rows before it are used (UTC); None: all.
        reason: why the region gets this kind of model, for the card.
        key: the training key of just this, if it is known already.

    Raises:
        NothingToTrainError: train or validation slice is empty.
    """
    import lightgbm as lgb

    if kind == "pooled":
        columns = (*columns, REGION_COLUMN)
    rows = usable_rows(frame, watermark)
    split = split_rows(rows, settings, label_delay=label_delay, watermark=watermark)
    too_short = NothingToTrainError(
        f"region {region} has too short a history to train and validate on; wait for more events, "
        "or lower training.validation_share and training.test_share"
    )
    if split is None:
        raise too_short
    in_train, in_validation = split.train(rows["event_time"]), split.validation(rows["event_time"])
    if not in_train.any() or not in_validation.any():
        raise too_short
    known = in_train | in_validation
    features = tuple(column.described_by(rows.loc[known, column.name]) for column in columns)
    fitted = _matrix(rows[in_train], features, settings)
    validated = _matrix(rows[in_validation], features, settings)
    chosen = _choose(_compare(fitted, validated, features, settings), validated)
    whole = _matrix(rows[known], features, settings)
    model_text = _refit(whole, features, settings, chosen)
    booster = lgb.Booster(model_str=model_text)
    return TrainedModel(
        model_text=model_text,
        card=ModelCard(
            pipeline=pipeline,
            region=region,
            kind=kind,
            reason=reason,
            features=features,
            base_rate=float(whole.labels.mean()),
            rounds=chosen.rounds,
            candidate=chosen.candidate,
            seed=settings.seed,
            training_key=key
            or training_key(
                rows,
                columns,
                settings,
                pipeline=pipeline,
                region=region,
                label_delay=label_delay,
                kind=kind,
            ),
            data_fingerprint=fingerprint(rows[known], columns),
            train=window(rows, in_train, split.train_start, split.train_end),
            validation=window(rows, in_validation, split.validation_start, split.validation_end),
            test=window(rows, split.test(rows["event_time"]), split.test_start, split.test_end),
            metrics={
                **measure(validated.labels, chosen.probabilities),
                **_baseline(rows, in_validation, label_delay, kind),
            },
            importances=_importances(booster, features),
            golden=_golden(booster, whole.values),
            versions={library: installed(library) for library in _LIBRARIES},
        ),
    )


def usable_rows(frame: pd.DataFrame, watermark: datetime | None) -> pd.DataFrame:
    """Labelled rows below the watermark, in an order that depends on nothing but the rows."""
    labelled = frame["label"].notna()
    if watermark is not None:
        labelled &= frame["event_time"] < naive(watermark)
    return frame[labelled].sort_values(
        ["event_time", "region", "event_id"], kind="stable", ignore_index=True
    )


def _baseline(
    rows: pd.DataFrame, asked: Mask, label_delay: timedelta, kind: str
) -> dict[str, float]:
    if kind == "pooled":  # The newest label of some other region is nobody's guess.
        return {}
    labels = rows["label"].to_numpy(dtype=np.bool_)
    accuracy = persistence(rows["event_time"].to_numpy(), labels, asked, label_delay)
    return {} if accuracy is None else {"persistence_accuracy": accuracy}


def _matrix(
    rows: pd.DataFrame, features: tuple[Feature, ...], settings: TrainingSettings
) -> _Matrix:
    labels = rows["label"].to_numpy(dtype=np.bool_)
    weights = None
    if settings.class_weights and 0 < labels.sum() < len(labels):
        share = labels.mean()
        weights = np.where(labels, 0.5 / share, 0.5 / (1 - share))
    return _Matrix(encode(rows, features), labels, weights)


def _fixed_parameters(settings: TrainingSettings) -> dict[str, Any]:
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "num_threads": 1,
        "deterministic": True,
        # Left to itself LightGBM times both layouts and takes the faster: a race in the result.
        "force_col_wise": True,
        # The dataset is shared by candidates with different `min_data_in_leaf`.
        "feature_pre_filter": False,
        "seed": settings.seed,
        "verbosity": -1,
    }


def _dataset(
    matrix: _Matrix,
    features: tuple[Feature, ...],
    settings: TrainingSettings,
    reference: "lgb.Dataset | None" = None,
) -> "lgb.Dataset":
    import lightgbm as lgb

    return lgb.Dataset(
        matrix.values,
        label=matrix.labels.astype(np.float32),
        weight=matrix.weights,
        reference=reference,
        categorical_feature=[
            position for position, feature in enumerate(features) if feature.type == "categorical"
        ],
        params=_fixed_parameters(settings),
    )


def _compare(
    fitted: _Matrix, validated: _Matrix, features: tuple[Feature, ...], settings: TrainingSettings
) -> list[_Fit]:
    """Fits every candidate on one binned dataset, stopping where validation stops gaining."""
    import lightgbm as lgb

    dataset = _dataset(fitted, features, settings)
    held_out = _dataset(validated, features, settings, reference=dataset)
    fits = []
    for candidate in settings.candidates:
        booster = lgb.train(
            {**candidate, **_fixed_parameters(settings)},
            dataset,
            num_boost_round=settings.max_rounds,
            valid_sets=[held_out],
            callbacks=[lgb.early_stopping(settings.early_stopping_rounds, verbose=False)],
        )
        rounds = booster.best_iteration or booster.current_iteration()
        probabilities = _predict(booster, validated.values, rounds)
        fits.append(
            _Fit(candidate, rounds, probabilities, row_losses(validated.labels, probabilities))
        )
    return fits


def _choose(fits: list[_Fit], validated: _Matrix) -> _Fit:
    """The simplest candidate within one standard error of the best (Breiman et al., 1984)."""
    means = [float(np.average(fit.losses, weights=validated.weights)) for fit in fits]
    best = int(np.argmin(means))
    error = standard_error(fits[best].losses, validated.weights)
    return next(fit for fit, mean in zip(fits, means, strict=True) if mean <= means[best] + error)


def standard_error(losses: Values, weights: Values | None) -> float:
    """Standard error of the mean loss; with weights, of the weighted mean, rows independent."""
    rows = len(losses)
    if rows < 2:
        return 0.0
    if weights is None:
        return float(np.std(losses, ddof=1)) / math.sqrt(rows)
    deviations = weights * (losses - np.average(losses, weights=weights))
    return float(np.sqrt(np.sum(deviations**2)) / np.sum(weights))


def _refit(
    whole: _Matrix, features: tuple[Feature, ...], settings: TrainingSettings, chosen: _Fit
) -> str:
    import lightgbm as lgb

    booster = lgb.train(
        {**chosen.candidate, **_fixed_parameters(settings)},
        _dataset(whole, features, settings),
        num_boost_round=chosen.rounds,
    )
    return str(booster.model_to_string())


def _predict(booster: "lgb.Booster", values: npt.NDArray[np.float64], rounds: int = -1) -> Values:
    return np.asarray(booster.predict(values, num_iteration=rounds, num_threads=1))


def _importances(booster: "lgb.Booster", features: tuple[Feature, ...]) -> dict[str, float]:
    """Share of the total gain, by feature."""
    gains = booster.feature_importance("gain")
    total = float(gains.sum()) or 1.0
    return {
        feature.name: float(gain) / total for feature, gain in zip(features, gains, strict=True)
    }


def _golden(booster: "lgb.Booster", values: npt.NDArray[np.float64]) -> Golden:
    """A few rows spread over the history and what the model, read from its text, says to them."""
    picked = np.unique(np.linspace(0, len(values) - 1, _GOLDEN_ROWS).astype(int))
    rows = values[picked]
    return Golden(
        rows=tuple(
            tuple(None if math.isnan(value) else value for value in row) for row in rows.tolist()
        ),
        predictions=tuple(_predict(booster, rows).tolist()),
    )
