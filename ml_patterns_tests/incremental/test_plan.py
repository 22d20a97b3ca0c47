"""What is due, why, and that nothing else is."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.incremental import planning
from ml_patterns.errors import TransformError
from ml_patterns.incremental import audit, build, plan
from ml_patterns.incremental.layer_code import normalised
from ml_patterns.incremental.plan import LAYERS
from ml_patterns_tests.incremental.conftest import (
    AGGREGATES,
    FEATURES,
    HOUR,
    START,
    Shop,
    hours,
    row,
)


@pytest.fixture
def old(shop: Shop) -> Shop:
    """Hours 0 to 9 built, one event each; the watermark at 7.5."""
    shop.land("a.parquet", [row(str(hour), hour + 0.5) for hour in range(10)])
    shop.catch_up()
    return shop


def test_a_new_stream_is_new_and_its_holes_are_gaps(shop: Shop) -> None:
    shop.land("a.parquet", [row("1", 1), row("2", 7)])
    shop.ingest()  # watermark: 5.0
    assert shop.due_hours("aggregates") == {
        0: "gap", 1: "new", 2: "gap", 3: "gap", 4: "gap", 7: "new",
    }  # fmt: skip
    assert list(shop.due_hours("features")) == [0], "the windows of the others are not built"
    shop.build("aggregates")
    assert list(shop.due_hours("features")) == [0, 1, 2, 3, 4, 7]
    shop.build("features")
    assert shop.due("aggregates") == shop.due("features") == []


def test_features_that_wait_for_their_window_are_known_before(shop: Shop) -> None:
    """What a run computes is what the plan showed before it, whatever the plan was asked about."""

    def following() -> dict[int, str]:
        with shop.connect() as connection:
            found = plan.following(connection, shop.settings, shop.clock())
        return {hours(entry.partition): entry.reason for entry in found}

    def foretold_and_built() -> tuple[list[int], list[int]]:
        foretold = sorted({*shop.due_hours("features"), *following()})
        shop.build("aggregates")
        assert following() == {}
        built = list(shop.due_hours("features"))
        shop.build("features")
        return foretold, built

    shop.land("a.parquet", [row(str(hour), hour + 0.5) for hour in range(10)])
    shop.ingest()
    assert following() == dict.fromkeys(range(1, 10), "new")
    foretold, built = foretold_and_built()
    assert foretold == built == [*range(10)]

    shop.land("b.parquet", [row("late", 7.9)])
    shop.ingest()
    assert following() == {8: "aggregates", 9: "aggregates"}
    foretold, built = foretold_and_built()
    assert foretold == built == [7, 8, 9]
    assert following() == {}


def test_a_gap_is_built_empty_and_fills_when_its_rows_come(old: Shop) -> None:
    old.land("b.parquet", [row("far", 30.5)])
    built = old.catch_up()["aggregates"]
    assert built == [*range(10, 28), 30]
    assert old.query("SELECT count(*) FROM shop.partition_state WHERE events = 'none'") == [(36,)]


def test_late_rows_restate_their_partition_and_exactly_the_windows_that_cover_it(
    old: Shop,
) -> None:
    old.land("b.parquet", [row("late", 7.9)])
    old.ingest()
    assert old.due_hours("aggregates") == {7: "late rows"}
    old.build("aggregates")
    assert old.due_hours("features") == {7: "late rows", 8: "aggregates", 9: "aggregates"}
    old.land("c.parquet", [row("next", 13.5)])
    old.catch_up()
    old.land("d.parquet", [row("late", 11.7)])
    old.ingest()
    old.build("aggregates")
    assert old.due_hours("features") == {11: "new", 13: "aggregates"}


def test_rolling_windows_hold_exactly_the_partitions_before(old: Shop) -> None:
    before = old.query("SELECT partition_start, events_before FROM shop.event_features ORDER BY 1")
    assert [(hours(p), n) for p, n in before] == [
        (0, None), (1, 1), (2, 2), *((hour, 3) for hour in range(3, 10)),
    ]  # fmt: skip


def test_a_partition_that_is_not_over_waits(old: Shop) -> None:
    old.now = 11.75
    old.land("b.parquet", [row("now", 11.5), row("before", 10.5)])
    old.ingest()
    assert old.due_hours("aggregates") == {10: "new"}
    old.now = 12
    assert old.due_hours("aggregates") == {10: "new", 11: "new"}


def test_a_changed_comment_restates_nothing(old: Shop) -> None:
    old.change(
        aggregates="-- how we sum up\n" + AGGREGATES.replace("FROM", "  /* all */\n FROM") + ";",
        features=FEATURES.replace("\n", "\n\n") + "-- the end",
    )
    assert old.due("aggregates") == old.due("features") == []
    assert old.catch_up() == {"aggregates": [], "features": []}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("SELECT 1 -- one", "SELECT 1", True),
        ("SELECT '-- one'", "SELECT '-- two'", False),
        ("SELECT 'a  b'", "SELECT 'a b'", False),
        ('SELECT 1 AS "a  b"', 'SELECT 1 AS "a b"', False),
        ("SELECT /* '*/ 1 /* ' */", "SELECT 1", True),
        ("SELECT 1 -- it's\n, 'x'", "SELECT 1\n, 'x'", True),
        ("SELECT 1 -- it's\n, 'x'", "SELECT 1\n, 'y'", False),
        ("SELECT 'it''s -- no comment' ", "SELECT 'it''s -- no comment'", True),
        ("SELECT $$ -- a $$", "SELECT $$ -- b $$", False),
        ("SELECT E'it\\'s -- a'", "SELECT E'it\\'s -- b'", False),
        ("SELECT /* a /* b */ 1 */ 2", "SELECT 2", True),
        ("SELECT /* a /* b */ -- */ 1", "SELECT /* a /* b */ -- */ 2", False),
        ("SELECT 'a '  'b'", "SELECT 'a ' 'b'", True),
    ],
)
def test_only_comments_and_white_space_are_normalised_away(
    one: str, other: str, same: bool
) -> None:
    assert (normalised(one) == normalised(other)) == same


def test_changed_sql_restates_exactly_its_layer_and_what_follows_from_it(old: Shop) -> None:
    old.change(features=FEATURES.replace("e.amount,", "e.amount, e.amount * 2 AS twice,"))
    assert old.due("aggregates") == []
    assert old.due_hours("features") == dict.fromkeys(range(10), "code")
    assert old.catch_up() == {"aggregates": [], "features": list(range(10))}

    old.change(aggregates=AGGREGATES.replace("sum(amount)", "sum(amount * 3)"))
    assert old.due_hours("aggregates") == dict.fromkeys(range(10), "code")
    old.catch_up()
    assert old.table("features")[-1][7] == 9


def test_a_column_that_the_sql_no_longer_returns_goes_and_a_retyped_one_changes(
    old: Shop,
) -> None:
    old.change(
        features=FEATURES.replace("e.amount,", "CAST(e.amount AS VARCHAR) AS amount,").replace(
            "before.amount AS amount_before,", ""
        )
    )
    old.catch_up()
    kinds = dict(
        old.query(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = 'event_features'"
        )
    )
    assert kinds["amount"] == "VARCHAR"
    assert "amount_before" not in kinds
    assert old.query("SELECT DISTINCT amount FROM shop.event_features") == [("1",)]


def test_changed_settings_restate_what_they_change(old: Shop) -> None:
    old.change(window=5)
    assert old.due("aggregates") == []
    assert old.due_hours("features") == dict.fromkeys(range(10), "settings")
    old.change(label_delay="1h")
    assert old.due_hours("features") == dict.fromkeys(range(10), "settings")
    old.change(grace="3h", allowed_skew="1m")
    assert old.due("aggregates") == old.due("features") == []


@pytest.mark.parametrize(
    ("bounds", "left"),
    [({"start": "2026-06-02"}, ["24", "30"]), ({"end": "2026-06-02"}, ["20"])],
    ids=["start", "end"],
)
def test_what_the_bounds_leave_out_is_no_partition_any_more(
    shop: Shop, bounds: dict[str, str], left: list[str]
) -> None:
    """Dagster has no such partitions, either: a run for one of them could not start."""
    shop.land("a.parquet", [row(str(hour), hour) for hour in (20, 24, 30)])
    shop.catch_up()
    before = [shop.table(layer) for layer in LAYERS]
    shop.change(**bounds)
    inside = range(24, 99) if "start" in bounds else range(24)
    assert set(shop.due_hours("aggregates")) <= set(inside)
    shop.catch_up()
    assert [entry[1] for entry in shop.table("features")] == left
    assert shop.due("aggregates") == shop.due("features") == []
    assert shop.accounts().kept == len(left)
    with shop.connect() as connection:
        assert audit.unaccounted_rows(connection, shop.settings) == []
    shop.change()
    shop.catch_up()
    assert [shop.table(layer) for layer in LAYERS] == before


def test_a_file_that_the_bounds_leave_out_may_go(shop: Shop) -> None:
    """Nothing waits for partitions that are none any more."""
    old = shop.land("a.parquet", [row("22", 22), row("23", 23)])
    shop.land("b.parquet", [row(str(hour), hour) for hour in (24, 25, 40)])
    shop.catch_up()
    old.unlink()
    shop.change(start="2026-06-02")
    shop.catch_up()
    assert shop.due("aggregates") == shop.due("features") == []
    assert [entry[1] for entry in shop.table("features")] == ["24", "25", "40"]
    with shop.connect() as connection:
        assert plan.following(connection, shop.settings, shop.clock()) == []
        assert audit.gaps(connection, shop.settings) == []


def test_another_skew_judges_every_file_again(make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(allowed_skew="1m")
    shop.now = 2.0
    shop.land("a.parquet", [row("1", 1), row("2", 2), row("3", 2.1)])
    shop.ingest()
    assert shop.classes() == {"accepted": 2, "future": 1}
    shop.change(allowed_skew="1h")
    shop.catch_up()
    assert shop.classes() == {"accepted": 3}


def test_another_zone_reads_every_file_again(old: Shop) -> None:
    old.change(timezone="Europe/Berlin", start="2026-05-31")
    assert old.ingest().files == 1
    assert old.due_hours("aggregates")[-2] == "new"
    old.catch_up()
    assert [hours(r[0]) for r in old.table("features")] == list(range(-2, 8))


def test_labels_are_null_while_they_may_be_unknown(old: Shop) -> None:
    """The window is 3 hours, labels take 2: only the oldest hour of it has them."""
    features = [(hours(r[0]), r[8], r[9]) for r in old.table("features")]
    assert features[5:7] == [(5, 0, 0), (6, 0, 0)]
    old.change(grace="6h")
    old.land("b.parquet", [row("5", 5.5, known=8, label=True)])
    old.land("c.parquet", [row("9", 9.5, known=12, label=True)])
    old.catch_up()
    found = {hours(r[0]): (r[8], r[9]) for r in old.table("features")}
    assert (found[6], found[7], found[8], found[9]) == ((0, 0), (0, 0), (1, 1), (0, 0))


def test_changing_a_label_within_its_delay_changes_no_feature(old: Shop) -> None:
    """Training sees what serving saw: the features of hour 8, 9 know nothing of hour 7's label."""
    before = old.query("SELECT * EXCLUDE (label) FROM shop.event_features ORDER BY ALL")
    old.land("b.parquet", [row(str(h), h + 0.5, known=12, label=True) for h in (7, 8, 9)])
    old.catch_up()
    after = old.query("SELECT * EXCLUDE (label) FROM shop.event_features ORDER BY ALL")
    assert after == before
    assert old.query("SELECT count(*) FROM shop.event_features WHERE label") == [(3,)]


