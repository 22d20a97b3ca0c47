"""A small project of its own: a shop in three regions, one file of orders a day.

Whether an order is late is the sum of two numbers, except in `west`, where it is a coin that was
tossed: north and south can be learned, west cannot. Each file brings the orders of its day, and
what became of those of the day before.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from ml_patterns_tests.projects import write_project

START = date(2025, 1, 6)
REGIONS = ("north", "south", "west")
ORDERS = 120
"""Per region and day."""

DEFS = """\
type: ml_patterns.EventModelPipeline

attributes:
  name: shop
  events:
    path: landing/*.parquet
    id: order_id
    time: ordered_at
    version: recorded_at
    region: region
    grain: day
    start: "2025-01-06"
    end: "2025-03-01"
    label_delay: 1d
    grace: 1d
  aggregates:
    window: 2
    label_columns: [late]
  external:
    - name: weather
      url: "{{ env('SHOP_WEATHER', 'http://127.0.0.1:9/?') }}&start_date={start}&end_date={end}"
      select: |
        SELECT
            CAST(unnest(CAST(body->'$.daily.time' AS VARCHAR[])) AS DATE) AS date,
            unnest(CAST(body->'$.daily.rain_sum' AS DOUBLE[])) AS rain
        FROM response
  training:
    candidates: [{num_leaves: 7, learning_rate: 0.2, min_data_in_leaf: 10}]
    min_rows: 200
    workers: 1
    retrain_share: 0.5
  retry: {attempt_timeout: 60s, min_wait: 1s, step_wait: 1s}
  predictions: {request_timeout: 60s, deadline: 5m}  # a busy machine is no outage
"""

AGGREGATES = """\
SELECT region, count(*) AS orders, count(*) FILTER (WHERE late) AS late FROM events GROUP BY region
"""

FEATURES = """\
WITH before AS (
    SELECT region, CAST(sum(orders) AS BIGINT) AS orders FROM aggregates GROUP BY region
)
SELECT
    o.order_id AS event_id, o.ordered_at AS event_time, o.region, o.late AS label,
    o.distance, o.queue, before.orders AS orders_before, weather.rain
FROM events AS o
LEFT JOIN before USING (region)
LEFT JOIN weather ON weather.date = CAST(o.ordered_at AS DATE)
"""


@dataclass(frozen=True)
class Shop:
    """The project's folder."""

    root: Path

    @classmethod
    def build(cls, root: Path) -> "Shop":
        """Writes the project; nothing has landed yet."""
        write_project(
            root, "shop_project", "shop", defs=DEFS, aggregates=AGGREGATES, features=FEATURES
        )
        return cls(root)

    def land(self, day: int, *more: pd.DataFrame) -> None:
        """Lets the file of a day arrive: its orders, and what became of those of the day before.

        Args:
            day: days after START.
            more: rows that come with it.
        """
        yesterday = [told(orders(day - 1))] if day else []
        rows = pd.concat([unlabelled(orders(day)), *yesterday, *more])
        path = self.root / "landing" / f"orders-{START + timedelta(days=day)}.parquet"
        waiting = path.with_suffix(".part")
        rows.to_parquet(waiting, index=False)
        waiting.rename(path)


def orders(day: int, count: int = ORDERS) -> pd.DataFrame:
    """The orders of a day with what became of them, `count` per region; always the same."""
    rng = np.random.default_rng([7, day])
    rows = len(REGIONS) * count
    frame = pd.DataFrame(
        {
            "order_id": [f"{day}-{number}" for number in range(rows)],
            "ordered_at": pd.Timestamp(START + timedelta(days=day))
            + pd.to_timedelta(rng.integers(0, 86_400, rows), unit="s"),
            "region": np.repeat(REGIONS, count),
            "distance": rng.integers(0, 10, rows),
            "queue": rng.integers(0, 10, rows),
        }
    )
    tossed = rng.integers(0, 2, rows).astype(bool)
    late = (frame["distance"] + frame["queue"] >= 10).to_numpy()
    frame["late"] = pd.array(np.where(frame["region"] == "west", tossed, late), dtype="boolean")
    return frame


def unlabelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Orders as they are known when they are placed."""
    unknown = pd.array([pd.NA] * len(rows), dtype="boolean")
    return rows.assign(late=unknown, recorded_at=rows["ordered_at"])


def told(rows: pd.DataFrame) -> pd.DataFrame:
    """The same orders, a day later."""
    return rows.assign(recorded_at=rows["ordered_at"] + pd.Timedelta(days=1))
