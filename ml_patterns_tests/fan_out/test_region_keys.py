"""Any name that is let in survives a run; what Dagster would misread is refused by name."""

import dagster as dg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ml_patterns.errors import SettingsError
from ml_patterns.fan_out.runs import batches
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.registry.regions import validate_region_key
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for
from ml_patterns_tests.fan_out.test_assets import KEY, check_statuses, run

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def usable(key: str) -> bool:
    """Whether the key is let in."""
    try:
        validate_region_key(key)
    except SettingsError:
        return False
    return True


@given(st.text(max_size=20), st.sampled_from(["...", ",", "\n", "\0", "\x1f", "\u2028"]), st.text())
def test_what_dagster_would_misread_is_refused_by_name(before: str, bad: str, after: str) -> None:
    """A range, a list, or something that no log and no file name can show."""
    key = f"{before}{bad}{after}"
    with pytest.raises(SettingsError) as refusal:
        validate_region_key(key)
    assert repr(key[:200]) in str(refusal.value)


@settings(deadline=None)
@given(ANY_TEXT.filter(usable))
@example("São Paulo")
@example("北京 (east) #1")
@example("a.b..c")
@example("50%|<b>&")
def test_dagster_takes_every_key_that_is_let_in(key: str) -> None:
    """Among others, once."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parcels_region", [f"{key}a", key, f"z{key}"])
        assert instance.has_dynamic_partition("parcels_region", key)
        assert instance.get_dynamic_partitions("parcels_region").count(key) == 1


@settings(max_examples=10, deadline=None)
@given(st.lists(ANY_TEXT.filter(usable), min_size=2, max_size=3, unique=True))
@example(
    ["São Paulo", "北京 (east)", "a.b..c", "50%|<b>&", "~", "{x}", "$HOME", "-rf", "CON", "a b"]
)
def test_every_key_that_is_let_in_survives_a_run(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str]
) -> None:
    """File, feature, model, materialization and check carry it unchanged."""
    house = House(tmp_path_factory.mktemp("keys"))
    house.holds(*(made_up(key, 60) for key in keys))
    quick = settings_for(max_rounds=2, min_rows=20, min_positives=2)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parcels_region", keys)
        assert run(instance, house, keys[0], keys[-1], settings=quick).success
        assert instance.get_materialized_partitions(KEY) == set(keys)
        assert all(check_statuses(instance, key) for key in keys)
    versions = house.registry.versions("parcels")
    assert {version.region for version in versions} == set(keys)


@given(st.integers(0, 60), st.integers(1, 70))
def test_a_fleet_is_cut_into_even_runs(count: int, most: int) -> None:
    """Every region once and in order, no run too large, and none much smaller than another."""
    regions = [f"region {number}" for number in range(count)]
    cut = batches(regions, TrainingSettings(regions_per_run=most))
    assert [region for batch in cut for region in batch] == regions
    sizes = [len(batch) for batch in cut]
    assert max(sizes, default=0) <= most
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert len(cut) == -(-count // most)
