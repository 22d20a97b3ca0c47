"""Promise: a day is all its regions' pages, or it is not there."""

import json
import re
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from ml_patterns.errors import SettingsError
from ml_patterns.retry.caller import GaveUpError, RetryingCaller, Tally
from ml_patterns.retry.classify import HttpStatusError, InvalidAnswerError
from ml_patterns.retry.external import Response, fetch_day, select_rows
from ml_patterns.retry.http import http_session
from ml_patterns.retry.settings import ExternalSettings
from ml_patterns.retry.waits import Backoff
from ml_patterns_tests.retry.paged_api import ITEMS, PagedApi, serve_pages
from ml_patterns_tests.retry.virtual import VirtualTime

DAY = date(2026, 6, 2)
SELECT = """
SELECT region, page, CAST(item->'id' AS INTEGER) AS id, item->>'day' AS day
FROM (SELECT *, unnest(CAST(body->'$.items' AS JSON[])) AS item FROM response)
"""
BY_NUMBER = {"next": "page_number", "items": "$.items"}
BY_LINK = {"next": "link_header"}


def items(api: PagedApi, pages: dict[str, Any] | None, **more: Any) -> ExternalSettings:
    numbered = pages is not None and pages["next"] == "page_number"
    url = f"{api.url}/items?day={{start}}" + ("&page={page}" if numbered else "")
    url += "&region={region}" if more.get("regions") else ""
    return ExternalSettings.model_validate(
        {"name": "items", "url": url, "pages": pages, "select": SELECT, **more}
    )


def ask(external: ExternalSettings, tally: Tally | None = None) -> Response:
    time = VirtualTime()
    caller = RetryingCaller(3, 1000, 5, Backoff(1, 1, 1), clock=time.now, sleep=time.sleep)
    with http_session() as session:
        return fetch_day(
            external, "deliveries", DAY, session=session, caller=caller, tally=tally or Tally()
        )


def rows(external: ExternalSettings, response: Response) -> list[tuple[object, ...]]:
    return sorted(tuple(row.values()) for row in select_rows(external, response.body).to_pylist())


ALL = [(None, 1 + number // 3, number, DAY.isoformat()) for number in range(ITEMS)]


@pytest.mark.parametrize("pages", [BY_NUMBER, BY_LINK], ids=["number", "link"])
def test_all_pages_are_one_day(pages: dict[str, Any]) -> None:
    with serve_pages() as api:
        external = items(api, pages)
        assert rows(external, ask(external)) == ALL


def test_one_page_is_what_it_was_without_the_setting() -> None:
    with serve_pages() as api:
        external = items(api, None)
        response = ask(external)
        assert json.loads(response.body)["total"] == ITEMS, "kept as it came"
        assert rows(external, response) == [(None, 1, *row[2:]) for row in ALL[:3]]


def test_every_region_is_asked_for_and_named() -> None:
    with serve_pages() as api:
        external = items(api, BY_NUMBER, regions={"eu": "1", "us": "2"})
        assert rows(external, ask(external)) == [
            (region, *row[1:]) for region in ("eu", "us") for row in ALL
        ]
        assert {region for region, _ in api.asked} == {"1", "2"}, "as the setting says"


@pytest.mark.parametrize("pages", [BY_NUMBER, BY_LINK], ids=["number", "link"])
def test_a_page_is_asked_again_without_the_others(pages: dict[str, Any]) -> None:
    with serve_pages() as api:
        api.faults[("", 2)] = [503, 503]
        external, tally = items(api, pages), Tally()
        assert rows(external, ask(external, tally)) == ALL
        pages_asked = [page for _, page in api.asked]
        assert pages_asked[:5] == [1, 2, 2, 2, 3]
        assert tally.attempts == len(pages_asked)


NEVER_WHOLE: list[tuple[object, type[Exception]]] = [
    ([503] * 3, GaveUpError),
    ([404], HttpStatusError),
    (["<html>"], InvalidAnswerError),
    (['{"items": [{"id": 1}'], InvalidAnswerError),
]


@pytest.mark.parametrize("pages", [BY_NUMBER, BY_LINK], ids=["number", "link"])
@pytest.mark.parametrize(("fault", "error"), NEVER_WHOLE, ids=str)
def test_some_of_the_pages_are_no_day(
    pages: dict[str, Any], fault: list[object], error: type[Exception]
) -> None:
    with serve_pages() as api:
        api.faults[("", 3)] = list(fault)
        with pytest.raises(error):
            ask(items(api, pages))


def test_a_region_that_fails_takes_the_day_with_it() -> None:
    with serve_pages() as api:
        api.faults[("us", 2)] = [404]
        with pytest.raises(HttpStatusError):
            ask(items(api, BY_NUMBER, regions={"eu": "eu", "us": "us"}))


def test_fewer_items_than_announced_are_no_day() -> None:
    """A page that came back empty too early once passed for the last."""
    with serve_pages() as api:
        api.faults[("", 3)] = ['{"items": []}']
        external = items(api, BY_NUMBER)
        assert len(rows(external, ask(external))) == 6, "nobody can tell without the total"
        for changed in ({"items": [], "total": ITEMS}, {"items": [], "total": None}):
            api.faults[("", 3)] = [json.dumps(changed)]
            with pytest.raises(InvalidAnswerError, match=r"6 items on 2 page.* says 7"):
                ask(items(api, BY_NUMBER | {"total": "$.total"}))
        assert ask(items(api, BY_NUMBER | {"total": "$.total"}))


def test_pages_without_end_are_refused() -> None:
    with serve_pages() as api:
        with pytest.raises(InvalidAnswerError, match="more than 2 pages"):
            ask(items(api, BY_NUMBER | {"most": 2}))
        api.next_url = "?day=2026-06-02&page=1"
        with pytest.raises(InvalidAnswerError, match="a circle"):
            ask(items(api, BY_LINK))


def test_a_next_page_at_another_server_is_not_asked_for() -> None:
    """The headers may hold a secret of the first one."""
    with serve_pages() as api, serve_pages() as other:
        api.next_url = f"{other.url}/items?day=x&page=2"
        with pytest.raises(InvalidAnswerError, match="another server"):
            ask(items(api, BY_LINK))
        assert other.asked == []


def test_a_list_that_is_not_there_is_named() -> None:
    with serve_pages() as api:
        with pytest.raises(InvalidAnswerError, match=re.escape("$.data")):
            ask(items(api, BY_NUMBER | {"items": "$.data"}))
        with pytest.raises(SettingsError, match="no JSON path"):
            ask(items(api, BY_NUMBER | {"items": "$[["}))


def test_a_day_that_was_kept_before_there_were_pages_can_still_be_selected_from() -> None:
    with serve_pages() as api:
        kept = ask(items(api, None))
        assert len(rows(items(api, BY_NUMBER), kept)) == 3


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"url": "http://x/{page}"}, "asks for {page}"),
        ({"url": "http://x/", "pages": BY_NUMBER}, "asks for {page}"),
        ({"url": "http://x/{region}"}, "asks for {region}"),
        ({"url": "http://x/", "regions": {"eu": "1"}}, "asks for {region}"),
        ({"url": "http://x/{page}", "pages": {"next": "page_number"}}, "needs items"),
        ({"url": "http://x/", "pages": BY_LINK | {"total": "$.n"}}, "needs items"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_say_so(block: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        ExternalSettings.model_validate({"name": "items", "select": "SELECT 1", **block})
