"""Slices: the test rows by the values of each text column.

Belongs here: cutting them, and writing them down. Does not: what a bad slice means (`rules.py`,
`conditions.py`).
"""

import base64
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_patterns.storage.features import KEY_COLUMNS

_MOST = 100
"""Values of a column that are kept, the commonest; the rows of the others are in no slice."""


@dataclass(frozen=True)
class Slices:
    """The test rows by one column.

    Attributes:
        names: the column's values, commonest first.
        codes: position of each row's value in `names`; -1: missing or too rare. Shape (rows,).
    """

    names: tuple[str, ...]
    codes: npt.NDArray[np.int8]

    def of_at_least(self, rows: int) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Values with that many rows, and which rows those are."""
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        for position in np.flatnonzero(counts >= rows):
            yield self.names[position], self.codes == position

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        packed = zlib.compress(self.codes.tobytes())
        return {"names": list(self.names), "codes": base64.b64encode(packed).decode()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Slices":
        """Reads what `to_json` wrote."""
        raw = zlib.decompress(base64.b64decode(document["codes"]))
        return cls(tuple(document["names"]), np.frombuffer(raw, dtype=np.int8))


def slices_of(test: pd.DataFrame) -> dict[str, Slices]:
    """The test rows by each text column, name by name.

    Args:
        test: rows as `read_features` returns them.
    """
    found = {}
    for name in sorted(set(test.columns) - set(KEY_COLUMNS)):
        column = test[name]
        if not _is_text(column):
            continue
        codes, values = pd.factorize(column)
        names = [str(value) for value in values]
        counts = np.bincount(codes[codes >= 0])
        # Sorted by value within the same count, so that the rows' order changes nothing.
        ordered = sorted(range(len(names)), key=lambda code: (-counts[code], names[code]))
        kept = ordered[:_MOST]
        ranks = np.full(len(names) + 1, -1, dtype=np.int8)  # the last is that of missing ones
        ranks[kept] = np.arange(len(kept))
        found[name] = Slices(tuple(names[code] for code in kept), ranks[codes])
    return found


def _is_text(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return True
    if pd.api.types.is_numeric_dtype(column.dtype):
        return False
    return bool(pd.api.types.is_string_dtype(column.dropna()))
