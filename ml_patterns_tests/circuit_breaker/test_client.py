"""Promise: every row is answered, in order, and says where its answer came from."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_patterns.circuit_breaker.answers import COLUMNS
from ml_patterns.circuit_breaker.live import is_outage
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import metadata
from ml_patterns_tests.circuit_breaker.conftest import IMPATIENT, Deployment, parcels
from ml_patterns_tests.circuit_breaker.model_server import (
    always,
    live_answer,
    serve_models,
)

NOBODY = "http://127.0.0.1:9"


def champion_says(deployment: Deployment, frame: pd.DataFrame) -> np.ndarray:
    from ml_patterns.storage.encoding import encode
    from ml_patterns_tests.serving.conftest import FEATURES

    return deployment.house.expected("eu", 1, encode(frame, FEATURES))


def test_a_healthy_server_answers_every_row_in_order(deployment: Deployment) -> None:
    frame = parcels(25)
    with serve_models() as server:
        answers = deployment.client(server.url, batch_rows=10).predict("deliveries", "eu", frame)
        assert server.sizes == [10, 10, 5]
    assert tuple(answers.columns) == COLUMNS
    assert list(answers.index) == list(frame.index)
    assert answers["prediction"].tolist() == [live_answer(x) for x in frame["distance"]]
    assert (answers["source"] == "live").all()
    assert (answers["reason"] == "").all()
    assert (answers["model_version"] == "1").all()
    assert (answers["attempts"] == 1).all()


# What the server does, what the rows' reason begins with, whether healing would help, and calls.
MISBEHAVIOURS: list[tuple[object, str, bool]] = [
    (503, "unavailable: HTTP 503", True),
    (429, "unavailable: HTTP 429", True),
    ("hang", "unavailable: ReadTimeout", True),
    ("trickle", "unavailable: ReadTimeout", True),
    ("trickle head", "unavailable: ReadTimeout", True),
    ("reset", "unavailable: ", True),
    ("truncate", "unavailable: ", True),
    (401, "refused: HTTP 401", False),
    (422, "refused: HTTP 422", False),
    (501, "refused: HTTP 501", False),
    (404, "version not served", True),
    ("<html>", "invalid answer", False),
    ('{"outputs": []}', "invalid answer", False),
    ('{"outputs": [{"data": [0.5]}]}', "invalid answer", False),
    ('{"outputs": [{"data": ["a", "b", "c"]}]}', "invalid answer", False),
    ('{"outputs": [{"data": [[0.5, 0.5, 0.5]]}]}', "invalid answer", False),
    ('{"outputs": [{"data": [NaN, null, Infinity]}]}', "invalid answer", False),
    ('{"outputs": [{"data": [-0.1, 1.1, 7]}]}', "invalid answer", False),
    (b"\xff\xfe", "invalid answer", False),
]


@pytest.mark.parametrize(("what", "reason", "outage"), MISBEHAVIOURS, ids=str)
def test_whatever_the_server_does_the_champion_answers(
    deployment: Deployment, what: object, reason: str, outage: bool
) -> None:
    frame = parcels(3)
    late = isinstance(what, str) and what in {"hang", "trickle", "trickle head"}
    with serve_models(always(what)) as server:
        client = deployment.client(server.url, **(IMPATIENT if late else {}))
        answers = client.predict("deliveries", "eu", frame)
    assert (answers["source"] == "champion").all()
    np.testing.assert_array_equal(answers["prediction"], champion_says(deployment, frame))
    assert answers["reason"].str.startswith(reason).all(), answers["reason"].iloc[0]
    assert answers["reason"].map(is_outage).eq(outage).all()


def test_nobody_listens_and_all_is_answered(deployment: Deployment) -> None:
    answers = deployment.client(NOBODY).predict("deliveries", "eu", parcels(3))
    assert (answers["source"] == "champion").all()
    assert (answers["attempts"] == 3).all()


def test_a_poison_row_falls_back_alone(deployment: Deployment) -> None:
    frame = parcels(100)
    frame.loc["row-17", "distance"] = -5.0

    def refuses_negative(rows: list[list[float | None]]) -> object:
        return 422 if any(row[0] is not None and row[0] < 0 for row in rows) else None

    with serve_models(refuses_negative) as server:
        client = deployment.client(server.url)
        answers = client.predict("deliveries", "eu", frame)
        assert server.calls <= 2 * 7 + 1
    assert answers.loc["row-17", "reason"] == "refused: HTTP 422"
    assert answers.loc["row-17", "source"] == "champion"
    assert (answers.drop("row-17")["source"] == "live").all()
    assert client.breaker.current_state == "closed"
    assert client.breaker.fail_counter == 0


def test_a_server_that_refuses_everything_is_not_asked_row_by_row(deployment: Deployment) -> None:
    with serve_models(always(422)) as server:
        answers = deployment.client(server.url).predict("deliveries", "eu", parcels(1000))
        assert server.calls < 200
    assert (answers["source"] == "champion").all()


def test_an_invalid_value_costs_its_own_row_only(deployment: Deployment) -> None:
    body = '{"outputs": [{"data": [0.25, NaN, 0.75]}]}'
    with serve_models(always(body)) as server:
        answers = deployment.client(server.url).predict("deliveries", "eu", parcels(3))
    assert answers["source"].tolist() == ["live", "champion", "live"]


def test_an_open_circuit_keeps_every_call_from_the_server(deployment: Deployment) -> None:
    with serve_models(always(503)) as server:
        client = deployment.client(server.url)
        for _ in range(50):
            answers = client.predict("deliveries", "eu", parcels(2))
        assert server.calls == 5
        assert client.accounting.backend_calls == 5
    assert (answers["reason"] == "circuit open").all()
    assert (answers["attempts"] == 0).all()
    assert client.accounting.transitions == ["closed -> open"]


def test_the_cache_answers_for_the_same_features_with_its_age(deployment: Deployment) -> None:
    frame = parcels(6)
    with serve_models() as server:
        deployment.client(server.url).predict("deliveries", "eu", frame.iloc[:4])
        server.behaviour = always(503)
        answers = deployment.client(server.url).predict("deliveries", "eu", frame)
    assert answers["source"].tolist() == ["cache"] * 4 + ["champion"] * 2
    assert answers["prediction"].tolist()[:4] == [live_answer(x) for x in frame["distance"][:4]]
    assert (answers["age_s"][:4] > 0).all()


def test_an_old_cached_answer_is_no_answer(deployment: Deployment) -> None:
    frame = parcels(2)
    with serve_models() as server:
        deployment.client(server.url).predict("deliveries", "eu", frame)
        server.behaviour = always(503)
        client = deployment.client(server.url, cache_max_age="0s")
        answers = client.predict("deliveries", "eu", frame)
    assert (answers["source"] == "champion").all()


def test_another_versions_cached_answer_is_no_answer(deployment: Deployment) -> None:
    frame = parcels(2)
    with serve_models() as server:
        deployment.client(server.url).predict("deliveries", "eu", frame)
        deployment.house.deploy("eu", seed=2)
        server.behaviour = always(503)
        answers = deployment.client(server.url).predict("deliveries", "eu", frame)
    assert (answers["source"] == "champion").all()
    assert (answers["model_version"] == "2").all()


@pytest.mark.parametrize(
    ("fallbacks", "source"),
    [(["cache"], "base_rate"), (["champion"], "champion"), ([], "base_rate")],
)
def test_each_fallback_can_be_switched_off_but_an_answer_there_is(
    deployment: Deployment, fallbacks: list[str], source: str
) -> None:
    client = deployment.client(NOBODY, fallbacks=fallbacks)
    answers = client.predict("deliveries", "eu", parcels(2))
    assert (answers["source"] == source).all()
    assert answers["prediction"].notna().all()


def test_a_version_that_is_gone_makes_the_client_read_the_champion_again(
    deployment: Deployment,
) -> None:
    with serve_models() as server:
        client = deployment.client(server.url)

        def promoted_meanwhile(_rows: object) -> object:
            if server.calls == 1:
                deployment.house.deploy("eu", seed=2)
                return 404
            return None

        server.behaviour = promoted_meanwhile
        answers = client.predict("deliveries", "eu", parcels(3))
        assert server.calls == 2
    assert (answers["source"] == "live").all()
    assert (answers["model_version"] == "2").all()


def test_a_region_without_a_champion_gets_its_base_rate(deployment: Deployment) -> None:
    with serve_models() as server:
        client = deployment.client(server.url)
        known = client.predict("deliveries", "moon", parcels(2), base_rate=0.125)
        unknown = client.predict("deliveries", "moon", parcels(2))
        assert server.calls == 0
    assert known["prediction"].tolist() == [0.125, 0.125]
    assert unknown["prediction"].tolist() == [0.5, 0.5]
    assert (known["reason"] == "no champion").all()
    assert known["model_version"].isna().all()


def test_an_altered_artifact_is_said_and_answered(deployment: Deployment) -> None:
    version = deployment.registry.version("deliveries", "eu", 1)
    deployment.house.break_artifact(version)
    answers = deployment.client(NOBODY).predict("deliveries", "eu", parcels(1), base_rate=0.2)
    assert answers["prediction"].tolist() == [0.2]
    assert "was altered" in answers["reason"].iloc[0]


def test_a_frame_without_a_feature_is_said_and_answered(deployment: Deployment) -> None:
    frame = parcels(1).drop(columns="carrier")
    answers = deployment.client(NOBODY).predict("deliveries", "eu", frame, base_rate=0.2)
    assert answers["prediction"].tolist() == [0.2]
    assert "carrier" in answers["reason"].iloc[0]


def test_an_empty_frame_asks_nothing(deployment: Deployment) -> None:
    answers = deployment.client(NOBODY).predict("deliveries", "eu", parcels(0))
    assert tuple(answers.columns) == COLUMNS
    assert len(answers) == 0


def test_every_layer_repeats_the_same_idempotency_key(deployment: Deployment) -> None:
    with serve_models(always(503)) as server:
        for _ in range(2):  # as a step that Dagster repeats
            deployment.client(server.url).predict("deliveries", "eu", parcels(2))
        assert server.calls == 5
        assert len(set(server.keys)) == 1


def test_a_database_that_is_gone_fails_no_request(deployment: Deployment, tmp_path: Path) -> None:
    from ml_patterns.circuit_breaker.client import ModelClient

    nowhere = sa.create_engine(f"sqlite:///{tmp_path / 'missing' / 'state.sqlite'}")
    client = ModelClient(nowhere, ArtifactStore(str(tmp_path)), NOBODY)
    answers = client.predict("deliveries", "eu", parcels(2), base_rate=0.3)
    assert answers["prediction"].tolist() == [0.3, 0.3]
    assert answers["reason"].str.startswith("unavailable: registry").all()


def test_a_database_that_goes_away_later_leaves_a_local_breaker(
    deployment: Deployment, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_models() as server:
        client = deployment.client(server.url)
        client.predict("deliveries", "eu", parcels(2))
        metadata.drop_all(deployment.engine)
        live = client.predict("deliveries", "eu", parcels(2))
        assert (live["source"] == "live").all()
        server.behaviour = always(503)
        for _ in range(10):
            answers = client.predict("deliveries", "eu", parcels(2))
        assert server.calls == 2 + 5
    assert (answers["source"] == "champion").all()
    assert (answers["reason"] == "circuit open").all()
    assert client.breaker.storage.local_because is not None
    assert "is local to this process" in caplog.text


def test_the_bulkhead_bounds_what_one_process_asks_at_once(deployment: Deployment) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def slow(_rows: object) -> object:
        server.closing.wait(0.02)
        return None

    with serve_models() as server:
        server.behaviour = slow
        client = deployment.client(server.url, bulkhead=2, request_timeout="5s", deadline="20s")
        with ThreadPoolExecutor(8) as pool:
            frames = [parcels(1, seed) for seed in range(16)]
            answers = list(pool.map(lambda f: client.predict("deliveries", "eu", f), frames))
        assert server.most_under_way <= 2
    assert all((answer["source"] == "live").all() for answer in answers)


def test_a_pooled_champion_knows_the_region_that_was_asked_for(deployment: Deployment) -> None:
    """Rows reach the client by region, without a column for it; a pooled model needs one."""
    from ml_patterns.storage.card import Feature
    from ml_patterns.storage.encoding import encode
    from ml_patterns_tests.serving.conftest import FEATURES, card_of, train

    house, booster = deployment.house, train(seed=5)
    regions = Feature(name="region", type="categorical", categories=("eu", "uk"))
    features = (FEATURES[0], regions, FEATURES[2])
    card = card_of("uk", 5).model_copy(update={"features": features, "kind": "pooled"})
    version = house.registry.register(
        pipeline="deliveries",
        region="uk",
        artifact=house.artifacts.put(booster.model_to_string(), card),
        kind="pooled",
        training_key="pooled",
    )
    house.promote(version)
    frame = parcels(20)
    answers = deployment.client(NOBODY).predict("deliveries", "uk", frame)
    expected = booster.predict(encode(frame.assign(region="uk"), features), num_threads=1)
    assert (answers["source"] == "champion").all()
    assert answers["prediction"].tolist() == expected.tolist()
