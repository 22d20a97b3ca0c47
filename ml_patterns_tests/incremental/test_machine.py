"""Anything, in any order, against the oracle: equal bit for bit, accounts balanced."""

import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ml_patterns.errors import SourceFileError
from ml_patterns.incremental import build, dead_letter, ledger, manifest, plan
from ml_patterns.incremental.plan import LAYERS
from ml_patterns.storage.warehouse import has_table
from ml_patterns_tests.incremental.conftest import (
    AGGREGATES,
    FEATURES,
    HOUR,
    START,
    Row,
    Shop,
    make_settings,
    row,
    write,
)
from ml_patterns_tests.incremental.oracle import Oracle, ordered

NAMES = ("a.parquet", "b.csv", "c.jsonl", "d.parquet")
TYPED = FEATURES.replace("e.amount,", "CAST(e.amount AS BIGINT) AS amount,")
"""The first files may have no amount, and so no type of one."""
GRACE, DELAY, SKEW, WINDOW = 3 * HOUR, 2 * HOUR, timedelta(minutes=10), 4
MICROSECOND = timedelta(microseconds=1)

_hours = st.integers(-1, 14)
_offsets = st.sampled_from(
    [timedelta(0), MICROSECOND, HOUR / 2, HOUR - MICROSECOND, timedelta(minutes=10)]
)


def _event(id_: str | None, hour: int, offset: timedelta, known: int | None, **more: object) -> Row:
    entry = row(id_ or "", 0, **more)
    return {
        **entry,
        "id": id_,
        "at": START + hour * HOUR + offset,
        "known": None if known is None else START + known * HOUR,
    }


events = st.builds(
    _event,
    st.sampled_from(["1", "2", "3", None]),
    _hours,
    _offsets,
    st.sampled_from([None, 1, 2]),
    region=st.sampled_from(["eu", "eu", "us", " ", None]),
    amount=st.sampled_from([None, 1, 2, 30]),
    label=st.sampled_from([None, True, False]),
)
files = st.lists(events, min_size=1, max_size=6)


class KilledError(Exception):
    """Stands for a process that ends between two steps; `test_kill.py` ends real ones."""


