"""The cursor: how far a table was read, and from where it is read again.

Belongs here: the arithmetic of cursors, and how they are written down. Does not: where they are
kept (`files.py`).

A cursor alone loses rows: a transaction that began earlier may commit later, with an older update
time or a smaller number than what was read by then. So the last stretch is read again each time.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from ml_patterns.base import format_duration
from ml_patterns.errors import UserError
from ml_patterns.landing.settings import SourceSettings

_NUMBERS = 1000
_TIME = timedelta(minutes=10)
# SQLite compares times as texts, which may lack their fractions of a second.
_FRACTION = timedelta(seconds=1)


@dataclass(frozen=True)
class Cursor:
    """A value of the cursor's column.

    Attributes:
        kind: `text` is a time that the database gives as a text (ISO 8601).
    """

    kind: Literal["number", "time", "text"]
    value: int | datetime

    @classmethod
    def of(cls, value: object, source: SourceSettings) -> Self:
        """The cursor of a row.

        Raises:
            UserError: the column holds something else than numbers or times.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            return cls("number", value)
        if isinstance(value, datetime):
            return cls("time", value)
        if isinstance(value, str):
            try:
                return cls("text", datetime.fromisoformat(value))
            except ValueError:
                pass
        raise UserError(
            f"source.cursor {source.cursor} of {source.told} holds {value!r}, which is neither a "
            "number nor a time; name a column that grows with every change"
        )

    def written(self) -> dict[str, str | int]:
        """As JSON."""
        value = self.value.isoformat() if isinstance(self.value, datetime) else self.value
        return {"kind": self.kind, "value": value}

    @classmethod
    def read(cls, written: dict[str, str | int]) -> Self:
        """From what `written` gave."""
        value = written["value"]
        kind: Literal["number", "time", "text"]
        if written["kind"] == "number":
            return cls("number", int(value))
        kind = "time" if written["kind"] == "time" else "text"
        return cls(kind, datetime.fromisoformat(str(value)))

    def back(self, source: SourceSettings) -> "Cursor":
        """The first cursor that is read again.

        Raises:
            UserError: the overlap is a duration and the cursor a number, or the other way round.
        """
        overlap = source.overlap
        if isinstance(self.value, int):
            if isinstance(overlap, timedelta):
                raise UserError(
                    f"source.overlap {format_duration(overlap)} is a duration, but source.cursor "
                    f"{source.cursor} holds numbers; give a count of them"
                )
            return Cursor(self.kind, self.value - (_NUMBERS if overlap is None else overlap))
        if isinstance(overlap, int):
            raise UserError(
                f"source.overlap {overlap} is a count, but source.cursor {source.cursor} holds "
                "times; give a duration such as 10m"
            )
        span = _TIME if overlap is None else overlap
        return Cursor(self.kind, self.value - span - _FRACTION)

    def bound(self) -> int | datetime | str:
        """As the database compares it."""
        if self.kind == "text" and isinstance(self.value, datetime):
            # A blank sorts before the T of ISO 8601: rather too many rows than too few.
            return self.value.strftime("%Y-%m-%d %H:%M:%S")
        return self.value

    def before(self, other: "Cursor") -> bool:
        """Whether it is smaller than another of its column."""
        if isinstance(self.value, int) or isinstance(other.value, int):
            return int(str(self.value)) < int(str(other.value))
        return _aware(self.value) < _aware(other.value)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
