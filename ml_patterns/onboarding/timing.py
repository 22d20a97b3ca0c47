"""How long a partition is, how late rows come, and when labels are known.

Belongs here: guesses from the times in the data. Does not: which columns the times are
(`roles.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from ml_patterns.base import format_duration
from ml_patterns.onboarding.roles import Guess
from ml_patterns.onboarding.sample import Sample
from ml_patterns.storage.sql import quoted

IN_TIME = 0.995
"""Share of the rows that the proposed grace period admits, where a few come much later."""

_HOURLY = 20  # events an hour from which hours are worth a partition
_LONG = timedelta(days=45)  # a longer history in hours would be many partitions
_STRAY = 3  # the latest is a stray where it comes this many times later than nearly all others
_HISTORY = timedelta(days=30)


@dataclass(frozen=True)
class Span:
    """Between which times nearly all events lie (UTC)."""

    first: datetime
    last: datetime
    events: int

    @property
    def length(self) -> timedelta:
        """At least an hour."""
        return max(self.last - self.first, timedelta(hours=1))


def span(sample: Sample, time: str) -> Span:
    """The events' times without strays, such as a clock that believes in 2099."""
    column = quoted(time)
    low, high, events = sample.one(
        f"SELECT quantile_disc({column}, 0.005), quantile_disc({column}, 0.995), count(*) "
        f"FROM newest WHERE isfinite({column})"
    )
    assert isinstance(low, datetime | date)
    assert isinstance(high, datetime | date)
    rough = timedelta(days=1) + (high - low)
    first, last = sample.one(
        f"SELECT min({column})::TIMESTAMP, max({column})::TIMESTAMP FROM newest WHERE "
        f"{column} BETWEEN TIMESTAMP '{low - rough}' AND TIMESTAMP '{high + rough}'"
    )
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return Span(first, last, int(str(events)))


def guess_grain(found: Span) -> Guess:
    """Hours for a busy and not too long stream, else days."""
    hourly = found.events / (found.length / timedelta(hours=1))
    days = found.length / timedelta(days=1)
    why = f"{found.events:,} events in {days:,.1f} days, {hourly:,.0f} an hour"
    return Guess("grain", "hour" if hourly >= _HOURLY and found.length <= _LONG else "day", why)


def guess_start(found: Span, whole: bool) -> Guess:
    """The day of the first event.

    Args:
        whole: all files were read.
    """
    why = f"the first event is of {found.first:%Y-%m-%d %H:%M}"
    return Guess(
        "start", f"{found.first:%Y-%m-%d}", why if whole else f"{why}, of the files that were read"
    )


def guess_label_delay(
    sample: Sample, columns: Mapping[str, str], label: str, grain: timedelta
) -> Guess:
    """How long after an event its label is known.

    Args:
        columns: of id, time and version.
        label: SQL of it.
    """
    if columns["time"] == columns["version"]:
        return Guess(
            "label_delay", format_duration(grain),
            "the files do not tell when a label became known; this is one partition",
        )  # fmt: skip
    identity, time, version = (quoted(columns[role]) for role in ("id", "time", "version"))
    late = _late(
        sample,
        f"SELECT min({version}) FILTER ({label} IS NOT NULL) - any_value({time}) AS late "
        f"FROM rows WHERE {identity} IS NOT NULL GROUP BY {identity}",
    )
    if late is None:
        why = "no row was recorded after its event; this is one partition"
        return Guess("label_delay", format_duration(grain), why)
    return Guess("label_delay", format_duration(late.rounded), late.told("of the labels"))


def guess_grace(
    sample: Sample, columns: Mapping[str, str], label_delay: timedelta, grain: timedelta
) -> Guess:
    """How long a partition stays open: for nearly all rows, and at least for the labels."""
    time, version = (quoted(columns[role]) for role in ("time", "version"))
    least = max(label_delay, grain)
    if time == version:
        return Guess("grace", format_duration(least), "the files do not tell how late rows come; "
                     "this is the least that fits the other settings")  # fmt: skip
    late = _late(sample, f"SELECT {version} - {time} AS late FROM rows")
    if late is None or late.rounded <= least:
        why = late.told("of the rows") if late else "no row came late"
        if not late or late.rounded < least:
            why += "; it must be at least a partition, and long enough for the labels"
        return Guess("grace", format_duration(least), why)
    return Guess("grace", format_duration(late.rounded), late.told("of the rows"))


def first_known(sample: Sample, columns: Mapping[str, str]) -> timedelta:
    """How long after its event the first row of it is recorded, in the median."""
    time, version = (quoted(columns[role]) for role in ("time", "version"))
    (median,) = sample.one(f"SELECT quantile_disc({version} - {time}, 0.5) FROM oldest")
    return median if isinstance(median, timedelta) else timedelta(0)


@dataclass(frozen=True)
class _Late:
    nearly_all: timedelta
    latest: timedelta

    @property
    def rounded(self) -> timedelta:
        """Hours, days from two days on; strays left out."""
        stray = self.latest > _STRAY * self.nearly_all
        late = self.nearly_all if stray else self.latest
        unit = timedelta(hours=1) if late <= timedelta(hours=48) else timedelta(days=1)
        return max(1, math.ceil(late / unit)) * unit

    def told(self, of_what: str) -> str:
        """One sentence on it."""
        sentence = (
            f"{IN_TIME:.1%} {of_what} came within {_told(self.nearly_all)} of the event, "
            f"the latest after {_told(self.latest)}"
        )
        if self.rounded > _HISTORY:
            sentence += "; that looks like a history that was loaded at once: say what is usual"
        return sentence


def _late(sample: Sample, query: str) -> _Late | None:
    nearly_all, latest = sample.one(
        f"SELECT quantile_disc(late, {IN_TIME}), max(late) FROM ({query}) "
        "WHERE late >= INTERVAL 0 SECONDS"
    )
    if not isinstance(latest, timedelta) or not isinstance(nearly_all, timedelta) or not latest:
        return None
    return _Late(nearly_all, latest)


def _told(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    if hours < 1:
        return f"{span / timedelta(minutes=1):.0f} min"
    return f"{hours:.1f} h" if hours <= 48 else f"{hours / 24:.1f} days"


def guess_window(grain: str, label_delay: timedelta) -> Guess:
    """A day of hours or a week of days, and as many more as labels are unknown for."""
    if grain == "hour":
        length = 24 + math.ceil(label_delay / timedelta(hours=1))
        return Guess("window", str(length), "a day, and the hours whose labels come in")
    length = 7 + math.ceil(label_delay / timedelta(days=1))
    return Guess("window", str(length), "a week, and the days whose labels come in")
