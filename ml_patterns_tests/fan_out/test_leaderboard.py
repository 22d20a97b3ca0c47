"""The leaderboard leaves nobody out and puts the best first."""

from xml.etree import ElementTree

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_patterns.branching.policy import Policy
from ml_patterns.fan_out.assets import leaderboard
from ml_patterns.fan_out.leaderboard import Entry, entries, markdown, shortcomings
from ml_patterns.fan_out.picture import leaderboard_svg
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.registry.regions import add_regions, retire_region
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for
from ml_patterns_tests.fan_out.test_assets import instance, run
from ml_patterns_tests.fan_out.test_fleet import kills_asia

__all__ = ["instance"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

SETTINGS = settings_for()
_SVG = "{http://www.w3.org/2000/svg}"


def board_of(house: House, *regions: str, **problems: str) -> list[Entry]:
    """The leaderboard of these regions."""
    return entries(house.registry, "parcels", regions, SETTINGS.gate, problems)


def test_everybody_is_on_it_the_best_first(house: House) -> None:
    """Deployable before rejected before nothing, and a failure keeps its name and reason."""
    house.holds(made_up("eu"), made_up("noisy", noise=0.4), made_up("us", noise=0.01))
    house.train("eu", "noisy", "us", settings=SETTINGS)

    board = board_of(house, "asia", "eu", "noisy", "us", asia="its worker was killed")

    assert [(entry.rank, entry.region, entry.verdict) for entry in board] == [
        (1, "us", "deploy"),
        (2, "eu", "deploy"),
        (3, "noisy", "reject"),
        (4, "asia", "none"),
    ]
    assert all(entry.lower_bound < entry.value for entry in board[:3])
    assert "- **asia**: its worker was killed" in markdown(board)


def test_a_rejected_retraining_does_not_hide_the_champion(trained: House) -> None:
    """The region's entry is what it serves, as long as that is the better one."""
    trained.promote_newest("eu")
    trained.holds(made_up("eu", noise=0.45))
    second = trained.train("eu", settings=SETTINGS)["eu"]

    (entry,) = board_of(trained, "eu")

    assert (second.version.number, str(second.decision.verdict)) == (2, "reject")
    assert (entry.version, entry.verdict, entry.served_version) == (1, "deploy", 1)


def test_a_region_whose_data_came_back_shows_the_version_that_was_judged_last(
    house: House,
) -> None:
    """Version 1 goes to review, is outdated by version 2, and is judged again when it returns."""
    of_a, of_b = made_up("eu", noise=0.15), made_up("eu", 700, noise=0.01)
    house.holds(of_a)
    house.train("eu", settings=SETTINGS)
    house.holds(of_b)
    house.train("eu", settings=SETTINGS)
    assert [(entry.version, entry.verdict) for entry in board_of(house, "eu")] == [(2, "deploy")]

    house.holds(of_a)
    back = house.train("eu", settings=SETTINGS)["eu"]

    assert (back.status, back.version.number, str(back.decision.verdict)) == (
        "unchanged",
        1,
        "review",
    )
    (entry,) = board_of(house, "eu")
    assert (entry.version, entry.verdict, entry.reason) == (1, "review", back.decision.reason)


def test_a_version_that_nobody_judged_yet_is_shown_as_such(trained: House) -> None:
    """A run was killed between the two: the verdict on the version before is not the new one's."""
    trained.registry.register(
        pipeline="parcels", region="eu", artifact="0" * 64, kind="own", training_key="new"
    )
    (entry,) = board_of(trained, "eu")
    assert (entry.version, entry.verdict, entry.reason) == (2, "review", "not judged yet")


def fan_in(
    instance: dg.DagsterInstance, house: House, settings: PipelineSettings
) -> dg.ExecuteInProcessResult:
    """A run of the leaderboard, which may fail."""
    asset = leaderboard(settings)
    return dg.materialize(
        [asset, dg.AssetSpec(dg.AssetKey(["parcels", "regional_model"]))],
        selection=[asset],
        instance=instance,
        raise_on_error=False,
        resources={
            "warehouse": WarehouseResource(database=str(house.warehouse.path)),
            "operational": OperationalResource(url=house.state_url),
        },
    )


def test_the_fan_in_is_complete_and_says_who_failed(
    instance: dg.DagsterInstance, house: House
) -> None:
    """After a run in which a worker was killed: a table of all regions, and a picture."""
    add_regions(house.registry.engine, "parcels", ["asia", "eu", "us"])
    house.holds(made_up("asia"), made_up("eu"), made_up("us"))
    assert not run(instance, house, "asia", "us", work=kills_asia).success

    assert fan_in(instance, house, SETTINGS).success
    (record,) = instance.fetch_materializations(
        dg.AssetKey(["parcels", "leaderboard"]), limit=1
    ).records
    metadata = record.asset_materialization.metadata
    assert metadata["without_new_model"].value == 1
    assert "killed by signal 9" in metadata["leaderboard"].value
    assert metadata["picture"].value.startswith("![leaderboard](data:image/svg+xml;base64,")
    records = [record.data for record in metadata["table"].records]
    assert [(each["rank"], each["region"]) for each in records] == [
        (1, "us"),
        (2, "eu"),
        (3, "asia"),
    ]
    assert "killed by signal 9" in records[-1]["problem"]
    with house.warehouse.connect(read_only=True) as connection:
        rows = connection.execute(
            "SELECT region, verdict FROM parcels.leaderboard ORDER BY rank"
        ).fetchall()
    assert [row[1] for row in rows] == ["deploy", "deploy", "none"]
    assert rows[-1][0] == "asia"
    assert not fan_in(instance, house, settings_for(must_have=("asia",))).success

    assert run(instance, house, "asia", "us").success
    assert fan_in(instance, house, settings_for(must_have=("asia",), min_success=1.0)).success


def test_a_retired_region_is_not_ranked_and_not_missed(
    instance: dg.DagsterInstance, trained: House
) -> None:
    """What it serves stands below the board; asking for its model is said to contradict that."""
    add_regions(trained.registry.engine, "parcels", ["eu", "us"])
    trained.promote_newest("eu")
    trained.holds(made_up("eu"), made_up("us"))
    retire_region(trained.registry.engine, "parcels", "eu", actor="ada", reason="closed")
    assert run(instance, trained, "eu", "us").success

    assert fan_in(instance, trained, settings_for(min_success=1.0)).success
    (record,) = instance.fetch_materializations(
        dg.AssetKey(["parcels", "leaderboard"]), limit=1
    ).records
    metadata = record.asset_materialization.metadata
    assert [metadata[name].value for name in ("regions", "serving", "retired")] == [1, 0, 1]
    assert metadata["leaderboard"].value.endswith("Retired:\n\n- **eu**: v1 goes on serving")
    with trained.warehouse.connect(read_only=True) as connection:
        rows = connection.execute("SELECT region FROM parcels.leaderboard").fetchall()
    assert rows == [("us",)]
    assert not fan_in(instance, trained, settings_for(must_have=("eu",))).success
    sentence = shortcomings([], TrainingSettings(must_have=("eu",)), ["eu"])
    assert sentence is not None
    assert sentence.startswith("training.must_have names eu, which is retired: take it out")


def entry(region: str, verdict: str, value: float | None, problem: str = "") -> Entry:
    """An entry in short."""
    bound = None if value is None else value - 0.05
    return Entry(
        1, region, verdict, "accuracy", value, bound, 0.6, 100, 1, "own", None, "why", problem
    )


def test_shortcomings_name_the_setting() -> None:
    """Half of the regions, and one that must not be missing."""
    board = [entry("eu", "deploy", 0.97), entry("us", "review", 0.9, problem="killed")]
    assert shortcomings(board, TrainingSettings()) is None
    assert shortcomings(board, TrainingSettings(min_success=0.5)) is None
    assert "training.min_success asks for 51%" in shortcomings(
        board, TrainingSettings(min_success=0.51)
    )
    assert "training.must_have names us, which" in shortcomings(
        board, TrainingSettings(must_have=("eu", "us"))
    )
    assert "names mars" in shortcomings(board, TrainingSettings(must_have=("mars",)))


def test_the_picture_shows_the_thresholds_and_how_sure_each_value_is() -> None:
    """Two dashed lines from top to bottom, and a bar from each dot down to its lower bound."""
    board = [entry("eu", "deploy", 0.97), entry("us", "review", 0.9), entry("asia", "none", None)]
    policy = Policy(deploy_at=0.95, review_at=0.85)
    root = ElementTree.fromstring(leaderboard_svg(board, policy))
    lines = list(root.iter(f"{_SVG}line"))
    texts = [text.text for text in root.iter(f"{_SVG}text")]
    dots = [(float(dot.attrib["cx"]), dot.attrib["cy"]) for dot in root.iter(f"{_SVG}circle")]
    review, deploy = (
        float(line.attrib["x1"]) for line in lines if "stroke-dasharray" in line.attrib
    )
    bars = [line.attrib for line in lines if "stroke-dasharray" not in line.attrib]

    assert {"review 0.85", "deploy 0.95"} <= set(texts)
    (of_eu, _), (of_us, _) = dots
    assert review < of_us < deploy < of_eu
    assert [(float(bar["x2"]), bar["y1"]) for bar in bars] == dots
    assert all(float(bar["x1"]) < float(bar["x2"]) for bar in bars)


@given(
    st.lists(
        st.builds(
            entry,
            st.text(max_size=40).filter(str.isprintable),
            st.sampled_from(["deploy", "review", "reject", "none"]),
            st.none() | st.floats(-1, 1),
        ),
        max_size=80,
    )
)
def test_the_picture_is_well_formed_whatever_the_regions_are_called(board: list[Entry]) -> None:
    """SVG that a browser reads; one label per region, up to a screenful; dots inside."""
    root = ElementTree.fromstring(leaderboard_svg(board, Policy()))
    width = float(root.attrib["width"])
    circles = list(root.iter(f"{_SVG}circle"))
    assert all(0 <= float(circle.attrib["cx"]) <= width for circle in circles)
    shown = board if len(board) <= 60 else board[:30] + board[-30:]
    assert len(circles) == sum(entry.value is not None for entry in shown)