class Stream(RuleBasedStateMachine):
    """Every rule changes the world and ends with a complete catch-up and a comparison."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._arguments: dict[str, object] = {
            "window": WINDOW, "grace": GRACE, "label_delay": DELAY, "allowed_skew": SKEW,
            "features": TYPED,
        }  # fmt: skip
        self._shop = Shop(folder, make_settings(folder, **self._arguments), now=8.0)
        self._oracle = Oracle(GRACE, SKEW, DELAY, WINDOW)
        self._connected = self._stack.enter_context(ExitStack())
        self._connection = self._connected.enter_context(self._shop.connect())
        self._steps_to_live: int | None = None

    def teardown(self) -> None:
        self._stack.close()

    # what happens to the files

    @initialize(
        name=st.sampled_from(NAMES),
        rows=files,
        at_once=st.sampled_from([1, 3, 32]),
        in_place=st.sampled_from([1, 20_000]),
    )
    def begin(self, name: str, rows: list[Row], at_once: int, in_place: int) -> None:
        """A run commits so many partitions at once, and reads files of so many rows in place."""
        self._stack.enter_context(patch.object(build, "PARTITIONS_AT_ONCE", at_once))
        self._stack.enter_context(patch.object(manifest, "WORTH_READING_IN_PLACE", in_place))
        self.deliver(name, rows)

    @rule(name=st.sampled_from(NAMES), rows=files)
    def deliver(self, name: str, rows: list[Row]) -> None:
        """A new file, or another content under an old name: a correction."""
        self._land(name, rows)
        self._check()

    @rule(names=st.permutations(NAMES), several=st.lists(files, min_size=2, max_size=3))
    def deliver_several(self, names: list[str], several: list[list[Row]]) -> None:
        for name, rows in zip(names, several, strict=False):
            self._land(name, rows)
        self._check()

    @precondition(lambda self: self._lying())
    @rule(data=st.data(), again=st.sampled_from(NAMES))
    def deliver_again(self, data: st.DataObject, again: str) -> None:
        """The same rows under another name, or under their own: duplicates, or nothing."""
        name = data.draw(st.sampled_from(sorted(self._lying())))
        self._land(again, list(self._oracle.disk[str(self._shop.landed / name)] or []))
        self._check()

    @rule(name=st.sampled_from(NAMES))
    def spoil(self, name: str) -> None:
        """A file arrives truncated."""
        path = write(self._shop.landed / name, [row("spoilt", 0)])
        path.write_bytes(path.read_bytes()[:-9])
        self._oracle.land(str(path), None)
        self._check()

    @precondition(lambda self: self._lying())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self._lying())))
        (self._shop.landed / name).unlink()
        self._oracle.remove(str(self._shop.landed / name))
        self._check()

    @precondition(lambda self: self._gone())
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(self._gone())))
        ledger.acknowledge_removal(self._connection, "shop", [path], self._shop.clock())
        self._oracle.let_go(path)
        self._check()

    # what happens to the pipeline

    @rule(partition=st.one_of(st.none(), st.integers(0, 14).map(lambda hour: START + hour * HOUR)))
    def replay(self, partition: datetime | None) -> None:
        dead_letter.replay(
            self._connection, self._shop.settings, self._shop.clock(), partition=partition
        )
        self._oracle.replay(partition)
        self._check()

    @rule(by=st.sampled_from([0.5, 1.0, 3.0]))
    def wait(self, by: float) -> None:
        self._shop.now += by
        self._check()

    @rule()
    def change_the_aggregates(self) -> None:
        self._oracle.twice = not self._oracle.twice
        twice = AGGREGATES.replace("sum(amount)", "sum(amount * 2)")
        self._arguments["aggregates"] = twice if self._oracle.twice else AGGREGATES
        self._shop.change(**self._arguments)
        self._check()

    @rule(comment=st.sampled_from(["-- one\n", "/* two */ "]))
    def change_a_comment(self, comment: str) -> None:
        """Restates nothing."""
        self._arguments["features"] = comment + TYPED
        self._shop.change(**self._arguments)
        assert not self._due() or self._oracle.blocked()
        self._check()

    @rule()
    def restart(self) -> None:
        self._connected.close()
        self._connection = self._connected.enter_context(self._shop.connect())
        self._check()

    @rule(name=st.sampled_from(NAMES), rows=files, after=st.integers(1, 12))
    def die_on_the_way(self, name: str, rows: list[Row], after: int) -> None:
        """Ends at a boundary; what the run left is finished by the next."""
        self._land(name, rows)
        self._steps_to_live = after
        try:
            self._catch_up()
        except (KilledError, SourceFileError):
            pass  # the comparison after the restart says whether it was right
        finally:
            self._steps_to_live = None
        self.restart()

    # how it is judged

    def _land(self, name: str, rows: list[Row]) -> None:
        self._oracle.land(str(self._shop.land(name, rows)), rows)

    def _lying(self) -> set[str]:
        return {Path(path).name for path, rows in self._oracle.disk.items() if rows is not None}

    def _gone(self) -> set[str]:
        return {path for path in self._oracle.current if path not in self._oracle.disk}

    def _due(self) -> list[plan.DuePartition]:
        now = self._shop.clock()
        return [
            entry
            for layer in LAYERS
            for entry in plan.plan(self._connection, self._shop.settings, layer, now)
        ]

    def _step(self, name: str) -> None:
        if self._steps_to_live is not None:
            self._steps_to_live -= 1
            if self._steps_to_live <= 0:
                raise KilledError(name)

    def _catch_up(self) -> None:
        shop, oracle = self._shop, self._oracle
        now = START + shop.now * HOUR
        had = dict(oracle.waiting)

        def step(name: str) -> None:
            if name == "listed":
                oracle.list_files(now)
            elif name == "manifest":
                oracle.read()
            self._step(name)

        manifest.ingest(self._connection, shop.settings, shop.clock, step)
        oracle.read()
        assert not had or not oracle.waiting
        for layer in LAYERS:
            due = plan.plan(self._connection, shop.settings, layer, shop.clock())
            chosen = [entry.partition for entry in due]
            for _ in build.build(
                self._connection, shop.settings, layer, chosen, shop.clock, self._step
            ):
                pass

    def _check(self) -> None:
        oracle, now = self._oracle, START + self._shop.now * HOUR
        told = ""
        try:
            self._catch_up()
        except SourceFileError as error:
            told = str(error)
        assert not told or any(path in told for path in oracle.blocked())
        found = ledger.accounts(self._connection, "shop")
        wanted = oracle.accounts(now)
        classes = ("accepted", "too_late", "future", "invalid")
        assert {name: asdict(found)[name] for name in classes} == {
            name: wanted[name] for name in classes
        }
        assert found.delivered == sum(wanted[name] for name in classes)
        if oracle.blocked():
            return
        assert self._due() == []
        assert (found.kept, found.superseded, found.duplicate) == (
            wanted["kept"], wanted["superseded"], wanted["duplicate"],
        )  # fmt: skip
        for layer, expected in (
            ("aggregates", oracle.aggregates(now)),
            ("features", oracle.features(now)),
        ):
            if expected or has_table(self._connection, "shop", f"event_{layer}"):
                rows = self._connection.execute(f"SELECT * FROM shop.event_{layer}").fetchall()
                assert ordered(rows) == expected


Stream.TestCase.settings = settings(
    max_examples=6,  # the long life below tells more and longer stories
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStream = Stream.TestCase


@pytest.mark.slow
def test_a_long_life_of_the_stream() -> None:
    """The same machine, more and longer stories."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Stream,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