def test_an_update_while_a_partition_is_computed_leaves_it_due(old: Shop) -> None:
    """What is recorded as built is what was wanted when the work began."""
    old.land("b.parquet", [row("late", 8.1)])
    old.ingest()
    with old.connect() as connection:

        def meanwhile(name: str) -> None:
            if name == "loaded" and not (old.landed / "c.parquet").exists():
                old.land("c.parquet", [row("later", 8.2)])
                from ml_patterns.incremental import manifest

                manifest.ingest(connection, old.settings, old.clock)

        list(
            build.build(
                connection, old.settings, "aggregates", [START + 8 * HOUR], old.clock, meanwhile
            )
        )
        due = plan.plan(connection, old.settings, "aggregates", old.clock())
    assert [(hours(entry.partition), entry.reason) for entry in due] == [(8, "late rows")]
    old.catch_up()
    assert old.query(
        f"SELECT events FROM shop.event_aggregates WHERE partition_start = '{START + 8 * HOUR}'"
    ) == [(3,)]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"aggregates": "SELECT nothing FROM events"}, "aggregates.sql of pipeline shop failed"),
        ({"aggregates": "SELECT 1 AS partition_start FROM events"}, "leave it out"),
        ({"features": "SELECT id AS event_id FROM events"}, "does not return event_time, region"),
        ({"features": FEATURES + " WHERE e.amount > 1"}, "it must return each event once"),
        ({"features": FEATURES + ", range(2)"}, "it must return each event once"),
        ({"features": FEATURES.replace("e.amount,", "[1] AS many,")}, "returns feature many as"),
        ({"features": FEATURES.replace("e.at", "e.at + INTERVAL 1 HOUR")}, "outside of it"),
        ({"label_columns": ["nonsense"]}, "names nonsense, which aggregates.sql does not return"),
        (
            {"aggregates": AGGREGATES.replace("count(*) AS", "error('no ' || min(id)) AS")},
            r"failed for partition 2026-06-01-00:00: .*no 0",
        ),
    ],
)
def test_unusable_sql_is_one_sentence(
    old: Shop, settings: dict[str, object], sentence: str
) -> None:
    old.change(**settings)
    with pytest.raises(TransformError, match=sentence) as told:
        old.catch_up()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_sql_that_fails_for_one_partition_costs_none_before_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(build, "PARTITIONS_AT_ONCE", at_once)
    rows = [row(str(hour), hour, amount=10**18) for hour in range(9)]
    shop.land("a.parquet", [*rows, row("overflows the sum", 5, amount=9 * 10**18)])
    shop.ingest()
    with pytest.raises(TransformError, match="failed for partition 2026-06-01-05:00"):
        shop.build("aggregates")
    assert sorted(shop.due_hours("aggregates")) == [5, 6, 7, 8]
    shop.land("a.parquet", rows)
    assert shop.catch_up()["aggregates"] == [5, 6, 7, 8]


