"""One model drawn on demand, from what is on record."""

import base64
from xml.etree import ElementTree

import dagster as dg
import numpy as np
import pytest

from ml_patterns.fan_out.jobs import model_pictures_job
from ml_patterns.fan_out.model_pictures import calibration_svg, confusion_svg, importances_svg
from ml_patterns.storage.resources import ArtifactsResource, OperationalResource
from ml_patterns_tests.fan_out.conftest import House, made_up, settings_for

SVG = "{http://www.w3.org/2000/svg}"
LABELS = np.array([True, True, True, False, False])
ANSWERS = np.array([0.91, 0.93, 0.2, 0.1, np.nan])


def texts(svg: str) -> list[str]:
    """The words and figures of a picture, in order; a picture that is no XML fails here."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def draw(house: House, **config: object) -> dg.ExecuteInProcessResult:
    """Runs the job."""
    return model_pictures_job(settings_for()).execute_in_process(
        resources={
            "operational": OperationalResource(url=house.state_url),
            "artifacts": ArtifactsResource(root=house.artifacts),
        },
        run_config={"ops": {"parcels_model_pictures": {"config": config}}},
        raise_on_error=False,
    )


def test_the_counts_of_the_confusion_matrix_are_the_rows() -> None:
    """Rows without an answer are left out."""
    shown = texts(confusion_svg(LABELS, ANSWERS, "eu"))
    assert [text for text in shown if text.isdigit()] == ["1", "0", "1", "2"]
    assert "66.7%" in shown


def test_calibration_has_a_circle_per_tenth_that_holds_rows() -> None:
    circles = ElementTree.fromstring(calibration_svg(LABELS, ANSWERS, "eu")).findall(f"{SVG}circle")
    said = [circle.findtext(f"{SVG}title") for circle in circles]
    assert said == [
        "1 rows: predicted 0.100, seen 0.000",
        "1 rows: predicted 0.200, seen 1.000",
        "2 rows: predicted 0.920, seen 1.000",
    ]


def test_the_most_important_feature_comes_first_and_names_are_escaped() -> None:
    shown = texts(importances_svg({"a<b": 0.1, "distance": 0.9}, "eu & us"))
    assert shown == ["eu & us: share of the gain", "distance", "90.0%", "a<b", "10.0%"]


def test_no_rows_and_no_features_are_pictures_too() -> None:
    nothing = np.empty(0)
    for svg in (
        confusion_svg(nothing.astype(bool), nothing, "eu"),
        calibration_svg(nothing.astype(bool), nothing, "eu"),
        importances_svg({}, "eu"),
    ):
        assert texts(svg)


def test_the_job_shows_the_version_that_is_asked_for(trained: House) -> None:
    """The newest without a version; every picture is an image that Markdown can show."""
    trained.holds(made_up("eu", 700))
    trained.train("eu", settings=settings_for())
    shown = {}
    for asked in ({}, {"version": 1}):
        result = draw(trained, region="eu", **asked)
        (event,) = [event for event in result.all_events if event.is_successful_output]
        metadata = event.step_output_data.metadata
        assert metadata["version"].value == asked.get("version", 2)
        shown[metadata["version"].value] = {
            name: base64.b64decode(metadata[name].value.split("base64,")[1].rstrip(")")).decode()
            for name in ("calibration", "confusion_matrix", "importances")
        }
    for version, pictures in shown.items():
        for svg in pictures.values():
            assert texts(svg)[0].startswith(f"eu version {version}: ")
    assert shown[1] != shown[2]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"region": "mars"}, "region mars of pipeline parcels has no model yet"),
        ({"region": "mars", "version": 3}, "mars"),
    ],
)
def test_a_model_that_is_not_there_is_a_sentence(
    house: House, config: dict[str, object], sentence: str
) -> None:
    result = draw(house, **config)
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert sentence in (event.step_failure_data.user_failure_data.description or "")
