"""When training again would give the same model.

Belongs here: the fingerprint of rows and the key of a training. Does not: looking the key up
(`registry/registry.py`).
"""

import hashlib
import json
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from ml_patterns.base import format_duration
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.storage import card
from ml_patterns.storage.features import FeatureColumn

_WHAT_CHANGES_A_MODEL = {
    "candidates",
    "max_rounds",
    "early_stopping_rounds",
    "validation_share",
    "test_share",
    "class_weights",
    "seed",
}
_SOURCES = ("training.py", "split.py", "metrics.py", "pool.py", "unchanged.py")


def fingerprint(rows: pd.DataFrame, columns: tuple[FeatureColumn, ...]) -> str:
    """SHA-256 over the rows as the model sees them, in their order (hex).

    A column is hashed as text or as float64 whatever type pandas gave it: a batch in which another
    region has missing values must not change this region's fingerprint.
    """
    seen: dict[str, pd.Series] = {
        "event_id": rows["event_id"].astype("object").astype(str),
        "region": rows["region"].astype("object").astype(str),
        "event_time": rows["event_time"].astype("datetime64[us]").astype("int64"),
        "label": rows["label"].astype(np.int8),
    }
    for column in columns:
        values = rows[column.name]
        # Prefixed, so that a feature cannot replace a key column.
        seen[f"feature {column.name}"] = (
            values.astype("object").where(values.notna(), None)
            if column.kind == "categorical"
            else pd.Series(pd.to_numeric(values).to_numpy(np.float64, na_value=np.nan), rows.index)
        )
    digest = hashlib.sha256(json.dumps(list(seen)).encode())
    for values in seen.values():
        digest.update(pd.util.hash_pandas_object(values, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def training_key(
    rows: pd.DataFrame,
    columns: tuple[FeatureColumn, ...],
    settings: TrainingSettings,
    *,
    pipeline: str,
    region: str,
    label_delay: timedelta,
    kind: str,
) -> str:
    """Hash of everything that could change the model or its card; same key, same model.

    Args:
        rows: what `usable_rows` returns; the test slice counts, because the card describes it.
        columns: as trained on, the region included for a pooled model.
    """
    ingredients = {
        "pipeline": pipeline,
        "region": region,
        "kind": kind,
        "rows": fingerprint(rows, columns),
        "columns": [(column.name, column.type) for column in columns],
        "settings": settings.model_dump(mode="json", include=_WHAT_CHANGES_A_MODEL),
        "label_delay": format_duration(label_delay),
        "code": source_hash(),
        "lightgbm": version("lightgbm"),
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def member_key(pooled_key: str, region: str) -> str:
    """The key of a region that is served by the pooled model of this key."""
    return hashlib.sha256(f"{pooled_key}\0{region}".encode()).hexdigest()


@cache
def source_hash() -> str:
    """SHA-256 of the code that trains."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in (*(folder / name for name in _SOURCES), Path(card.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
