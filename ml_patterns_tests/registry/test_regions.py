"""Regions: found once, retired by a tombstone, refused when their name would break things."""

import pytest

from ml_patterns.errors import SettingsError
from ml_patterns.registry.regions import (
    add_regions,
    known_regions,
    retire_region,
    revive_region,
    validate_region_key,
)
from ml_patterns.storage.operational import engine_for


def test_only_new_regions_are_reported(url: str) -> None:
    engine = engine_for(url)
    assert add_regions(engine, "shop", ["us", "eu"]) == ["eu", "us"]
    assert add_regions(engine, "shop", ["eu", "asia"]) == ["asia"]
    assert known_regions(engine, "shop") == ["asia", "eu", "us"]
    assert known_regions(engine, "other") == []
    engine.dispose()


def test_a_retired_region_stays_retired_when_it_is_seen_again(url: str) -> None:
    engine = engine_for(url)
    add_regions(engine, "shop", ["eu"])
    retire_region(engine, "shop", "eu")
    assert add_regions(engine, "shop", ["eu"]) == []
    assert known_regions(engine, "shop") == []
    revive_region(engine, "shop", "eu")
    assert known_regions(engine, "shop") == ["eu"]
    with pytest.raises(SettingsError, match="no region 'mars'"):
        retire_region(engine, "shop", "mars")
    engine.dispose()


@pytest.mark.parametrize(
    "key", ["", " eu", "a/b", "a,b", "a...b", "..", "a\nb", 'say "eu"', "x" * 201]
)
def test_a_key_that_cannot_name_a_partition_is_refused(url: str, key: str) -> None:
    engine = engine_for(url)
    with pytest.raises(SettingsError, match="region "):
        add_regions(engine, "shop", ["eu", key])
    assert known_regions(engine, "shop") == []
    engine.dispose()


@pytest.mark.parametrize("key", ["eu", "us_west", "São Paulo", "北京", "EWR-1", "a.b"])
def test_plain_names_of_any_language_are_fine(key: str) -> None:
    validate_region_key(key)
