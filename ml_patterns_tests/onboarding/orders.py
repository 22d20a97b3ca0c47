"""Orders of a made-up shop: what was returned is known days later.

Belongs here: rows whose meaning the tests know. Does not: how they land.
"""

from datetime import timedelta

import numpy as np
import pandas as pd

FIRST = pd.Timestamp("2026-03-01")
REGIONS = ("at", "ch", "de", "nl")


def orders(days: int = 20, a_day: int = 60, seed: int = 11) -> pd.DataFrame:
    """Two rows for each order: when it was placed, and when it is known whether it came back.

    Returns:
        order_id, ordered_at, recorded_at, country, channel, amount, items, express, status (moves
        on), refund (only with the outcome), returned (the label; empty at first).
    """
    rng = np.random.default_rng(seed)
    count = days * a_day
    placed = FIRST + pd.to_timedelta(np.sort(rng.integers(0, days * 86_400, count)), "s")
    amount = rng.gamma(2, 40, count).round(2)
    items = rng.integers(1, 6, count)
    returned = rng.random(count) < 1 / (1 + np.exp(3 - amount / 40))
    first = pd.DataFrame(
        {
            "order_id": [f"O{number:06d}" for number in range(count)],
            "ordered_at": placed,
            "recorded_at": placed + pd.to_timedelta(rng.integers(5, 300, count), "s"),
            "country": rng.choice(REGIONS, count, p=[0.2, 0.2, 0.4, 0.2]),
            "channel": rng.choice(["web", "app", "store"], count),
            "amount": amount,
            "items": items,
            "express": rng.random(count) < 0.3,
            "status": "placed",
            "refund": np.nan,
            "returned": pd.array([pd.NA] * count, dtype="boolean"),
        }
    )
    known = first.assign(
        recorded_at=first["ordered_at"] + pd.to_timedelta(rng.integers(20, 44, count), "h"),
        status=np.where(returned, "returned", "kept"),
        refund=np.where(returned, amount, 0.0),
        returned=pd.array(returned, dtype="boolean"),
    )
    return pd.concat([first, known]).sort_values("recorded_at", ignore_index=True)


def end_of(frame: pd.DataFrame) -> pd.Timestamp:
    """A while after the last row was recorded."""
    return frame["recorded_at"].max() + timedelta(days=1)
