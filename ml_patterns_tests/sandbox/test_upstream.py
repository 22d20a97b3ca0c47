"""The unreliable upstream: it follows its script to the letter, and is healthy afterwards."""

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
import requests

from ml_patterns.errors import SettingsError
from ml_patterns.sandbox.upstream import archive, serve_upstream
from ml_patterns.sandbox.weather import weather_on

QUERY = "/v1/archive?start_date=2026-06-01&end_date=2026-06-03&daily=temperature_2m_max,rain_sum"
TIMEOUT = 20


def test_healthy_weather_has_the_format_of_open_meteo() -> None:
    with serve_upstream() as upstream:
        answer = requests.get(upstream.url + QUERY, timeout=TIMEOUT)
    assert answer.headers["Content-Type"] == "application/json"
    weather = weather_on(date(2026, 6, 2))
    body = answer.json()
    assert body["daily_units"] == {"time": "iso8601", "temperature_2m_max": "°C", "rain_sum": "mm"}
    assert body["daily"]["time"] == ["2026-06-01", "2026-06-02", "2026-06-03"]
    assert body["daily"]["temperature_2m_max"][1] == weather.temperature_max
    assert body["daily"]["rain_sum"][1] == weather.rain_sum


def test_weather_is_the_same_every_time_and_not_every_day() -> None:
    days = [date(2026, 6, day) for day in range(1, 8)]
    assert [weather_on(day) for day in days] == [weather_on(day) for day in days]
    assert len({weather_on(day) for day in days}) == 7
    assert {weather_on(day).rain_tenths > 0 for day in days} == {True, False}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("/v1/archive?start_date=2026-06-01&daily=rain_sum", "end_date is missing"),
        ("/v1/archive?start_date=June&end_date=July", "isoformat"),
        ("/v1/archive?start_date=2026-06-02&end_date=2026-06-01", "start_date 2026-06-02"),
        (QUERY + ",mood", "mood"),
    ],
)
def test_a_bad_question_is_refused_with_a_reason(query: str, reason: str) -> None:
    with serve_upstream() as upstream:
        answer = requests.get(upstream.url + query, timeout=TIMEOUT)
    assert answer.status_code == 400
    assert answer.json()["error"] is True
    assert reason in answer.json()["reason"]


def test_the_script_is_followed_one_step_per_request_and_then_all_is_well() -> None:
    script = [
        {"status": 503, "retry_after": 1},
        {"status": 429},
        {"reset": True},
        {"truncate": True},
        {"body": "<html>maintenance</html>"},
        {"hang": 0.01},
    ]
    healthy = json.dumps(archive(date(2026, 6, 1), date(2026, 6, 3), ["temperature_2m_max"]))
    query = QUERY.replace(",rain_sum", "")
    with serve_upstream(script) as upstream:
        url = upstream.url + query
        unavailable = requests.get(url, timeout=TIMEOUT)
        assert (unavailable.status_code, unavailable.headers["Retry-After"]) == (503, "1")
        limited = requests.get(url, timeout=TIMEOUT)
        assert (limited.status_code, "Retry-After" in limited.headers) == (429, False)
        with pytest.raises(requests.ConnectionError, match="reset by peer"):
            requests.get(url, timeout=TIMEOUT)
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            requests.get(url, timeout=TIMEOUT)
        assert requests.get(url, timeout=TIMEOUT).text == "<html>maintenance</html>"
        for _ in range(2):
            assert requests.get(url, timeout=TIMEOUT).json() == json.loads(healthy)
        assert upstream.requests == 7


def test_a_hanging_answer_outlasts_the_client_and_ends_with_the_upstream() -> None:
    with serve_upstream([{"hang": 3600}]) as upstream:
        with pytest.raises(requests.ReadTimeout):
            requests.get(upstream.url + QUERY, timeout=0.2)
        assert requests.get(upstream.url + QUERY, timeout=TIMEOUT).ok
        assert upstream.requests == 2
    for thread in threading.enumerate():
        if "process_request" in thread.name or "serve_forever" in thread.name:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), thread.name


def test_requests_at_once_share_the_script() -> None:
    """No step is used twice, none is lost."""
    with serve_upstream([{"status": 500}] * 10) as upstream, ThreadPoolExecutor(8) as pool:
        ask = [upstream.url + QUERY] * 30
        statuses = list(pool.map(lambda url: requests.get(url, timeout=TIMEOUT).status_code, ask))
        assert upstream.requests == 30
    assert sorted(statuses) == [200] * 20 + [500] * 10


def test_misbehaviour_can_be_added_while_it_runs() -> None:
    with serve_upstream() as upstream:
        assert requests.get(upstream.url + QUERY, timeout=TIMEOUT).ok
        upstream.misbehave([{"status": 502}])
        assert requests.get(upstream.url + QUERY, timeout=TIMEOUT).status_code == 502
        assert requests.get(upstream.url + QUERY, timeout=TIMEOUT).ok


def test_the_webhook_keeps_messages_and_leaves_the_script_alone() -> None:
    with serve_upstream([{"status": 503}]) as upstream:
        hook = upstream.url + "/webhook"
        for region in ("uk", "apac"):
            assert requests.post(hook, json={"region": region}, timeout=TIMEOUT).ok
        assert requests.post(hook, data="not JSON", timeout=TIMEOUT).status_code == 400
        messages = [{"region": "uk"}, {"region": "apac"}]
        assert requests.get(hook, timeout=TIMEOUT).json() == upstream.messages == messages
        counted = requests.get(upstream.url + "/requests", timeout=TIMEOUT).json()
        assert counted == {"requests": 0}
        assert requests.get(upstream.url + "/elsewhere", timeout=TIMEOUT).status_code == 404
        assert requests.get(upstream.url + QUERY, timeout=TIMEOUT).status_code == 503


@pytest.mark.parametrize(
    "step",
    [{}, {"explode": True}, {"status": 503, "hang": 1}, {"reset": True, "retry_after": 1}],
)
def test_a_step_that_does_not_exist_is_named(step: dict[str, object]) -> None:
    with (
        pytest.raises(SettingsError, match="step 1 of the upstream's script"),
        serve_upstream([{"status": 503}, step]),
    ):
        pass


def test_it_runs_as_a_process_with_a_script_from_a_file(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('[{"status": 503, "retry_after": 2}]')
    command = [sys.executable, "-m", "ml_patterns.sandbox.upstream", "--port", "0"]
    with subprocess.Popen(
        [*command, "--script", str(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert requests.get(url + QUERY, timeout=TIMEOUT).headers["Retry-After"] == "2"
            assert requests.get(url + QUERY, timeout=TIMEOUT).ok
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
