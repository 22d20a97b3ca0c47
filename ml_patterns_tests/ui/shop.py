"""A shop's day of orders: one file and one partition per hour, two regions.

Belongs here: the project that the browser looks at. Does not: processes (`platform.py`).
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from ml_patterns_tests.projects import write_project

HOURS = 24
REGIONS = ("north", "south")
ORDERS_PER_HOUR = 20
START = datetime(2026, 6, 1, tzinfo=UTC)

DEFS = """\
type: ml_patterns.EventModelPipeline

attributes:
  name: shop
  events:
    path: landing/*.parquet
    id: order_id
    time: ordered_at
    version: ordered_at
    region: region
    grain: hour
    start: "2026-06-01"
    end: "2026-06-02"
    grace: 1h
  aggregates: {window: 2}
  training:
    candidates: [{num_leaves: 4, min_data_in_leaf: 5}]
    max_rounds: 10
    min_rows: 50
    min_positives: 5
    workers: 1
  gate: {deploy_at: 0.6, review_at: 0.5}
  owners: ["team:shop"]
"""

AGGREGATES = """\
SELECT region, count(*) AS orders, CAST(sum(items) AS BIGINT) AS items
FROM events GROUP BY region
"""

FEATURES = """\
WITH before AS (
    SELECT region, CAST(sum(items) AS BIGINT) AS items FROM aggregates GROUP BY region
)
SELECT order_id AS event_id, ordered_at AS event_time, events.region, late AS label,
    events.items, distance, before.items AS items_before
FROM events LEFT JOIN before ON before.region = events.region
"""


def key(hour: int) -> str:
    """Partition key of an hour of the day."""
    return f"{START + timedelta(hours=hour):%Y-%m-%d-%H:%M}"


def landed(root: Path, hour: int) -> Path:
    """The file of an hour."""
    return root / "landing" / f"orders-{hour:02}.parquet"


def make_shop(root: Path, module: str) -> Path:
    """Writes the project and the files of its day.

    Args:
        module: name of its package; a process that loads several shops needs several names.

    Returns:
        The folder of its pipeline.
    """
    folder = write_project(
        root, module, "shop", defs=DEFS, aggregates=AGGREGATES, features=FEATURES
    )
    random = np.random.default_rng(4)
    for hour in range(HOURS):
        rows = [
            {
                "order_id": f"{hour}-{region}-{number}",
                "ordered_at": START.replace(tzinfo=None) + timedelta(hours=hour, minutes=number),
                "region": region,
                "items": int(items),
                "distance": int(distance),
                "late": bool(items + distance > 12),
            }
            for region in REGIONS
            for number, (items, distance) in enumerate(random.integers(1, 13, (ORDERS_PER_HOUR, 2)))
        ]
        pd.DataFrame(rows).to_parquet(landed(root, hour), index=False)
    return folder