def test_a_partition_can_be_computed_again_by_hand(old: Shop) -> None:
    before = old.table("aggregates")
    with old.connect() as connection:
        (done,) = build.build(connection, old.settings, "aggregates", [START], old.clock)
    assert done.generation == 2
    assert old.table("aggregates") == before
    assert old.due("aggregates") == old.due("features") == []


def test_a_partition_above_the_watermark_can_be_computed_by_hand(old: Shop) -> None:
    with old.connect() as connection:
        list(build.build(connection, old.settings, "aggregates", [START + 20 * HOUR], old.clock))
    assert old.due("aggregates") == []


def test_the_plan_says_how_many_rows_would_be_read(old: Shop) -> None:
    old.land("b.parquet", [row("x", 8.1), row("y", 8.2), row("z", 9.5)])
    old.ingest()
    assert [(hours(e.partition), e.rows) for e in old.due("aggregates")] == [(8, 3), (9, 2)]


def test_daily_partitions_work_the_same(shop: Shop) -> None:
    shop.change(grain="day", grace="1d", label_delay="1d", window=2)
    shop.land("a.parquet", [row(str(day), day * 24 + 23.999) for day in range(5)])
    assert shop.catch_up()["features"] == [day * 24 for day in range(5)]
    assert [r[6] for r in shop.table("features")] == [None, 1, 2, 2, 2]
    shop.land("b.parquet", [row("late", 3 * 24)])
    shop.ingest()
    assert shop.due_hours("aggregates") == {72: "late rows"}
    assert timedelta(days=1) == shop.settings.events.grain_length


@pytest.mark.slow
def test_a_year_of_hours_is_planned_in_less_than_a_second(tmp_path: Path) -> None:
    """The benchmark's ledger: 8,760 partitions with a file each, all but one of them due."""
    found = planning(tmp_path)
    assert found["aggregates_due"] == found["partitions"] - 1 == 8_759
    assert found["aggregates_s"] < 1
    assert found["features_s"] < 1
