"""From some landed files to the settings and the SQL of a pipeline.

Belongs here: putting the guesses together, and what they came to. Does not: a single guess
(`roles.py`, `timing.py`, `leaks.py`), the files (`writing.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from ml_patterns.base import format_duration, parse_duration, utc_now
from ml_patterns.errors import SettingsError, UserError
from ml_patterns.onboarding import leaks, roles, timing
from ml_patterns.onboarding.roles import Guess, Missing, option
from ml_patterns.onboarding.sample import Column, Sample, read_sample
from ml_patterns.storage.sql import is_name, quoted

ROLES = ("id", "time", "version", "region", "label")
SPANS = ("grain", "start", "grace", "label_delay", "window")
_ONE_SIDED = 0.9
_SOON = 0.1


@dataclass(frozen=True)
class Proposal:
    """A pipeline, as far as its files tell.

    Attributes:
        path: for `events.path`.
        guesses: by setting: ROLES and SPANS.
        label: SQL of the label.
        features: columns that are known when the event happens.
        left_out: the others, with the reasons.
        sums: quantities that the aggregates sum up.
        late: why all aggregates are taken to be known as late as the labels; None: they are not.
        notes: what a person should know besides.
    """

    name: str
    path: str
    guesses: Mapping[str, Guess]
    label: str
    features: tuple[leaks.Feature, ...] = ()
    left_out: tuple[leaks.LeftOut, ...] = ()
    sums: tuple[Column, ...] = ()
    late: str | None = None
    notes: tuple[str, ...] = ()
    read: str = "No file was read"

    @property
    def label_is_column(self) -> bool:
        """Whether the label is a column rather than a condition."""
        column = quoted(self["label"])
        return self.label in (column, f"CAST({column} AS BOOLEAN)")

    def __getitem__(self, setting: str) -> str:
        """What a setting should say."""
        return self.guesses[setting].value


@dataclass(frozen=True)
class Wishes:
    """What the user said of the settings, by setting; all others are guessed.

    Raises:
        UserError: a wish is none that the setting can take.
    """

    said: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for setting in ("grace", "label_delay"):
            if setting in self.said:
                try:
                    parse_duration(self.said[setting])
                except ValueError as error:
                    raise UserError(f"{option(setting)}: {error}") from error
        if self.said.get("grain", "day") not in ("hour", "day"):
            raise UserError(f"--grain {self.said['grain']!r} is neither hour nor day")
        if "start" in self.said:
            try:
                date.fromisoformat(self.said["start"])
            except ValueError as error:
                raise UserError(f"--start {self.said['start']!r} is no day (2026-01-31)") from error

    def guess(self, setting: str) -> Guess | None:
        """The wish as a guess that is none."""
        value = self.said.get(setting)
        return None if value is None else Guess(setting, value, "you said so", given=True)


def checked_name(name: str) -> str:
    """A pipeline's name.

    Raises:
        SettingsError: it is none.
    """
    if not is_name(name):
        raise SettingsError(f"{name!r} is no name for a pipeline: a-z, 0-9 and _, a-z first")
    return name


def propose(name: str, events: str, project: Path, wishes: Wishes) -> Proposal:
    """Reads the files and proposes a pipeline.

    Args:
        name: of the pipeline.
        events: a file, folder or glob.
        project: the project's folder; paths are proposed relative to it.

    Raises:
        UserError: the files cannot be read, or something that is needed could not be guessed; one
            sentence that names every option that would help.
    """
    sample = read_sample(events, project)
    try:
        return _propose(checked_name(name), sample, wishes)
    finally:
        sample.connection.close()


def blank(name: str) -> Proposal:
    """A pipeline whose events nobody has seen yet: names to be replaced."""
    today = f"{utc_now():%Y-%m-%d}"
    values = {
        "id": "event_id", "time": "event_time", "version": "recorded_at", "region": "region",
        "label": "label", "grain": "day", "start": today, "grace": "1d", "label_delay": "1d",
        "window": "8",
    }  # fmt: skip
    reasons = dict.fromkeys(ROLES, "name your column") | {
        "grain": "hour or day",
        "start": "the first day of the stream",
        "grace": "how long a partition stays open, at least until its labels are known",
        "label_delay": "how long after an event its label is known",
        "window": "partitions that features look back at",
    }
    guesses = {key: Guess(key, value, reasons[key]) for key, value in values.items()}
    return Proposal(checked_name(name), f"landing/{name}/*.parquet", guesses, quoted("label"))


def _propose(name: str, sample: Sample, wishes: Wishes) -> Proposal:
    found = _roles(sample, wishes)
    missing = [entry for entry in found.values() if isinstance(entry, Missing)]
    guesses = {key: entry for key, entry in found.items() if isinstance(entry, Guess)}
    if missing:
        reasons = "; ".join(f"{option(entry.setting)} ({entry.why})" for entry in missing)
        seen = ", ".join(f"{key} {guess.value}" for key, guess in guesses.items())
        raise UserError(
            f"these could not be guessed from the columns {', '.join(sample.columns)}: give "
            f"{reasons}" + (f"; guessed: {seen}" if seen else "")
        )
    label = roles.label_condition(sample, guesses["label"].value)
    guesses |= _spans(sample, guesses, label, wishes)
    taken = {role: guesses[role].value for role in ROLES}
    differing, _ = leaks.changed(sample, taken["id"])
    features, left_out = leaks.sort_out(sample, taken, label, differing)
    return Proposal(
        name, sample.path, guesses, label, tuple(features), tuple(left_out),
        tuple(leaks.worth_summing(features)), _late(sample, guesses),
        tuple(_notes(sample, guesses, label)), _read(sample),
    )  # fmt: skip


def _roles(sample: Sample, wishes: Wishes) -> dict[str, roles.Found]:
    def wished(setting: str) -> Guess | None:
        value = wishes.said.get(setting)
        return None if value is None else roles.given(sample, setting, value)

    identity = wished("id") or roles.guess_id(sample)
    given = {setting: wished(setting) for setting in ("time", "version", "region")}
    if isinstance(identity, Missing):
        return {"id": identity, **{key: guess for key, guess in given.items() if guess}}
    time, version = roles.guess_times(sample, identity.value, given["time"], given["version"])
    found: dict[str, roles.Found] = {"id": identity, "time": time, "version": version}
    taken = [entry.value for entry in found.values() if isinstance(entry, Guess)]
    label: roles.Found | None = wishes.guess("label")
    if isinstance(time, Guess) and isinstance(version, Guess):
        _order_versions(sample, identity.value, version.value)
        if not label:
            spared = [*taken, *([given["region"].value] if given["region"] else [])]
            _, filled = leaks.changed(sample, identity.value)
            label = roles.guess_label(sample, spared, filled)
    if isinstance(label, Guess):
        taken.append(label.value)
    found["region"] = given["region"] or roles.guess_region(sample, taken)
    if label:
        found["label"] = label
    return found


def _order_versions(sample: Sample, identity: str, version: str) -> None:
    """Tables `oldest` and `newest`: the first and the last row of each event."""
    for table, order in (("oldest", "ASC"), ("newest", "DESC")):
        sample.connection.execute(
            f"CREATE OR REPLACE TABLE {table} AS "
            f"SELECT DISTINCT ON ({quoted(identity)}) *, {quoted(version)} AS _version FROM rows "
            f"WHERE {quoted(identity)} IS NOT NULL ORDER BY {quoted(identity)}, "
            f"{quoted(version)} {order}"
        )


def _spans(
    sample: Sample, guesses: Mapping[str, Guess], label: str, wishes: Wishes
) -> dict[str, Guess]:
    columns = {role: guesses[role].value for role in ("id", "time", "version")}
    seen = timing.span(sample, columns["time"])
    grain = wishes.guess("grain") or timing.guess_grain(seen)
    length = timedelta(hours=1) if grain.value == "hour" else timedelta(days=1)
    delay = wishes.guess("label_delay") or timing.guess_label_delay(sample, columns, label, length)
    known_after = parse_duration(delay.value)
    grace = wishes.guess("grace") or timing.guess_grace(sample, columns, known_after, length)
    least = max(known_after, length)
    if parse_duration(grace.value) < least:
        raise UserError(
            f"--grace {grace.value} is shorter than the label's delay or a partition; give at "
            f"least {format_duration(least)}, or a shorter --label-delay"
        )
    unit: Literal["hour", "day"] = "hour" if grain.value == "hour" else "day"
    return {
        "grain": grain,
        "start": wishes.guess("start") or timing.guess_start(seen, sample.read == sample.found),
        "grace": grace,
        "label_delay": delay,
        "window": timing.guess_window(unit, known_after),
    }


def _late(sample: Sample, guesses: Mapping[str, Guess]) -> str | None:
    """Where events are recorded well after they happened, the newest partitions are incomplete.

    A feature that sums them up would see in training what it cannot see when it is asked for.
    """
    columns = {role: guesses[role].value for role in ("id", "time", "version")}
    after = timing.first_known(sample, columns)
    length = timedelta(hours=1) if guesses["grain"].value == "hour" else timedelta(days=1)
    if after <= _SOON * length:
        return None
    minutes = after / timedelta(minutes=1)
    return f"an event is first recorded {minutes:,.0f} min after it (median), as its label is"


def _notes(sample: Sample, guesses: Mapping[str, Guess], label: str) -> list[str]:
    true = sample.share(label, "newest") / max(sample.share(f"{label} IS NOT NULL", "newest"), 1e-9)
    notes = []
    if max(true, 1 - true) >= _ONE_SIDED:
        answer = "true" if true > 0.5 else "false"
        notes.append(
            f"{max(true, 1 - true):.1%} of the known labels are {answer}: a model that always says "
            f"so has that accuracy; think of `gate: {{metric: auc}}` in defs.yaml"
        )
    ahead = sample.share(f"{quoted(guesses['time'].value)} > now()::TIMESTAMP")
    if ahead > 0:
        notes.append(
            f"{ahead:.1%} of the rows lie ahead of this machine's clock and would wait as future; "
            "if their times are local, set events.timezone in defs.yaml"
        )
    return notes


def _read(sample: Sample) -> str:
    some = f"{sample.read} of {sample.found}" if sample.read < sample.found else f"{sample.read}"
    (events,) = sample.one("SELECT count(*) FROM newest")
    return f"Read {some} files, {sample.rows:,} rows of {int(str(events)):,} events"
