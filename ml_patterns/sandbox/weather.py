"""The weather of the sandbox: the same for the parcels and for the upstream that reports it.

Belongs here: one day's weather from a seed. Does not: serving it (`upstream.py`), what rain does to
a parcel (`parcels.py`).
"""

import hashlib
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Weather:
    """One day: highest temperature in tenths of a degree Celsius, rain in tenths of a millimetre.

    Whole numbers, so that every platform computes the same parcels.
    """

    temperature_tenths: int
    rain_tenths: int

    @property
    def temperature_max(self) -> float:
        """Degrees Celsius."""
        return self.temperature_tenths / 10

    @property
    def rain_sum(self) -> float:
        """Millimetres."""
        return self.rain_tenths / 10


def weather_on(day: date, seed: int = 7) -> Weather:
    """The weather of a day: 12 to 31 °C; two days in five are wet, up to 12 mm."""
    digest = hashlib.sha256(f"{seed}/{day.isoformat()}".encode()).digest()
    wet = digest[0] % 5 < 2
    return Weather(
        temperature_tenths=120 + int.from_bytes(digest[1:3]) % 191,
        rain_tenths=1 + int.from_bytes(digest[3:5]) % 120 if wet else 0,
    )
