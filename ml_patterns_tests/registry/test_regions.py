"""Regions: found once, retired by a tombstone, refused when their name would break things."""

import pytest

from ml_patterns.branching.policy import Policy
from ml_patterns.errors import SettingsError, StaleDecisionError, UserError
from ml_patterns.registry.regions import (
    add_regions,
    all_regions,
    known_regions,
    retire_region,
    retired_among,
    revive_region,
    validate_region_key,
)
from ml_patterns.registry.registry import Registry
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.registry.test_registry import (
    Hands,
    clock,
    judged,
    promoted,
    registered,
    registry,
)

__all__ = ["clock", "registry"]

ADA = {"actor": "ada", "reason": "the depot closed"}


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
    retire_region(engine, "shop", "eu", **ADA)
    assert add_regions(engine, "shop", ["eu"]) == []
    assert known_regions(engine, "shop") == []
    assert retired_among(engine, "shop", ["us", "eu"]) == ["eu"]
    revive_region(engine, "shop", "eu", **ADA)
    assert known_regions(engine, "shop") == ["eu"]
    engine.dispose()


def test_a_tombstone_says_whose_it_is_and_the_log_keeps_it(
    registry: Registry, clock: Hands
) -> None:
    engine = registry.engine
    add_regions(engine, "shop", ["eu", "us"], clock)
    promoted(registry, "a1")
    retire_region(engine, "shop", "eu", **ADA, clock=clock)

    eu, us = all_regions(engine, "shop")
    assert (eu.serves, eu.retired_at, eu.retired_by, eu.reason) == (1, clock.now, *ADA.values())
    assert (us.serves, us.retired_at, us.retired_by, us.reason) == (None, None, None, None)

    revive_region(engine, "shop", "eu", actor="bob", reason="it opened again", clock=clock)
    eu, _ = all_regions(engine, "shop")
    assert (eu.serves, eu.retired_at, eu.reason) == (1, None, None)
    retired, revived = registry.audit("shop", "eu")[-2:]
    assert (retired.action, retired.version, retired.actor) == ("region_retired", 1, "ada")
    assert (revived.action, revived.reason) == ("region_revived", "it opened again")


def test_a_retired_region_keeps_its_champion_whatever_passed_before(registry: Registry) -> None:
    """What waits to be deployed waits on, and is deployed once the region is taken along again."""
    engine, policy = registry.engine, Policy().fingerprint()
    add_regions(engine, "shop", ["eu", "us"])
    promoted(registry, "a1")
    second = registered(registry, "a2")
    decision = judged(registry, second)
    other = judged(registry, registered(registry, "b1", "us"))
    assert registry.allowed("shop", policy) == [decision, other]

    retire_region(engine, "shop", "eu", **ADA)
    assert registry.allowed("shop", policy) == [other]
    passed = {"expected_generation": 1, "decision": decision, "actor": "run", "reason": "passed"}
    with pytest.raises(StaleDecisionError, match="eu version 2 is not promoted: the region is ret"):
        registry.promote(second, **passed)
    assert registry.champion("shop", "eu").version == 1

    revive_region(engine, "shop", "eu", **ADA)
    assert registry.allowed("shop", policy) == [decision, other]
    assert registry.promote(second, **passed).version == 2


def test_nobody_is_asked_about_a_retired_region(registry: Registry) -> None:
    """Its review is void, with who retired it and why; that of another region still waits."""
    engine = registry.engine
    add_regions(engine, "shop", ["eu", "us"])
    version = registered(registry, "a1")
    judged(registry, version, "review")
    judged(registry, registered(registry, "b1", "us"), "review")
    retire_region(engine, "shop", "eu", **ADA)
    assert [review.region for review in registry.reviews("shop")] == ["us"]
    (void,) = registry.reviews("shop", "voided")
    assert (void.reviewer, void.reason) == ("ada", "region eu was retired: the depot closed")
    assert registry.version("shop", "eu", 1).state == "voided"
    revive_region(engine, "shop", "eu", **ADA)
    judged(registry, version, "review")
    assert [review.region for review in registry.reviews("shop")] == ["us", "eu"]


def test_a_tombstone_that_changes_nothing_is_one_sentence(registry: Registry) -> None:
    engine = registry.engine
    add_regions(engine, "shop", ["eu"])
    with pytest.raises(UserError, match="region eu of shop is not retired; nothing was changed"):
        revive_region(engine, "shop", "eu", **ADA)
    with pytest.raises(UserError, match="both an identity and a reason are mandatory"):
        retire_region(engine, "shop", "eu", actor="ada", reason=" ")
    for change in (retire_region, revive_region):
        with pytest.raises(SettingsError, match="no region 'mars'; `ml-patterns region list shop`"):
            change(engine, "shop", "mars", **ADA)
    retire_region(engine, "shop", "eu", **ADA)
    with pytest.raises(UserError, match="region eu of shop is retired already, since "):
        retire_region(engine, "shop", "eu", **ADA)
    assert [row.action for row in registry.audit("shop")] == ["region_retired"]


@pytest.mark.parametrize(
    "key", ["", " eu", "a/b", "a,b", "a...b", "..", "a\nb", 'say "eu"', "x" * 201]
)
def test_a_key_that_cannot_name_a_partition_is_refused(url: str, key: str) -> None:
    engine = engine_for(url)
    with pytest.raises(SettingsError, match="region "):
        add_regions(engine, "shop", ["eu", key, "us"])
    assert known_regions(engine, "shop") == ["eu", "us"], "one bad name costs no other its model"
    engine.dispose()


@pytest.mark.parametrize("key", ["eu", "us_west", "São Paulo", "北京", "EWR-1", "a.b"])
def test_plain_names_of_any_language_are_fine(key: str) -> None:
    validate_region_key(key)
