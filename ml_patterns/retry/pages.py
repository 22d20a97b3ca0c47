"""The pages of one answer, all of them or none.

Belongs here: following pages to the last, and knowing that it was the last. Does not: asking for
one (`external.py` brings that along), what is done with them.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import duckdb

from ml_patterns.errors import SettingsError
from ml_patterns.retry.classify import InvalidAnswerError
from ml_patterns.retry.http import Answer
from ml_patterns.retry.settings import PagesSettings

Ask = Callable[[str], Answer]
"""Asks for a URL, as often as it takes."""


def all_pages(
    url_of: Callable[[int], str], pages: PagesSettings | None, ask: Ask
) -> list[tuple[int, str]]:
    """Number and JSON text of every page.

    Args:
        url_of: the URL of a page by its number; only the first where a header names the next.
        pages: None: there is one.

    Raises:
        InvalidAnswerError: a page is no JSON, the last is never reached, or there are more or fewer
            items than announced.
        Exception: what `ask` raises; a page that is not to be had leaves no pages at all.
    """
    if pages is None:
        url = url_of(1)
        return [(1, _json_text(url, ask(url)))]
    found = []
    for number, text in _one_by_one(url_of, pages, ask):
        found.append((number, text))
        if len(found) > pages.most:
            raise InvalidAnswerError(
                f"{url_of(pages.first)} has more than {pages.most} pages; raise external.pages.most"
            )
    _compare_with_total(url_of(pages.first), pages, [text for _, text in found])
    return found


def _one_by_one(
    url_of: Callable[[int], str], pages: PagesSettings, ask: Ask
) -> Iterator[tuple[int, str]]:
    number, url, seen = pages.first, url_of(pages.first), set[str]()
    while True:
        seen.add(url)
        answer = ask(url)
        text = _json_text(url, answer)
        if pages.next == "page_number":
            if not _count(url, text, pages.items):
                if number == pages.first:
                    yield number, text  # a day without items is an answer, too
                return
            yield number, text
            following = url_of(number + 1)
        else:
            yield number, text
            if answer.next_url is None:
                return
            following = _same_place(url, urljoin(url, answer.next_url))
        number += 1
        if following in seen:
            raise InvalidAnswerError(f"{url} names {following} as the next page: a circle")
        url = following


def _same_place(url: str, following: str) -> str:
    """The next page's URL, if it is the same server's: our headers may hold secrets."""
    here, there = urlsplit(url), urlsplit(following)
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        raise InvalidAnswerError(f"{url} sends us to another server, {there.netloc}")
    return following


def _json_text(url: str, answer: Answer) -> str:
    try:
        text = answer.body.decode()
        json.loads(text)
    except ValueError as error:
        raise InvalidAnswerError(f"{url} answered something that is no JSON: {error}") from error
    return text


def _compare_with_total(url: str, pages: PagesSettings, texts: list[str]) -> None:
    if pages.total is None:
        return
    items = sum(_count(url, text, pages.items) for text in texts)
    for text in texts:
        announced = _at(text, pages.total)
        if announced != items:
            raise InvalidAnswerError(
                f"{url} gave {items} items on {len(texts)} page(s), {pages.total} says {announced}"
            )


def _count(url: str, text: str, path: str | None) -> int:
    items = _at(text, path or "$")
    if not isinstance(items, list):
        raise InvalidAnswerError(f"{url} has no list at external.pages.items {path}")
    return len(items)


def _at(text: str, path: str) -> Any:
    """What lies at a JSON path, as DuckDB reads paths: the SELECT's language is ours, too."""
    with duckdb.connect(":memory:") as connection:
        try:
            row = connection.execute(
                "SELECT json_extract(CAST(? AS JSON), ?)", [text, path]
            ).fetchone()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(f"external.pages: {path!r} is no JSON path: {reason}") from error
    return None if row is None or row[0] is None else json.loads(row[0])
