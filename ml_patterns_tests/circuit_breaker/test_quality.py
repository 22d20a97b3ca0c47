"""Promise: what counts is the answer before the label was known; a failing model is retrained."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ml_patterns.circuit_breaker.due import unjudged_days
from ml_patterns.circuit_breaker.quality import LiveRecord, lower_bound, to_retrain
from ml_patterns.circuit_breaker.sensors import build_sensors
from ml_patterns.registry.regions import add_regions, retire_region
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.circuit_breaker.model_server import always
from ml_patterns_tests.circuit_breaker.room import SETTINGS, Room, checks, room

__all__ = ["room"]

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

EVERY_RIGHT = "UPDATE deliveries.event_features SET label = distance >= 0.5"
EVERY_WRONG = "UPDATE deliveries.event_features SET label = distance < 0.5"
UNKNOWN = "UPDATE deliveries.event_features SET label = NULL"
# The review threshold that eighteen rows can reach: 0.05 ** (1 / 18) is 0.847.
LENIENT = SETTINGS.model_copy(
    update={"gate": SETTINGS.gate.model_copy(update={"deploy_at": 0.9, "review_at": 0.8})}
)


def judged(room: Room) -> list[tuple[object, ...]]:
    return room.query(
        "SELECT region, source, model_version, in_time, rows, correct "
        "FROM deliveries.prediction_quality ORDER BY ALL"
    )


def days_to_judge(room: Room) -> int:
    with Warehouse(room.warehouse).connect(read_only=True) as connection:
        return len(unjudged_days(connection, SETTINGS))


def tick(room: Room, settings: PipelineSettings) -> list[dg.RunRequest]:
    *_, sensor = build_sensors(settings)
    with dg.build_sensor_context(instance=room.instance, resources=room.resources) as context:
        found = sensor(context)
    return found if isinstance(found, list) else []


def test_quality_is_judged_per_region_source_and_version(room: Room) -> None:
    room.features(UNKNOWN)
    room.predict()
    room.features(EVERY_RIGHT)
    room.judge(SETTINGS)
    by_region = judged(room)
    assert by_region[0] == ("eu", "live", "1", True, 18, 18)
    assert by_region[1][:5] == ("moon", "base_rate", None, True, 6)
    ((accuracy, bound),) = room.query(
        "SELECT accuracy, lower_bound FROM deliveries.prediction_quality WHERE region = 'eu'"
    )
    assert (accuracy, bound) == (1.0, lower_bound(18, 18))


def test_the_last_answer_before_the_label_was_known_is_judged(room: Room) -> None:
    """Healing and backfills answer again when the label is known, perhaps by a model that was
    trained on it: that is no prediction."""
    room.features(UNKNOWN)
    room.server.behaviour = always('{"outputs": [{"data": [0, 0, 0, 0, 0, 0]}]}')
    room.predict(0, 0)
    room.server.behaviour = always('{"outputs": [{"data": [1, 1, 1, 1, 1, 1]}]}')
    room.predict(0, 0)
    room.features("UPDATE deliveries.event_features SET label = TRUE")
    room.server.behaviour = always('{"outputs": [{"data": [0, 0, 0, 0, 0, 0]}]}')
    room.predict(0, 1)
    room.judge(SETTINGS)
    assert [row for row in judged(room) if row[0] == "eu"] == [
        ("eu", "live", "1", False, 6, 0),  # the second hour: only answered in hindsight
        ("eu", "live", "1", True, 6, 6),
    ]


def test_a_day_is_judged_again_when_labels_come_in_and_only_then(room: Room) -> None:
    room.features(UNKNOWN)
    room.predict()
    assert days_to_judge(room) == 0
    room.features(EVERY_RIGHT + " WHERE event_id LIKE '0-%'")
    assert days_to_judge(room) == 1
    room.judge(SETTINGS)
    assert days_to_judge(room) == 0
    room.features(EVERY_RIGHT)
    assert days_to_judge(room) == 1
    room.judge(SETTINGS)
    room.predict()
    assert days_to_judge(room) == 0, "answers in hindsight change nothing"


def test_a_model_that_fails_is_warned_of_and_trained_again_once(room: Room) -> None:
    room.features(UNKNOWN)
    room.predict()
    assert tick(room, LENIENT) == [], "nothing is judged"
    room.features(EVERY_WRONG)
    (accuracy,) = checks(room.judge(LENIENT)).values()
    assert not accuracy.passed
    assert accuracy.severity is dg.AssetCheckSeverity.WARN
    assert accuracy.metadata["regions_below"].value == "eu"
    assert accuracy.metadata["training_requested"].value == "eu"
    (request,) = tick(room, LENIENT)
    assert request.partition_key == "eu"
    *_, sensor = build_sensors(LENIENT)
    assert sensor.job_name == "deliveries_training_job"
    (again,) = tick(room, LENIENT)
    assert again.run_key == request.run_key, "Dagster starts one run per key"

    room.deployment.house.deploy("eu", seed=2)
    assert tick(room, LENIENT) == [], "the new champion has not answered yet"
    assert checks(room.judge(LENIENT))["live_accuracy"].passed


def test_a_retired_region_that_fails_is_warned_of_and_not_trained(room: Room) -> None:
    """Its champion goes on answering, so its quality still counts; a training would skip it."""
    engine = engine_for(room.deployment.state_url)
    add_regions(engine, "deliveries", ["eu"])
    retire_region(engine, "deliveries", "eu", actor="ada", reason="closed")
    room.features(UNKNOWN)
    room.predict()
    answers = room.query("SELECT DISTINCT source FROM deliveries.predictions WHERE region = 'eu'")
    assert answers == [("live",)]
    room.features(EVERY_WRONG)
    (accuracy,) = checks(room.judge(LENIENT)).values()
    assert accuracy.metadata["regions_below"].value == "eu"
    assert accuracy.metadata["training_requested"].value == "none"
    assert tick(room, LENIENT) == []
    engine.dispose()


def test_a_good_model_is_left_alone(room: Room) -> None:
    room.features(UNKNOWN)
    room.predict()
    room.features(EVERY_RIGHT)
    assert checks(room.judge(LENIENT))["live_accuracy"].passed
    assert tick(room, LENIENT) == []


def test_what_was_answered_in_hindsight_is_no_record(room: Room) -> None:
    room.features(EVERY_WRONG)
    room.predict()
    assert checks(room.judge(LENIENT))["live_accuracy"].passed
    assert tick(room, LENIENT) == []


def test_another_metric_has_no_thresholds_for_accuracy() -> None:
    gate = SETTINGS.gate.model_copy(update={"metric": "auc"})
    sensors = build_sensors(SETTINGS.model_copy(update={"gate": gate}))
    assert not [sensor for sensor in sensors if "poor_quality" in sensor.name]


DAY = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rows", "correct", "trained_again"),
    [(28, 0, False), (29, 0, True), (29, 28, True), (29, 29, False), (1000, 920, False),
     (1000, 910, True)],
)  # fmt: skip
def test_training_is_requested_where_so_many_rows_could_have_proven_the_threshold(
    rows: int, correct: int, trained_again: bool
) -> None:
    record = LiveRecord("eu", "1", rows, correct, DAY + timedelta(days=1))
    assert (to_retrain([record], 0.9) == [record]) is trained_again
