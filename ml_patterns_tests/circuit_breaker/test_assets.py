"""Promise: partitions are answered in an outage too, remembered, and healed by adding answers."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import duckdb
import pytest

from ml_patterns.circuit_breaker.asking import in_batches
from ml_patterns.circuit_breaker.store import OperationalStore, breaker_name
from ml_patterns.partitions import range_tags
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.circuit_breaker.model_server import always
from ml_patterns_tests.circuit_breaker.model_server import healthy as as_it_should
from ml_patterns_tests.circuit_breaker.room import HOURS, KEYS, Room, checks, room, told

__all__ = ["room"]

# Dagster calls backfill policies beta; we need them, and the lock file pins what they do.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def test_a_healthy_server_answers_every_partition_live(room: Room) -> None:
    result = room.predict()
    assert result.success
    by_partition = told(result)
    assert sorted(by_partition) == KEYS
    for metadata in by_partition.values():
        assert (metadata["rows_live"], metadata["rows_base_rate"]) == (6, 2)
        assert metadata["rows_without_model"] == 2
        assert metadata["fallback_rate"] == 0
        assert metadata["http_attempts"] == 1
        assert metadata["breaker"] == "closed"
    assert room.degraded() == []
    found = checks(result)
    assert found["every_row_answered"].passed
    assert found["fallback_rate"].passed


def test_an_outage_is_answered_remembered_and_healed(room: Room) -> None:
    assert room.predict(0, 0).success
    room.server.behaviour = always(503)
    outage = room.predict(1, 2)
    assert outage.success, "an outage fails no partition"
    assert room.degraded() == HOURS[1:]
    found = checks(outage)
    assert found["every_row_answered"].passed
    assert not found["fallback_rate"].passed
    assert found["fallback_rate"].severity is dg.AssetCheckSeverity.ERROR

    room.server.behaviour = as_it_should
    healed = room.predict(1, 2)
    assert room.degraded() == []
    assert [metadata["rows_live"] for metadata in told(healed).values()] == [6, 6]
    assert all(metadata["healed"] for metadata in told(healed).values())
    assert checks(healed)["fallback_rate"].passed
    by_answers = room.query(
        "SELECT answers, count(*) FROM (SELECT event_id, count(*) AS answers "
        "FROM deliveries.predictions GROUP BY 1) GROUP BY 1 ORDER BY 1"
    )
    assert by_answers == [(1, 8), (2, 16)], "healing adds answers, it rewrites none"


def test_healing_asks_only_for_rows_without_a_live_answer(room: Room) -> None:
    """Batches of four: the first is answered, the second meets an outage."""
    first_batch_only = iter([None])
    room.server.behaviour = lambda _rows: next(first_batch_only, 503)
    room.predict(0, 0, batch_rows=4)
    assert room.degraded() == HOURS[:1]
    room.server.behaviour = as_it_should
    room.server.sizes.clear()
    room.predict(0, 0)
    assert room.server.sizes == [2], "four of six rows were live already"
    assert room.degraded() == []


def test_the_sensor_requests_exactly_the_degraded_partitions(room: Room) -> None:
    assert room.heal_tick() == []
    room.server.behaviour = always(503)
    room.predict(0, 0)
    room.predict(2, 2)
    breaker = OperationalStore(room.deployment.engine)
    assert breaker.read(breaker_name(room.server.url)).state == "open"
    assert room.heal_tick() == [range_tags(KEYS[0], KEYS[0])], "a probe is due: one partition"
    room.server.behaviour = as_it_should
    room.predict(1, 1)
    assert breaker.read(breaker_name(room.server.url)).state == "closed"
    assert room.heal_tick() == [range_tags(KEYS[0], KEYS[0]), range_tags(KEYS[2], KEYS[2])]


def test_an_answer_from_long_ago_is_warned_of(room: Room) -> None:
    assert checks(room.predict(0, 0, stale_after=timedelta(0)))["staleness"].passed
    room.server.behaviour = always(503)
    found = checks(room.predict(0, 0, stale_after=timedelta(0)))
    assert not found["staleness"].passed
    assert found["staleness"].metadata["oldest_answer_s"].value > 0
    assert checks(room.predict(0, 0))["staleness"].passed


def test_what_changed_since_its_live_answer_is_asked_again_with_the_rest(room: Room) -> None:
    """A later version of an event once kept the answer that its old features got."""
    first_batch_only = iter([None])
    room.server.behaviour = lambda _rows: next(first_batch_only, 503)
    room.predict(0, 0, batch_rows=4)
    answered = room.query("SELECT event_id FROM deliveries.predictions WHERE source = 'live'")
    changed = sorted(str(event) for (event,) in answered)[:2]
    labels_only, distance = changed
    room.features(
        f"UPDATE deliveries.event_features SET label = NOT label WHERE event_id = '{labels_only}'"
    )
    room.features(
        f"UPDATE deliveries.event_features SET distance = 0.25 WHERE event_id = '{distance}'"
    )
    room.server.behaviour = as_it_should
    room.server.sizes.clear()
    room.predict(0, 0)
    assert room.server.sizes == [2 + 1], "two that had fallen back, one whose features changed"
    newest = room.query(
        "SELECT prediction FROM deliveries.predictions "
        f"WHERE event_id = '{distance}' ORDER BY made_at DESC"
    )
    assert newest[0] == (0.25,)


def test_answers_that_cannot_be_kept_leave_the_partition_to_be_asked_again(room: Room) -> None:
    room.features("CREATE VIEW deliveries.predictions AS SELECT 1 AS nothing")
    room.server.behaviour = always(503)
    assert not room.predict(0, 0).success
    assert room.degraded() == HOURS[:1]


def test_a_range_opens_the_warehouse_a_few_times_whatever_its_length(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once was opened three times per partition: most of what a range of hours took."""
    opened = []
    connect = Warehouse._open

    def counted(self: Warehouse, *, read_only: bool) -> object:
        opened.append(read_only)
        return connect(self, read_only=read_only)

    monkeypatch.setattr(Warehouse, "_open", counted)
    for first, last in ((0, 0), (0, 2)):
        opened.clear()
        assert room.predict(first, last).success
        checks_open_it_too = 3
        assert len(opened) == 3 + checks_open_it_too


def test_large_ranges_are_read_in_batches_that_hold_every_partition_once() -> None:
    starts = [datetime(2026, 6, 1, hour, tzinfo=UTC) for hour in range(6)]
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA p")
        connection.execute(
            "CREATE TABLE p.event_features AS "
            "SELECT TIMESTAMP '2026-06-01' + to_hours(hour) AS partition_start "
            "FROM (VALUES (0, 4), (1, 4), (2, 30), (4, 3), (5, 7)) rows(hour, count), range(count)"
        )
        batches = in_batches(connection, "p", starts, most_rows=10)
    assert [[start.hour for start in batch] for batch in batches] == [[0, 1], [2], [3, 4, 5]]
