"""Own model, pooled model, incumbent, none: in this order, and always with a reason."""

from datetime import timedelta

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from ml_patterns.fan_out.cold_start import Standing, choose
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.fan_out.training import usable_rows
from ml_patterns_tests.fan_out.conftest import end_of, made_up

SETTINGS = TrainingSettings(min_rows=100, min_positives=10)
PLENTY = Standing(1000, 400, learnable=True)

standings = st.builds(
    lambda rows, share, learnable: Standing(rows, int(rows * share), learnable=learnable),
    st.integers(0, 300),
    st.floats(0, 0.5),
    st.booleans(),
)


def standing_of(frame: pd.DataFrame) -> Standing:
    """Counted from real rows."""
    watermark = end_of(made_up("eu"))
    return Standing.of(
        usable_rows(frame, watermark), SETTINGS, label_delay=timedelta(hours=1), watermark=watermark
    )


@given(standings, st.none() | standings, st.booleans())
def test_a_region_gets_the_first_of_the_hierarchy_that_carries(
    region: Standing, everybody: Standing | None, champion: bool
) -> None:
    """And the reason says which setting or count decided."""
    carries = [
        ("own", region.shortfall(SETTINGS) is None),
        ("pooled", region.rows > 0 and everybody is not None and not everybody.shortfall(SETTINGS)),
        ("incumbent", champion),
        ("none", True),
    ]
    choice = choose(region, everybody, SETTINGS, champion=champion)
    assert choice.kind == next(kind for kind, carried in carries if carried)
    assert choice.reason.endswith(region.shortfall(SETTINGS) or "of the rarer class")


def test_what_can_be_short_is_told_apart() -> None:
    """No rows, one class, too few rows, too few of a class, one class in the training slice."""
    frame = made_up("eu")
    constant = frame.assign(label=pd.array([True] * len(frame), dtype="boolean"))
    late = frame.assign(label=pd.array(frame.index > len(frame) * 3 // 4, dtype="boolean"))
    rare = frame.assign(label=pd.array(frame.index % 100 == 0, dtype="boolean"))
    reasons = {
        "plenty": standing_of(frame).shortfall(SETTINGS),
        "none": standing_of(frame.iloc[:0]).shortfall(SETTINGS),
        "constant": standing_of(constant).shortfall(SETTINGS),
        "three": standing_of(frame.iloc[:3].assign(label=[True, False, True])).shortfall(SETTINGS),
        "rare": standing_of(rare).shortfall(SETTINGS),
        "late": standing_of(late).shortfall(SETTINGS),
    }
    assert reasons == {
        "plenty": None,
        "none": "it has no labelled rows below the watermark",
        "constant": "its 600 labelled rows are all of one class",
        "three": "its 3 labelled rows are fewer than training.min_rows 100",
        "rare": "its rarer class has 6 rows, fewer than training.min_positives 10",
        "late": "its training slice holds one class only, or its validation slice no rows",
    }


def test_nobody_gets_a_pooled_model_that_nothing_could_judge() -> None:
    """A region without a single labelled row has no test slice either."""
    nothing = Standing(0, 0, learnable=False)
    assert choose(nothing, PLENTY, SETTINGS, champion=False).kind == "none"
    assert choose(nothing, PLENTY, SETTINGS, champion=True).kind == "incumbent"
