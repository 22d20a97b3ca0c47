"""Made-up regions: a rule that can be learned, noise, a category, gaps.

Belongs here: frames as `read_features` returns them. Does not: promises.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from ml_patterns.storage.features import FeatureColumn

START = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = (
    FeatureColumn("distance", "DOUBLE"),
    FeatureColumn("parcels", "BIGINT"),
    FeatureColumn("weather", "VARCHAR"),
)


def made_up(region: str, rows: int = 600, *, noise: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Rows of one region over seven days; `noise` is the share of labels turned round."""
    random = np.random.default_rng([seed, *region.encode()])
    seconds = np.sort(random.integers(0, 7 * 86_400, rows))
    distance = random.normal(size=rows)
    weather = random.choice(["dry", "rain", "snow"], rows)
    late = distance + (weather == "snow") > 0.5
    times = pd.Timestamp(START.replace(tzinfo=None)) + pd.to_timedelta(seconds, unit="s")
    times = pd.Series(times).astype("datetime64[us]")
    return pd.DataFrame(
        {
            "partition_start": times.dt.floor("h"),
            "event_id": [f"{region}-{number}" for number in range(rows)],
            "event_time": times,
            "region": region,
            "label": pd.array(late ^ (random.random(rows) < noise), dtype="boolean"),
            "distance": np.where(random.random(rows) < 0.02, np.nan, distance),
            "parcels": random.integers(1, 9, rows),
            "weather": weather,
        }
    )


def end_of(frame: pd.DataFrame) -> datetime:
    """An instant after the last row."""
    return frame["event_time"].max().to_pydatetime().replace(tzinfo=UTC) + timedelta(seconds=1)
