"""docs/operations.md names everything that starts by itself, as it is."""

import pytest

from ml_patterns.automation import PACE, SWITCH
from ml_patterns.errors import SettingsError
from ml_patterns.pipeline import build_defs
from ml_patterns.project import Project
from ml_patterns_tests.operations import automation_table
from ml_patterns_tests.operations.automation_table import PIPELINE, ROOT, conditions, table


def test_the_page_shows_what_the_definitions_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "on")
    monkeypatch.delenv(PACE, raising=False)
    found = table(Project.load(ROOT).definitions)
    assert automation_table.in_page().strip() == found, (
        "run python -m ml_patterns_tests.operations.automation_table"
    )


def test_nothing_starts_by_a_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    assert conditions(Project.load(ROOT).definitions) == []


def test_nothing_starts_where_nobody_turned_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    assert "running" not in table(Project.load(ROOT).definitions)
    monkeypatch.setenv(SWITCH, "off")
    assert "running" not in table(Project.load(ROOT).definitions)


def test_the_pace_makes_sensors_faster_and_never_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Project.load(ROOT).pipeline(PIPELINE)
    before = {s.name: s.minimum_interval_seconds or 0 for s in build_defs(settings).sensors or ()}
    monkeypatch.setenv(PACE, "40")
    for sensor in build_defs(settings).sensors or ():
        assert sensor.minimum_interval_seconds == min(40, before[sensor.name])
    monkeypatch.setenv(PACE, "often")
    with pytest.raises(SettingsError, match="'often'; write a whole number of seconds"):
        build_defs(settings)
