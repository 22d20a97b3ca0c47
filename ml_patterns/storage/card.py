"""The model card.

Belongs here: what a model says about itself. Does not: training (`fan_out/`), a frame as the matrix
that the model eats (`encoding.py`), where the card is kept (`artifacts.py`).
"""

from datetime import datetime
from typing import Literal

from ml_patterns.base import Settings


class Feature(Settings):
    """One column of the matrix: numeric, or categorical with its ordered categories."""

    name: str
    type: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()


class Window(Settings):
    """A slice of time that a model was trained or judged on; bounds are event times, UTC."""

    start: datetime | None
    end: datetime | None
    rows: int
    positives: int


class Golden(Settings):
    """A few encoded rows (None: missing) and the probabilities the trained model gave them."""

    rows: tuple[tuple[float | None, ...], ...]
    predictions: tuple[float, ...]


class ModelCard(Settings):
    """What a model says about itself; lies beside its text in the artifact store.

    Attributes:
        kind: `own` was trained on its region alone, `pooled` on all with the region as a feature.
        base_rate: share of positives among the rows it was trained on.
        training_key: hash of everything that could change the model; same key, same model.
        data_fingerprint: hash of the rows it was trained on.
        metrics: measured on the validation slice; the test slice belongs to the gate.
        test: the slice kept for the gate.
    """

    pipeline: str
    region: str
    kind: Literal["own", "pooled"]
    reason: str
    features: tuple[Feature, ...]
    base_rate: float
    rounds: int
    candidate: dict[str, float | int | str | bool]
    seed: int
    training_key: str
    data_fingerprint: str
    train: Window
    validation: Window
    test: Window
    metrics: dict[str, float]
    importances: dict[str, float]
    golden: Golden
    versions: dict[str, str]
