"""The audits find what they are there to find: each sees one sabotage."""

import random

import pytest

from ml_patterns.errors import MLPatternsError, SourceFileError
from ml_patterns.incremental import audit, plan
from ml_patterns.incremental.commit import Commit
from ml_patterns.incremental.plan import LAYERS, Layer
from ml_patterns_tests.incremental.conftest import COLUMNS, HOUR, START, Shop, row


@pytest.fixture
def sound(shop: Shop) -> Shop:
    shop.land("a.parquet", [row(str(n), n % 8 + 0.5, amount=n) for n in range(40)])
    shop.land("b.parquet", [row("1", 1.5, known=3, amount=7), row("1", 1.5, known=3, amount=7)])
    shop.catch_up()
    return shop


def unaccounted(shop: Shop) -> list[str]:
    with shop.connect() as connection:
        return [item.sentence for item in audit.unaccounted_rows(connection, shop.settings)]


def recomputed(shop: Shop, layer: Layer, count: int = 99) -> list[str]:
    with shop.warehouse.connect(read_only=True) as connection:
        chosen = audit.closed_partitions(connection, shop.settings, layer, count, random.Random(1))
        assert chosen
        assert all(partition + HOUR <= START + 5.5 * HOUR for partition in chosen)
        found = audit.recompute_differences(connection, shop.settings, layer, chosen)
    return [item.sentence for item in found]


def sabotage(shop: Shop, sql: str) -> None:
    with shop.connect() as connection:
        connection.execute(sql)


def test_a_file_that_is_being_written_again_is_no_false_alarm(sound: Shop) -> None:
    """Its next listing judges it; until then the manifest speaks of what it was."""
    sound.land("a.parquet", [row("1", 0)])
    assert unaccounted(sound) == []
    sound.ingest()
    assert unaccounted(sound) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_a_sound_warehouse_passes(sound: Shop, layer: Layer) -> None:
    assert unaccounted(sound) == []
    assert recomputed(sound, layer) == []
    assert recomputed(sound, layer, 2) == []


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("DELETE FROM shop.event_features WHERE event_id = '3'", "kept 5 events"),
        ("INSERT INTO shop.event_features FROM shop.event_features LIMIT 1", "kept 5 events"),
        ("UPDATE shop.partition_manifest SET rows = rows + 1", "the manifest accounts for"),
        ("UPDATE shop.run_cost SET superseded = superseded + 1", "built from 5: kept 5"),
        (
            "UPDATE shop.run_cost SET accepted = accepted - 1, kept = kept - 1; "
            "DELETE FROM shop.event_features WHERE event_id IN (SELECT min(event_id) "
            "FROM shop.event_features GROUP BY partition_start)",
            "5 accepted rows in the manifest and was built from 4",
        ),
    ],
)
def test_a_lost_or_doubled_row_is_found(sound: Shop, sql: str, sentence: str) -> None:
    sabotage(sound, sql)
    assert any(sentence in found for found in unaccounted(sound))


def test_a_partition_in_which_rows_are_missing_is_not_built(sound: Shop) -> None:
    """It holds up no other; nothing of it is committed."""
    sound.land("c.parquet", [row("late", 5.5), row("new", 9)])
    sound.ingest()
    sabotage(sound, "UPDATE shop.partition_manifest SET rows = 9 WHERE revision = 3 "
             "AND hour(partition_start) = 9")  # fmt: skip
    with pytest.raises(SourceFileError, match=r"2026-06-01-09:00 .* 9 rows .* 1 were found"):
        sound.build("aggregates")
    assert sound.due_hours("aggregates") == {9: "new"}


def test_nothing_is_committed_that_was_not_computed(sound: Shop) -> None:
    """The blocking check of the transaction."""
    before = sound.table("aggregates")
    with sound.connect() as connection:
        wants = plan.wanted(connection, sound.settings, "aggregates", [START])

        def double() -> None:
            with Commit(connection, sound.settings, "aggregates", [START]) as commit:
                commit.claim({START: 1}, wants)
                commit.insert("shop.event_aggregates")
                commit.check({START: 1})

        with pytest.raises(MLPatternsError, match="would hold 2 rows, and 1 were computed"):
            double()
    assert sound.table("aggregates") == before
    assert sound.due("aggregates") == []


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE shop.event_{} SET amount = amount + 1 WHERE partition_start = '2026-06-01 01:00'",
        "DELETE FROM shop.event_{} WHERE partition_start = '2026-06-01 01:00'",
        "INSERT INTO shop.event_{0} FROM shop.event_{0} WHERE hour(partition_start) = 1 LIMIT 1",
    ],
)
def test_a_value_that_a_recompute_does_not_give_is_found(
    sound: Shop, layer: Layer, sql: str
) -> None:
    sabotage(sound, sql.format(layer))
    assert any(f"{layer} 2026-06-01-01:00 holds" in found for found in recomputed(sound, layer))


def test_a_gap_is_found(sound: Shop) -> None:
    with sound.connect() as connection:
        assert audit.gaps(connection, sound.settings) == []
    sabotage(sound, "UPDATE shop.partition_state SET events = NULL WHERE hour(partition_start) = 2")
    with sound.connect() as connection:
        assert audit.gaps(connection, sound.settings) == [START + 2 * HOUR]


def test_an_id_whose_time_changed_is_found_among_open_partitions(sound: Shop) -> None:
    sound.land("c.parquet", [row("5", 6.5, known=9), row("0", 7.5)])
    sound.catch_up()
    with sound.connect() as connection:
        assert audit.ids_with_many_times(connection, sound.settings) == ["5"]


def test_another_schema_is_found(sound: Shop) -> None:
    columns = {**COLUMNS, "amount": "INTEGER", "note": "VARCHAR"}
    del columns["label"]
    sound.land("c.parquet", [row("9", 7)], columns)
    sound.catch_up()
    with sound.connect() as connection:
        (found,) = audit.schema_changes(connection, sound.settings)
    path = sound.landed / "c.parquet"
    assert found.sentence == f"{path} brought note, lacks label, has amount as INTEGER, not BIGINT"
    sound.land("d.parquet", [row("10", 7)], columns)
    sound.catch_up()
    with sound.connect() as connection:
        assert audit.schema_changes(connection, sound.settings) == []
