"""Promise: a day of an external table is there whole, or not at all."""

import json
from datetime import date
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from ml_patterns.errors import SettingsError, TransformError
from ml_patterns.retry.caller import GaveUpError, RetryingCaller, Tally
from ml_patterns.retry.classify import HttpStatusError, InvalidAnswerError
from ml_patterns.retry.external import Response, fetch_day, select_rows, store
from ml_patterns.retry.http import http_session
from ml_patterns.retry.settings import ExternalSettings
from ml_patterns.retry.waits import Backoff
from ml_patterns.sandbox.upstream import Upstream, serve_upstream
from ml_patterns_tests.retry.virtual import START, VirtualTime, highest

DAY = date(2026, 6, 2)
SELECT = """
SELECT CAST(unnest(CAST(body->'$.daily.time' AS VARCHAR[])) AS DATE) AS date,
       unnest(CAST(body->'$.daily.rain_sum' AS DOUBLE[])) AS rain_sum
FROM response
"""


def weather(url: str, select: str = SELECT, **more: object) -> ExternalSettings:
    template = "/v1/archive?start_date={start}&end_date={end}&daily=rain_sum"
    return ExternalSettings.model_validate(
        {"name": "weather", "url": url + template, "select": select, **more}
    )


def ask(upstream: Upstream, attempt_timeout: float = 5.0, **more: object) -> tuple[Response, Tally]:
    time, tally = VirtualTime(), Tally()
    caller = RetryingCaller(
        5, 1000, attempt_timeout, Backoff(1, 4, 300),
        clock=time.now, sleep=time.sleep, uniform=highest,
    )  # fmt: skip
    with http_session() as session:
        response = fetch_day(
            weather(upstream.url, **more), "deliveries", DAY,
            session=session, caller=caller, tally=tally, environment={"TOKEN": "secret"},
        )  # fmt: skip
    return response, tally


FAILS_THEN_ANSWERS = [
    [{"status": 503}],
    [{"status": 429, "retry_after": 7}],
    [{"reset": True}],
    [{"truncate": True}],
    [{"status": 500}, {"reset": True}, {"truncate": True}, {"status": 408}],
]


@pytest.mark.parametrize("script", FAILS_THEN_ANSWERS, ids=str)
def test_a_day_survives_what_passes(script: list[dict[str, object]]) -> None:
    with serve_upstream(script) as upstream:
        response, tally = ask(upstream)
        assert upstream.requests == tally.attempts == len(script) + 1
    assert json.loads(response.body)["daily"]["time"] == ["2026-06-02"]


def test_a_hanging_upstream_costs_one_attempts_time() -> None:
    with serve_upstream([{"hang": 60}]) as upstream:
        response, tally = ask(upstream, attempt_timeout=0.2)
        assert tally.attempts == 2
    assert response.day == DAY


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_for_the_world_outside_is_not_asked_for_our_own_servers(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serve_upstream() as upstream:
        assert ask(upstream)[1].attempts == 1


def test_the_servers_wish_to_wait_is_granted() -> None:
    with serve_upstream([{"status": 429, "retry_after": 77}]) as upstream:
        _, tally = ask(upstream)
    assert tally.waited == 77


def test_an_outage_ends_with_what_was_tried() -> None:
    with serve_upstream([{"status": 503}] * 9) as upstream:
        with pytest.raises(GaveUpError, match=r"5 attempt.*answered 503"):
            ask(upstream)
        assert upstream.requests == 5


def test_a_refusal_is_not_asked_again() -> None:
    with serve_upstream([{"status": 401}]) as upstream:
        with pytest.raises(HttpStatusError, match="answered 401"):
            ask(upstream)
        assert upstream.requests == 1


def test_a_page_that_is_no_json_is_no_answer() -> None:
    with (
        serve_upstream([{"body": "<html>maintenance</html>"}]) as upstream,
        pytest.raises(InvalidAnswerError, match="no JSON"),
    ):
        ask(upstream)


def test_a_header_without_its_variable_names_the_variable() -> None:
    with (
        serve_upstream() as upstream,
        pytest.raises(SettingsError, match="API_KEY, which is not set"),
    ):
        ask(upstream, headers={"Authorization": "API_KEY"})


def test_a_template_with_an_unknown_field_says_so() -> None:
    external = ExternalSettings(name="weather", url="http://x/{days}", select="SELECT 1")
    with http_session() as session, pytest.raises(SettingsError, match="'days'"):
        fetch_day(
            external, "p", DAY, session=session,
            caller=RetryingCaller(1, 1, 1, Backoff(1, 0, 0)), tally=Tally(),
        )  # fmt: skip


def test_a_select_that_does_not_fit_names_the_table() -> None:
    with pytest.raises(TransformError, match=r"external.select of weather"):
        select_rows(weather("http://x", select="SELECT nothing FROM response"), "{}")


def answered(rain: float, day: date = DAY) -> Response:
    return Response(
        day, json.dumps({"daily": {"time": [day.isoformat()], "rain_sum": [rain]}}), START
    )


def keep(path: Path, external: ExternalSettings, *responses: Response) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path)) as connection:
        chosen = [(response, select_rows(external, response.body)) for response in responses]
        store(connection, "deliveries", external, chosen)
        return connection.execute(
            "SELECT * FROM deliveries.external_weather ORDER BY partition_start"
        ).fetchall()


def test_a_day_is_replaced_and_its_answer_kept(tmp_path: Path) -> None:
    path, external = tmp_path / "w.duckdb", weather("http://x")
    keep(path, external, answered(1.0), answered(5.0, date(2026, 6, 3)))
    assert keep(path, external, answered(2.0)) == [
        (pd.Timestamp("2026-06-02"), DAY, 2.0),
        (pd.Timestamp("2026-06-03"), date(2026, 6, 3), 5.0),
    ]
    with duckdb.connect(str(path)) as connection:
        kept = connection.execute(
            "SELECT partition_start, body FROM deliveries.external_responses ORDER BY 1"
        ).fetchall()
    assert kept[0] == (pd.Timestamp("2026-06-02"), answered(2.0).body)
    assert len(kept) == 2


def test_a_changed_select_is_applied_to_every_kept_day(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    keep(path, weather("http://x"), answered(1.0), answered(5.0, date(2026, 6, 3)))
    wider = weather("http://x", select=SELECT.replace("AS rain_sum", "AS rain_sum, 7 AS seven"))
    assert [row[2:] for row in keep(path, wider, answered(2.0))] == [(2.0, 7), (5.0, 7)]


def test_a_failed_store_changes_nothing(tmp_path: Path) -> None:
    path, external = tmp_path / "w.duckdb", weather("http://x")
    before = keep(path, external, answered(1.0))
    broken = weather("http://x", select="SELECT 1 AS one FROM response WHERE error(body)")
    with duckdb.connect(str(path)) as connection:
        rows = select_rows(weather("http://x", select="SELECT 1 AS one FROM response"), "{}")
        with pytest.raises(TransformError):
            store(connection, "deliveries", broken, [(answered(9.0), rows)])
        assert connection.execute("SELECT * FROM deliveries.external_weather").fetchall() == before
        kept = connection.execute("SELECT body FROM deliveries.external_responses").fetchall()
    assert kept == [(answered(1.0).body,)]
