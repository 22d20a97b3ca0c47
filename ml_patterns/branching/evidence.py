"""Evidence: what is known about a version when it is judged.

Belongs here: the test results row by row, the champion's on the same rows, what the probe and the
data checks said, and how all that is written down so that a verdict can be reproduced. Does not:
the verdict (`decide.py`), the statistics (`statistics.py`).
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from ml_patterns.branching.slices import Slices, slices_of
from ml_patterns.branching.statistics import Labels, Probabilities, all_metrics, auc
from ml_patterns.storage.card import Feature, ModelCard
from ml_patterns.storage.encoding import encode
from ml_patterns.storage.features import KEY_COLUMNS

_FEWEST_OF_A_CLASS = 10


@dataclass(frozen=True)
class ProbeResult:
    """What a clean process found when it loaded a model.

    Attributes:
        reproduces: whether the golden predictions came out again; None: it could not be tried.
        problem: why not, in one sentence.
        milliseconds: median time of one prediction over the golden rows.
        size_bytes: of the model text and card.
    """

    reproduces: bool | None
    problem: str = ""
    milliseconds: float | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class ChampionEvidence:
    """The champion's answers on the test rows that lie after its own training.

    Attributes:
        rows: which test rows those are, shape (test rows,).
        probabilities: its answers on them, shape (rows.sum(),).
        problem: why it could not be asked; then there are no answers.
    """

    version: int
    generation: int
    rows: Labels
    probabilities: Probabilities
    problem: str = ""


@dataclass(frozen=True)
class Evidence:
    """What is known about a version.

    Attributes:
        labels: of the test rows, shape (rows,).
        probabilities: the version's answers, shape (rows,), in single precision: everything is
            measured on what is recorded. NaN where there is none.
        problem: why the version could not be asked at all; empty if it could.
        leak: the feature that alone separates the classes best, and its AUC; None if unknown.
        probe: of the artifact; None: not probed.
        data_checks: name -> passed; None: not known.
        rolled_back: why this version was taken out of service before, if it was.
        slices: the rows by each text column.
    """

    labels: Labels
    probabilities: Probabilities
    problem: str = ""
    leak: tuple[str, float] | None = None
    probe: ProbeResult | None = None
    data_checks: Mapping[str, bool | None] = field(default_factory=dict)
    rolled_back: str | None = None
    slices: Mapping[str, Slices] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Labelled rows of the test slice."""
        return len(self.labels)

    @property
    def positives(self) -> int:
        """Rows of the positive class."""
        return int(self.labels.sum())

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """Every metric; None where it is undefined."""
        return all_metrics(self.labels, self.probabilities)

    def to_json(self, champion: ChampionEvidence | None) -> dict[str, Any]:
        """Everything that a verdict is made from, as JSON; `evidence_from_json` reads it back."""
        return {
            "rows": self.rows,
            "positives": self.positives,
            "metrics": self.metrics,
            "labels": _pack_bits(self.labels),
            "probabilities": _pack_floats(self.probabilities),
            "problem": self.problem,
            "leak": None if self.leak is None else list(self.leak),
            "probe": None if self.probe is None else dict(self.probe.__dict__),
            "data_checks": dict(self.data_checks),
            "rolled_back": self.rolled_back,
            "slices": {name: slices.to_json() for name, slices in self.slices.items()},
            "champion": None
            if champion is None
            else {
                "version": champion.version,
                "generation": champion.generation,
                "rows": _pack_bits(champion.rows),
                "probabilities": _pack_floats(champion.probabilities),
                "problem": champion.problem,
            },
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> tuple[Self, ChampionEvidence | None]:
        """Reads what `to_json` wrote."""
        rows = document["rows"]
        probe, leak, champion = document["probe"], document["leak"], document["champion"]
        evidence = cls(
            labels=_unpack_bits(document["labels"], rows),
            probabilities=_unpack_floats(document["probabilities"]),
            problem=document["problem"],
            leak=None if leak is None else (leak[0], leak[1]),
            probe=None if probe is None else ProbeResult(**probe),
            data_checks=document["data_checks"],
            rolled_back=document["rolled_back"],
            # Decisions that were recorded before there were slices have none.
            slices={
                name: Slices.from_json(slices)
                for name, slices in document.get("slices", {}).items()
            },
        )
        if champion is None:
            return evidence, None
        return evidence, ChampionEvidence(
            version=champion["version"],
            generation=champion["generation"],
            rows=_unpack_bits(champion["rows"], rows),
            probabilities=_unpack_floats(champion["probabilities"]),
            problem=champion["problem"],
        )


def measure(
    test: pd.DataFrame,
    model_text: str | None,
    card: ModelCard,
    *,
    problem: str = "",
    probe: ProbeResult | None = None,
    data_checks: Mapping[str, bool | None] | None = None,
    rolled_back: str | None = None,
) -> Evidence:
    """Asks a model for every test row.

    Args:
        test: labelled rows as `read_features` returns them.
        model_text: LightGBM text; None: do not load it, for the reason in `problem`.
        card: the model's card.

    Returns:
        Evidence; a model that cannot be asked gives evidence that says why, not an error.
    """
    from lightgbm.basic import LightGBMError

    labels = test["label"].to_numpy(dtype=np.bool_)
    probabilities, leak = np.full(len(test), np.nan), None
    if model_text is not None:
        try:
            matrix = encode(test, card.features)
            probabilities = answers(model_text, matrix)
            leak = strongest_feature(matrix, labels, card.features)
        except (KeyError, ValueError, TypeError, LightGBMError) as error:
            problem = f"the model cannot be asked about the test slice: {_brief(error)}"
    return Evidence(
        labels=labels,
        probabilities=probabilities,
        problem=problem,
        leak=leak,
        probe=probe,
        data_checks=data_checks or {},
        rolled_back=rolled_back,
        slices=slices_of(test),
    )


def measure_champion(
    test: pd.DataFrame, model_text: str, card: ModelCard, *, version: int, generation: int
) -> ChampionEvidence:
    """Asks the champion for the test rows after its own training, and for no others."""
    from lightgbm.basic import LightGBMError

    ends = [window.end for window in (card.train, card.validation) if window.end is not None]
    times = pd.to_datetime(test["event_time"])
    after = np.ones(len(test), dtype=np.bool_)
    if ends:
        # The slices exclude their end, so a row at that instant was not trained on.
        after = (times >= pd.Timestamp(max(ends)).tz_localize(None)).to_numpy(dtype=np.bool_)
    try:
        probabilities = answers(model_text, encode(test[after], card.features))
    except (KeyError, ValueError, TypeError, LightGBMError) as error:
        return unreadable_champion(test, version, generation, _brief(error))
    return ChampionEvidence(version, generation, after, probabilities)


def unreadable_champion(
    test: pd.DataFrame, version: int, generation: int, problem: str
) -> ChampionEvidence:
    """A champion that could not be asked."""
    none = np.zeros(len(test), dtype=np.bool_)
    return ChampionEvidence(version, generation, none, np.empty(0), problem)


def answers(model_text: str, matrix: np.ndarray) -> Probabilities:
    """A model's probabilities in single precision, shape (rows,)."""
    import lightgbm as lgb

    if len(matrix) == 0:
        return np.empty(0)
    booster = lgb.Booster(model_str=model_text)
    if booster.num_feature() != matrix.shape[1]:
        raise ValueError(
            f"it takes {booster.num_feature()} features, its card names {matrix.shape[1]}"
        )
    predicted = np.asarray(booster.predict(matrix, num_threads=1), dtype=np.float32)
    return predicted.astype(np.float64)


def strongest_feature(
    matrix: np.ndarray, labels: Labels, features: tuple[Feature, ...]
) -> tuple[str, float] | None:
    """The feature that alone separates the classes best, and its AUC (either direction).

    Missing values rank lowest: a leak often gives itself away by being missing until the label is
    known. None while there are fewer than ten rows of a class.
    """
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < _FEWEST_OF_A_CLASS or not features:
        return None
    counts = np.ones(len(labels))
    known = np.where(np.isnan(matrix), -np.inf, matrix)
    areas = [float(auc(labels, column, counts)) for column in known.T]
    areas = [max(area, 1 - area) for area in areas]
    best = int(np.argmax(areas))
    return features[best].name, areas[best]


def fingerprint(test: pd.DataFrame) -> str:
    """Hash of a test slice's rows: keys, labels and features, in any order (hex, 64 characters)."""
    columns = [*KEY_COLUMNS, *sorted(set(test.columns) - set(KEY_COLUMNS))]
    present = [column for column in columns if column in test.columns]
    hashes = np.sort(pd.util.hash_pandas_object(test[present], index=False).to_numpy())
    digest = hashlib.sha256("\0".join(present).encode())
    digest.update(hashes.tobytes())
    return digest.hexdigest()


def _brief(error: Exception) -> str:
    """An error's first line; a missing key is a column that the card names."""
    if isinstance(error, KeyError):
        return f"column {error} is missing"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _pack_bits(values: Labels) -> str:
    return base64.b64encode(zlib.compress(np.packbits(values).tobytes())).decode()


def _unpack_bits(text: str, rows: int) -> Labels:
    packed = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return np.unpackbits(packed, count=rows).astype(np.bool_)


def _pack_floats(values: Probabilities) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes())).decode()


def _unpack_floats(text: str) -> Probabilities:
    raw = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(raw, dtype="<f4").astype(np.float64)
