"""When training again would give the same model.

Belongs here: the fingerprint of rows and the key of a training. Does not: looking the key up
(`registry/registry.py`).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ml_patterns.base import format_duration
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.storage import card, encoding
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
_KEYS = ("event_time", "label", "event_id", "region")
_SOURCES = ("training.py", "split.py", "metrics.py", "pool.py", "unchanged.py")


def fingerprint(rows: "pd.DataFrame | pa.Table", columns: tuple[FeatureColumn, ...]) -> str:
    """SHA-256 over the rows as the model sees them, in their order (hex).

    A column is hashed as text or as float64 whatever type it has here: a batch in which another
    region has missing values must not change this region's fingerprint, nor must the frame that a
    worker makes of the rows.
    """
    texts = [column.name for column in columns if column.kind == "categorical"]
    numbers = [column.name for column in columns if column.kind == "numeric"]
    table = _table(rows, list(dict.fromkeys([*_KEYS, *texts, *numbers])))
    digest = hashlib.sha256(json.dumps([texts, numbers, len(table)]).encode())
    digest.update(_numbers(table["event_time"].cast(pa.timestamp("us")).cast(pa.int64())).data)
    digest.update(_numbers(table["label"].cast(pa.int8())).data)
    for name in ("event_id", "region", *texts):
        for part in _texts(table[name]):
            digest.update(part)
    for name in numbers:
        values = _numbers(_as_floats(table[name]))
        missing = np.isnan(values)
        # One NaN of the many that there are.
        digest.update((np.where(missing, np.nan, values) if missing.any() else values).data)
    return digest.hexdigest()


def _table(rows: "pd.DataFrame | pa.Table", names: Sequence[str]) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows.select(names)
    return pa.Table.from_pandas(rows, columns=names, preserve_index=False, nthreads=1)


def _numbers(values: pa.ChunkedArray) -> np.ndarray:
    """In one piece; missing ones are NaN."""
    return np.ascontiguousarray(values.to_numpy())


def _as_floats(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return values.cast(pa.float64(), safe=False)


def _texts(values: pa.ChunkedArray) -> Iterator[memoryview]:
    """Which texts are missing, how long each is, and what they spell one after the other."""
    yield _numbers(values.is_null()).data
    text = values.cast(pa.large_string()).combine_chunks()
    if text.null_count:
        text = text.fill_null("")
    _, offsets, spelt = text.buffers()
    bounds = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    yield np.diff(bounds).data
    yield memoryview(spelt or b"")[bounds[0] : bounds[-1]]


def training_key(
    rows: "pd.DataFrame | pa.Table",
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
        "lightgbm": installed("lightgbm"),
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def member_key(pooled_key: str, region: str) -> str:
    """The key of a region that is served by the pooled model of this key."""
    return hashlib.sha256(f"{pooled_key}\0{region}".encode()).hexdigest()


@cache
def installed(library: str) -> str:
    """The version of a library; looking it up reads a file."""
    return version(library)


@cache
def source_hash() -> str:
    """SHA-256 of the code that trains."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    elsewhere = (Path(str(module.__file__)) for module in (card, encoding))
    for path in (*(folder / name for name in _SOURCES), *elsewhere):
        digest.update(path.read_bytes())
    return digest.hexdigest()
