"""Reviews that wait, a server in front of them, and a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ml_patterns_tests.serving.conftest import Server, running_server
from ml_patterns_tests.serving.reviews.site import Site, browser, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An installation of the test's own."""
    return Site(tmp_path)


@pytest.fixture
def server(site: Site) -> Iterator[Server]:
    """A server over the test's own installation."""
    with running_server(site.house) as server:
        yield server


@pytest.fixture(scope="module")
def chrome() -> Iterator["Browser"]:
    """A headless browser; not for the whole session: its event loop would be in Dagster's way."""
    with browser(chromium()) as running:
        yield running
