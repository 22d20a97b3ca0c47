"""The little world behind the bundled events: parcels in eight regions, and what became of them.

Belongs here: what is true of a parcel. Does not: how the stream tells it, late, twice or wrongly
(`events.py`).

Only whole numbers, uniform draws and the four operations are used, because a logarithm may differ
in its last bit between platforms and the committed files must not.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from ml_patterns.sandbox.weather import weather_on

SEED = 7
START = datetime(2026, 6, 1, tzinfo=UTC)
DAYS = 7
HOURS = DAYS * 24
LONGEST_TRANSIT_S = 11 * 3600

CARRIERS = ("city_bike", "blue_van", "north_line", "road_runner")
SPEEDS_KMH = np.array([18, 30, 40, 60])
SERVICES = ("express", "standard", "economy")
PROMISED_HOURS = np.array([3, 5, 8])
PRICE_CENTS = np.array([1290, 790, 490])
# City, suburb, country: most parcels are clearly in time or clearly late, as in life.
DISTANCES_KM = np.array([[2, 14], [28, 46], [92, 130]])
PICKUPS_BY_HOUR = np.array(
    [6, 4, 3, 3, 4, 8, 18, 34, 52, 60, 58, 54, 50, 52, 58, 62, 60, 54, 44, 34, 26, 20, 14, 9]
)
PICKUPS_BY_DAY = np.array([10, 10, 10, 10, 11, 8, 7])


@dataclass(frozen=True)
class Region:
    """How much happens in a region, and how little of it can be foreseen.

    Attributes:
        parcels: picked up in the week.
        chance_per_mille: parcels whose fate nothing that is recorded explains.
    """

    parcels: int
    chance_per_mille: int


REGIONS = {
    "us_west": Region(parcels=7200, chance_per_mille=4),
    "us_east": Region(parcels=7800, chance_per_mille=4),
    "us_central": Region(parcels=4800, chance_per_mille=6),
    "canada": Region(parcels=3600, chance_per_mille=110),
    "eu": Region(parcels=6600, chance_per_mille=120),
    "uk": Region(parcels=3600, chance_per_mille=300),
    "apac": Region(parcels=5400, chance_per_mille=260),
    "oceania": Region(parcels=150, chance_per_mille=100),  # too small for a model of its own
}


def all_parcels() -> pd.DataFrame:
    """Every parcel of the week, by pick-up time.

    Returns:
        parcel_id, picked_up_at (UTC, no zone, whole seconds), region, carrier, service,
        distance_km, weight_g, promised_hours, price_cents, hub_backlog (parcels waiting in its
        hub), transit_s (at most LONGEST_TRANSIT_S) and delivered_late.
    """
    frames = [
        _parcels_of(name, region, np.random.default_rng([SEED, number]))
        for number, (name, region) in enumerate(REGIONS.items())
    ]
    parcels = pd.concat(frames, ignore_index=True)
    parcels = parcels.sort_values(["picked_up_at", "region"], kind="stable", ignore_index=True)
    parcels.insert(0, "parcel_id", [f"P{number:07d}" for number in range(1, len(parcels) + 1)])
    return parcels


def _parcels_of(name: str, region: Region, rng: np.random.Generator) -> pd.DataFrame:
    count = region.parcels
    hour = np.sort(_weighted(rng, np.outer(PICKUPS_BY_DAY, PICKUPS_BY_HOUR).ravel(), count))
    second = hour * 3600 + rng.integers(0, 3600, count)

    zone = _weighted(rng, np.array([50, 35, 15]), count)
    distance = rng.integers(DISTANCES_KM[zone, 0], DISTANCES_KM[zone, 1] + 1)
    # Bicycles ride in the city only.
    carrier = np.where(zone == 0, rng.integers(0, 4, count), rng.integers(1, 4, count))
    service = _weighted(rng, np.array([30, 45, 25]), count)
    promised = PROMISED_HOURS[service]
    weight = 10 * rng.integers(5, 250, count)
    backlog = _backlog_by_hour(rng)[hour] + rng.integers(-8, 9, count)

    rain = np.array(
        [weather_on((START + timedelta(days=day)).date()).rain_tenths for day in range(DAYS)]
    )[hour // 24]
    transit = (
        900  # at the door
        + distance * 3600 // SPEEDS_KMH[carrier]
        + backlog * 36  # a hundred parcels ahead of it are an hour
        + rain * 5
        + rng.integers(-300, 301, count)
    )
    by_chance = rng.integers(0, 1000, count) < region.chance_per_mille
    fate = promised * 36 * rng.integers(40, 160, count)
    transit = np.clip(np.where(by_chance, fate, transit), 600, LONGEST_TRANSIT_S)

    return pd.DataFrame(
        {
            "picked_up_at": pd.Timestamp(START).tz_localize(None)
            + pd.to_timedelta(second, unit="s"),
            "region": name,
            "carrier": np.array(CARRIERS)[carrier],
            "service": np.array(SERVICES)[service],
            "distance_km": distance,
            "weight_g": weight,
            "promised_hours": promised,
            "price_cents": PRICE_CENTS[service] + 2 * distance + weight // 20,
            "hub_backlog": backlog,
            "transit_s": transit,
            "delivered_late": transit > promised * 3600,
        }
    )


def _weighted(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """Indices into `weights`, as often as they weigh; whole numbers throughout."""
    totals = np.cumsum(weights)
    return np.searchsorted(totals, rng.integers(0, totals[-1], count), side="right")


def _backlog_by_hour(rng: np.random.Generator) -> np.ndarray:
    """Parcels waiting in a region's hub, shape (HOURS,): calm, but for jams of a few hours."""
    backlog = 20 + PICKUPS_BY_HOUR[np.arange(HOURS) % 24] + rng.integers(-10, 11, HOURS)
    hour = int(rng.integers(6, 14))
    while hour < HOURS:
        length = int(rng.integers(3, 7))
        backlog[hour : hour + length] += int(rng.integers(280, 340))
        hour += length + int(rng.integers(8, 18))
    return backlog
