"""Time that only passes when somebody sleeps, and a draw that is always the highest."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

START = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class VirtualTime:
    """Clock, monotonic clock and sleep in one."""

    seconds: float = 0.0
    naps: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        """The wall clock, UTC."""
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        self.naps.append(seconds)
        self.seconds += seconds


def highest(_low: float, high: float) -> float:
    """The longest wait that jitter may draw."""
    return high
