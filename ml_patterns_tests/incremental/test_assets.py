"""The room in Dagster: what is recorded, what is healed, what the sensors ask for."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from ml_patterns.base import utc_now
from ml_patterns.incremental import assets, checks, ledger, sensors
from ml_patterns.incremental.build import build
from ml_patterns.incremental.dead_letter import removed_files
from ml_patterns.incremental.plan import Layer
from ml_patterns.incremental.reporting import report_again
from ml_patterns.jobs import build_schedules
from ml_patterns.partitions import range_tags
from ml_patterns.status import status
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.incremental.conftest import COLUMNS, HOUR, START, Shop, row
from ml_patterns_tests.incremental.conftest import FEATURES as FEATURES_SQL

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
FEATURES = dg.AssetKey(["shop", "event_features"])
AGGREGATES = dg.AssetKey(["shop", "event_aggregates"])


class Platform:
    """Definitions of the room alone, on an instance of its own."""

    def __init__(self, shop: Shop, instance: dg.DagsterInstance) -> None:
        self.shop, self.instance = shop, instance
        self.warehouse = WarehouseResource(database=str(shop.warehouse.path))
        self.operational = OperationalResource(url=f"sqlite:///{shop.folder}/state.sqlite")
        self.resources = {"warehouse": self.warehouse, "operational": self.operational}

    def run(self, *keys: dg.AssetKey, hours: tuple[int, int] | None = None, **more: Any) -> Any:
        tags = {}
        if hours:
            first, last = (f"{START + hour * HOUR:%Y-%m-%d-%H:%M}" for hour in hours)
            tags = range_tags(first, last)
        chosen = [
            *assets.build_assets(self.shop.settings),
            *checks.build_checks(self.shop.settings),
        ]
        return dg.materialize(
            chosen,
            selection=dg.AssetSelection.assets(*keys),
            instance=self.instance,
            resources=self.resources,
            tags=tags,
            raise_on_error=False,
            **more,
        )

    def request_due(self) -> dg.RunRequest | dg.SkipReason:
        return sensors.request_due(
            self.instance, self.shop.settings, self.warehouse, self.operational
        )

    def report_again(self, layer: Layer) -> int:
        return report_again(
            self.instance, self.shop.settings, layer, self.warehouse, self.operational
        )

    def told(self, key: dg.AssetKey) -> list[str]:
        return sorted(self.instance.get_materialized_partitions(key))


@pytest.fixture
def platform(shop: Shop) -> Iterator[Platform]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(shop, instance)


def ingest(platform: Platform) -> Any:
    return platform.run(dg.AssetKey(["shop", "event_files"]))


def test_a_range_is_built_in_one_run_and_told_partition_by_partition(platform: Platform) -> None:
    platform.shop.land("a.parquet", [row(str(n), n / 2) for n in range(12)])
    assert ingest(platform).success
    assert platform.told(dg.AssetKey(["shop", "landed_events"])) == [
        f"2026-06-01-0{hour}:00" for hour in range(6)
    ]
    assert platform.run(AGGREGATES, FEATURES, hours=(0, 5)).success
    for key in (AGGREGATES, FEATURES):
        assert len(platform.told(key)) == 6
    record = platform.instance.get_latest_materialization_event(FEATURES)
    assert record
    assert record.asset_materialization
    metadata = {k: v.value for k, v in record.asset_materialization.metadata.items()}
    assert metadata["rows_in"] == metadata["kept"] == metadata["dagster/partition_row_count"] == 2
    assert {"superseded", "duplicate", "scanned", "seconds", "generation"} <= set(metadata)
    assert platform.instance.get_dynamic_partitions("shop_region") == ["eu"]


def test_a_bad_file_is_a_warning_and_the_run_goes_on(platform: Platform) -> None:
    platform.shop.land("a.parquet", [row("1", 0)])
    (platform.shop.landed / "b.parquet").write_bytes(b"no parquet")
    result = ingest(platform)
    assert result.success
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert not evaluations["every_file_readable"].passed
    materialized = result.asset_materializations_for_node("shop__event_files")[-1]
    assert "b.parquet" in str(materialized.metadata["unreadable_files"].value)


def passed(result: Any) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def test_the_checks_of_a_registration_see_lateness_and_a_changed_schema(
    platform: Platform,
) -> None:
    platform.shop.land("a.parquet", [row("1", 0), row("2", 10)])
    everything = {"every_file_readable", "arrives_within_grace", "schema_unchanged"}
    assert passed(ingest(platform)) == dict.fromkeys(everything, True)
    platform.shop.land("b.parquet", [row("late", 0.5)], {**COLUMNS, "extra": "BIGINT"})
    found = ingest(platform)
    assert passed(found) == {
        "every_file_readable": True, "arrives_within_grace": False, "schema_unchanged": False,
    }  # fmt: skip
    told = {each.check_name: each for each in found.get_asset_check_evaluations()}
    assert "brought extra" in str(told["schema_unchanged"].description)
    assert told["arrives_within_grace"].metadata["too_late"].value == 1


def test_a_row_that_went_away_fails_the_check_of_the_next_build(platform: Platform) -> None:
    platform.shop.land("a.parquet", [row("1", 0), row("2", 1)])
    ingest(platform)
    assert passed(platform.run(AGGREGATES, FEATURES, hours=(0, 0)))["every_row_accounted_for"]
    with platform.shop.connect() as connection:
        connection.execute("DELETE FROM shop.event_features")
    found = platform.run(AGGREGATES, FEATURES, hours=(1, 1))
    assert not passed(found)["every_row_accounted_for"]


def test_a_region_with_an_unusable_name_costs_no_other_its_partition(platform: Platform) -> None:
    """The features are built and the run fails with the name; nothing would ask for them again."""
    shop = platform.shop
    shop.land("a.parquet", [row("1", 0), row("2", 0, region="a,b"), row("3", 0, region="us")])
    ingest(platform)
    result = platform.run(AGGREGATES, FEATURES, hours=(0, 0))
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "region 'a,b' holds a comma" in str(failure.event_specific_data)
    assert shop.due("features") == []
    assert sorted(platform.instance.get_dynamic_partitions("shop_region")) == ["eu", "us"]
    engine = engine_for(f"sqlite:///{shop.folder}/state.sqlite")
    found = status(shop.settings, shop.warehouse, engine).findings
    (region,) = [each for each in found if each.subject == "region"]
    assert region.sentence.startswith("it gets no model: region 'a,b' holds a comma")
    engine.dispose()


def test_a_region_that_a_killed_run_did_not_tell_of_is_named(platform: Platform) -> None:
    """Killed between the commit of the features and the registration of what regions they have."""
    shop = platform.shop
    shop.land("a.parquet", [row("1", 0), row("2", 0, region="us")])
    shop.catch_up()
    engine = engine_for(f"sqlite:///{shop.folder}/state.sqlite")

    def told() -> list[str]:
        found = status(shop.settings, shop.warehouse, engine).findings
        return [each.sentence for each in found if each.subject == "region"]

    assert told() == [
        "2 regions have features and are not known yet, such as eu; materialize a partition of "
        "shop/event_features"
    ]
    assert platform.run(FEATURES, hours=(0, 0)).success
    assert told() == []
    assert sorted(platform.instance.get_dynamic_partitions("shop_region")) == ["eu", "us"]
    engine.dispose()


def test_a_removed_file_is_an_error_until_somebody_answers(platform: Platform) -> None:
    """Its rows count on; the check is red at every look, with what to type."""
    shop = platform.shop
    shop.land("a.parquet", [row("1", 0)])
    shop.land("b.parquet", [row("2", 0)])
    ingest(platform)
    removed = shop.landed / "a.parquet"
    removed.unlink()
    for _ in range(2):
        evaluations = {e.check_name: e for e in ingest(platform).get_asset_check_evaluations()}
        readable = evaluations["every_file_readable"]
        assert (readable.passed, readable.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert f"dead-letter acknowledge shop {removed}" in (readable.description or "")
        with shop.connect() as connection:
            (sentence,) = removed_files(connection, shop.settings)
        assert sentence == readable.description
    assert shop.accounts().delivered == 2
    with shop.connect() as connection:
        ledger.acknowledge_removal(connection, "shop", [str(removed)], shop.clock())
        assert removed_files(connection, shop.settings) == []
    evaluations = {e.check_name: e for e in ingest(platform).get_asset_check_evaluations()}
    assert evaluations["every_file_readable"].passed


def test_a_run_over_the_budget_fails_with_its_sentence(platform: Platform) -> None:
    platform.shop.change(max_rows_per_run=1)
    platform.shop.land("a.parquet", [row("1", 0), row("2", 1)])
    ingest(platform)
    result = platform.run(AGGREGATES, hours=(0, 1))
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "max_rows_per_run 1" in str(failure.event_specific_data)
    assert platform.told(AGGREGATES) == []


def test_partitions_of_a_run_that_died_are_told_without_computing_them_again(
    platform: Platform,
) -> None:
    """Committed, and killed before Dagster heard of it."""
    shop = platform.shop
    shop.land("a.parquet", [row("1", 0), row("2", 1)])
    ingest(platform)
    shop.build("aggregates")
    for _ in range(2):
        request = platform.request_due()
        assert isinstance(request, dg.RunRequest)
        assert request.asset_selection == [FEATURES]
        assert platform.told(AGGREGATES) == ["2026-06-01-00:00", "2026-06-01-01:00"]
    events = platform.instance.fetch_materializations(AGGREGATES, limit=99).records
    assert len(events) == 2, "told once"
    assert shop.query("SELECT max(generation) FROM shop.partition_state") == [(1,)]


def test_files_of_a_registration_that_died_are_told_by_the_next(platform: Platform) -> None:
    landed = dg.AssetKey(["shop", "landed_events"])
    platform.shop.land("a.parquet", [row("1", 0), row("2", 1)])
    platform.shop.ingest()
    assert platform.told(landed) == []
    for _ in range(2):
        assert ingest(platform).success
        assert platform.told(landed) == ["2026-06-01-00:00", "2026-06-01-01:00"]
    assert len(platform.instance.fetch_materializations(landed, limit=99).records) == 2, "told once"


def test_regions_of_a_run_that_died_are_partitions_before_it_is_told(platform: Platform) -> None:
    """What was told is never looked at again, so that its regions must be known by then."""
    shop, instance = platform.shop, platform.instance
    shop.land("a.parquet", [row("1", 0, region="eu"), row("2", 1, region="us")])
    ingest(platform)
    shop.build("aggregates")
    shop.build("features")
    assert instance.get_dynamic_partitions("shop_region") == []
    assert platform.report_again("features") == 2
    assert sorted(instance.get_dynamic_partitions("shop_region")) == ["eu", "us"]


def test_regions_of_a_build_that_fails_half_way_are_partitions(platform: Platform) -> None:
    """The second hour fails; the first is committed and told, and its region with it."""
    bad = "CASE WHEN e.id = '2' THEN error('no ' || e.id) ELSE e.amount END AS amount,"
    platform.shop.change(features=FEATURES_SQL.replace("e.amount,", bad))
    platform.shop.land("a.parquet", [row("1", 0, region="eu"), row("2", 1, region="us")])
    ingest(platform)
    assert platform.run(AGGREGATES, hours=(0, 1)).success
    assert not platform.run(FEATURES, hours=(0, 1)).success
    assert platform.told(FEATURES) == ["2026-06-01-00:00"]
    assert platform.instance.get_dynamic_partitions("shop_region") == ["eu"]


def test_a_recomputed_partition_of_a_run_that_died_is_told_again(platform: Platform) -> None:
    shop = platform.shop
    shop.land("a.parquet", [row("1", 0), row("2", 1)])
    ingest(platform)
    assert platform.run(AGGREGATES, FEATURES, hours=(0, 1)).success
    with shop.connect() as connection:
        list(build(connection, shop.settings, "features", [START], utc_now))
    healed = platform.report_again("features")
    assert healed == 1
    assert platform.report_again("features") == 0


def test_the_sensor_asks_for_exactly_what_the_plan_says(platform: Platform) -> None:
    shop = platform.shop
    assert isinstance(platform.request_due(), dg.SkipReason)
    shop.land("a.parquet", [row(str(n), n) for n in range(4)])
    ingest(platform)
    request = platform.request_due()
    assert isinstance(request, dg.RunRequest)
    assert request.asset_selection == [AGGREGATES]
    tags = range_tags("2026-06-01-00:00", "2026-06-01-03:00")
    assert {key: request.tags[key] for key in tags} == tags
    again = platform.request_due()
    assert isinstance(again, dg.RunRequest)
    assert again.run_key == request.run_key, "the same due partitions, the same request"
    for layer in (AGGREGATES, FEATURES):
        name = "shop__" + layer.path[-1]
        config = {"ops": {name: {"config": {"only_due": True}}}}
        assert platform.run(layer, hours=(0, 3), run_config=config).success
    done = platform.request_due()
    assert isinstance(done, dg.SkipReason)
    assert "nothing is due" in (done.skip_message or "")


def test_the_schedule_asks_for_the_same_as_the_sensor(platform: Platform) -> None:
    (schedule,) = [
        each
        for each in build_schedules(platform.shop.settings)
        if each.name == "shop_due_partitions_schedule"
    ]
    platform.shop.land("a.parquet", [row(str(n), n) for n in range(4)])
    ingest(platform)
    with (
        dg.instance_for_test() as instance,  # a schedule wants one that lies on a disk
        dg.build_schedule_context(
            instance=instance,
            resources=platform.resources,
            scheduled_execution_time=datetime(2026, 6, 2, 0, 5, tzinfo=UTC),
        ) as context,
    ):
        asked = schedule(context)
        wanted = sensors.request_due(
            instance, platform.shop.settings, platform.warehouse, platform.operational
        )
    assert isinstance(asked, dg.RunRequest)
    assert isinstance(wanted, dg.RunRequest)
    assert (asked.run_key, asked.tags) == (wanted.run_key, wanted.tags)
    assert asked.asset_selection == wanted.asset_selection == [AGGREGATES]


def test_a_run_of_due_partitions_leaves_the_others_alone(platform: Platform) -> None:
    shop = platform.shop
    shop.land("a.parquet", [row(str(n), n) for n in range(4)])
    ingest(platform)
    platform.run(AGGREGATES, hours=(0, 3))
    shop.land("b.parquet", [row("late", 2.5)])
    ingest(platform)
    config = {"ops": {"shop__event_aggregates": {"config": {"only_due": True}}}}
    assert platform.run(AGGREGATES, hours=(0, 3), run_config=config).success
    generations = shop.query(
        "SELECT generation FROM shop.partition_state WHERE layer = 'aggregates' ORDER BY ALL"
    )
    assert generations == [(1,), (1,), (1,), (2,)]


def test_the_daily_checks_run_by_themselves_and_see_sabotage(platform: Platform) -> None:
    shop = platform.shop
    shop.land("a.parquet", [row(str(n), n) for n in range(8)])
    shop.catch_up()
    chosen = checks.daily_checks(shop.settings)
    assert {key.name for key in chosen} == {
        "no_gaps", "event_ids_have_one_time", "matches_full_recompute",
    }  # fmt: skip

    def verdicts() -> dict[str, bool]:
        result = dg.materialize(
            [*assets.build_assets(shop.settings), *checks.build_checks(shop.settings)],
            selection=dg.AssetSelection.checks(*chosen),
            instance=platform.instance,
            resources=platform.resources,
        )
        return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}

    assert set(verdicts().values()) == {True}
    with shop.connect() as connection:
        connection.execute("UPDATE shop.event_features SET amount = 0")
        connection.execute("UPDATE shop.partition_state SET events = NULL WHERE layer = 'features' "
                           f"AND partition_start = '{START}'")  # fmt: skip
    assert verdicts() == {
        "no_gaps": False, "event_ids_have_one_time": True, "matches_full_recompute": False,
    }  # fmt: skip
