"""The one way from a frame to the matrix that a model eats.

Belongs here: `encode`. Does not: the card that says what is encoded how (`card.py`).

Training, gate, client and server all encode through this module, so a category can never mean two
numbers.
"""

import numpy as np
import pandas as pd

from ml_patterns.storage.card import Feature


def encode(frame: pd.DataFrame, features: tuple[Feature, ...]) -> np.ndarray:
    """The matrix of a frame's features.

    Args:
        frame: has a column per feature; numbers, booleans or text, in any row order.
        features: the model card's features, in the model's column order.

    Returns:
        float64, shape (rows, features). A category is its position in the card's list; unseen and
        missing values are NaN.
    """
    matrix = np.empty((len(frame), len(features)), dtype=np.float64)
    for position, feature in enumerate(features):
        column = frame[feature.name]
        if feature.type == "categorical":
            codes = pd.Index(feature.categories).get_indexer(pd.Index(column.astype("object")))
            matrix[:, position] = np.where(codes < 0, np.nan, codes)
        else:
            matrix[:, position] = pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    return matrix
