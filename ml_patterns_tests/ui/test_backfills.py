"""Partitions and backfills, clicked through as a person would, with nothing in between faked."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_patterns.storage.warehouse import Warehouse
from ml_patterns_tests.serving.reviews.site import browser, chromium
from ml_patterns_tests.ui.platform import PATIENCE, Platform, environment_of, running, wait_for
from ml_patterns_tests.ui.shop import HOURS, ORDERS_PER_HOUR, REGIONS, key, landed, make_shop

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.slow

_ONE_TRY = 20_000
"""Milliseconds for one click."""

BACKFILL = """
query($id: String!) {
    partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
}
"""
RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
PARTITIONS = """
query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
    assetPartitionStatuses {
        ... on TimePartitionStatuses { ranges { status startKey endKey } }
        ... on DefaultPartitionStatuses { materializedPartitions failedPartitions }
    }
} } }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The shop with all its files registered, nothing computed."""
    root = tmp_path / "project"
    make_shop(root, "ui_shop")
    subprocess.run(
        [sys.executable, "-m", "ml_patterns", "run", "shop", "--steps", "ingest"],
        cwd=root, env=environment_of(tmp_path), check=True, capture_output=True,
    )  # fmt: skip
    return root


@pytest.fixture
def platform(tmp_path: Path, project: Path) -> Iterator[Platform]:
    chromium()  # without a browser there is nothing to start
    environment = environment_of(tmp_path)
    with running(tmp_path, project, "ui_shop.definitions", environment) as platform:
        yield platform


@pytest.fixture
def page(platform: Platform) -> Iterator["Page"]:
    with browser(chromium()) as chrome:
        page = chrome.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE * 1000)
        platform.ask("mutation { setNuxSeen }")  # the invitation that a new instance shows
        yield page


@dataclass(frozen=True)
class Launched:
    """What a click on `Launch` started: one partition is a run, several are a backfill."""

    platform: Platform
    run: str | None
    backfill: str | None

    @property
    def status(self) -> str:
        """As the UI shows it."""
        if self.run:
            return str(self.platform.ask(RUN, id=self.run)["runOrError"]["status"])
        answer = self.platform.ask(BACKFILL, id=self.backfill)
        return str(answer["partitionBackfillOrError"]["status"])

    @property
    def end(self) -> str | None:
        """The status that it ended with."""
        status = self.status
        ended = status.startswith(("COMPLETED", "SUCCESS", "CANCELED", "FAIL"))
        return status if ended and status != "FAILING" else None

    def ended(self) -> str:
        """The status that it ends with."""
        return wait_for(f"the end of {self}", lambda: self.end)


def launch(
    page: "Page", platform: Platform, choose: Callable[["Locator"], None], count: int
) -> Launched:
    """Opens the dialog of the asset on the page, chooses partitions and launches."""
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs")
    choose(dialog)
    dialog.get_by_text(f"{count} partition{'s' if count != 1 else ''}", exact=True).wait_for()
    with page.expect_response(_launches) as answer:
        dialog.get_by_role("button", name=re.compile("^Launch")).click()
    data = answer.value.json()["data"]
    if "launchPartitionBackfill" in data:
        return Launched(platform, None, data["launchPartitionBackfill"]["backfillId"])
    return Launched(platform, data["launchPipelineExecution"]["run"]["id"], None)


def _launches(response: Any) -> bool:
    asked = response.request.post_data or ""
    return '"LaunchPartitionBackfill"' in asked or '"LaunchPipelineExecution"' in asked


def _cancels(response: Any) -> bool:
    return '"CancelBackfill"' in (response.request.post_data or "")


def look_at(page: "Page", platform: Platform, asset: str) -> None:
    page.goto(f"{platform.url}/assets/shop/{asset}")


def typed(text: str) -> Callable[["Locator"], None]:
    """Types partitions into the dialog."""

    def choose(dialog: "Locator") -> None:
        field = dialog.get_by_placeholder(re.compile("^ex:"))
        field.fill(text)
        field.press("Enter")

    return choose


def pressed(name: str) -> Callable[["Locator"], None]:
    """Presses one of the dialog's ready-made choices."""
    return lambda dialog: dialog.get_by_role("button", name=name, exact=True).click()


def as_it_is(dialog: "Locator") -> None:
    """Takes the partition that the page shows, which the dialog offers by itself."""


def hours(platform: Platform, status: str, asset: str = "event_aggregates") -> list[int]:
    """Hours of the day that the UI shows with a status."""
    answer = platform.ask(PARTITIONS, path=["shop", asset])["assetNodeOrError"]
    found: list[int] = []
    for part in answer["assetPartitionStatuses"]["ranges"]:
        if part["status"] == status:
            first, last = (int(part[end][11:13]) for end in ("startKey", "endKey"))
            found += range(first, last + 1)
    return sorted(found)


def test_a_person_backfills_cancels_and_repeats(
    platform: Platform, project: Path, page: "Page", tmp_path: Path
) -> None:
    the_graph_is_the_drawing(page, platform)
    a_range_fails_where_its_file_is_gone(page, platform, project)
    what_failed_is_run_again_alone(page, platform)
    done = a_cancelled_backfill_stops_half_way(page, platform)
    the_rest_is_run_again(page, platform, missing=HOURS - len(done))
    one_region_is_trained_alone(page, platform)


def the_graph_is_the_drawing(page: "Page", platform: Platform) -> None:
    page.goto(f"{platform.url}/asset-groups")
    for group in ("incremental", "fan_out", "branching", "circuit_breaker"):
        page.get_by_text(group, exact=True).first.wait_for()
    page.get_by_text("fan_out", exact=True).last.click()  # the box in the graph opens
    page.get_by_text("regional_model", exact=True).last.click()
    page.get_by_text("A region that fails costs no other region its model").first.wait_for()


def a_range_fails_where_its_file_is_gone(page: "Page", platform: Platform, project: Path) -> None:
    aside = project / "aside.parquet"
    shutil.move(landed(project, 3), aside)
    chosen = typed(f"[{key(0)}...{key(5)}]")
    look_at(page, platform, "event_aggregates")
    launched = launch(page, platform, chosen, count=6)
    assert launched.ended() == "COMPLETED_FAILED"
    assert hours(platform, "FAILED") == [3]
    assert hours(platform, "MATERIALIZED") == [0, 1, 2, 4, 5]
    shutil.move(aside, landed(project, 3))


def what_failed_is_run_again_alone(page: "Page", platform: Platform) -> None:
    look_at(page, platform, "event_aggregates")
    launched = launch(page, platform, pressed("Failed"), count=1)
    assert launched.ended() == "SUCCESS"
    assert hours(platform, "FAILED") == []
    assert hours(platform, "MATERIALIZED") == [0, 1, 2, 3, 4, 5]


def a_cancelled_backfill_stops_half_way(page: "Page", platform: Platform) -> list[int]:
    """Hours that do not touch are a run each; what is cancelled waits for the warehouse."""
    before, asked = hours(platform, "MATERIALIZED"), range(6, HOURS, 2)
    chosen = typed(", ".join(map(key, asked)))
    look_at(page, platform, "event_aggregates")
    launched = launch(page, platform, chosen, count=len(asked))
    wait_for("its first run", lambda: set(hours(platform, "MATERIALIZED")) - set(before))
    with Warehouse(platform.warehouse).connect():  # from here on no run can commit anything
        assert cancelled(page, launched) == "CANCELED"
    page.reload()
    page.get_by_text("Canceled", exact=True).first.wait_for()
    done = hours(platform, "MATERIALIZED")
    assert set(before) < set(done) < {*before, *asked}
    assert hours(platform, "FAILED") == []
    return done


def cancelled(page: "Page", launched: Launched) -> str:
    """The status that a backfill ends with which is cancelled until it has ended.

    Dagster's daemon writes a backfill back as it has read it: a request to cancel that comes in
    between is lost, and the page says again that the backfill is in progress.
    """

    def look() -> str | None:
        if launched.status == "REQUESTED":
            cancel(page, launched)
        return launched.end

    return wait_for(f"the end of {launched}", look)


def cancel(page: "Page", launched: Launched) -> None:
    """Cancels on the backfill's page, unless the page is drawn anew under the click."""
    from playwright.sync_api import TimeoutError as TooSlow

    page.goto(f"{launched.platform.url}/runs/b/{launched.backfill}")
    with suppress(TooSlow):
        page.locator("button:has([aria-label=expand_more])").click(timeout=_ONE_TRY)
        page.get_by_role("menuitem", name="Cancel backfill").click(timeout=_ONE_TRY)
        sure = page.locator("[aria-modal=true]").get_by_role("button", name="Cancel backfill")
        with page.expect_response(_cancels, timeout=_ONE_TRY):
            sure.click(timeout=_ONE_TRY)


def the_rest_is_run_again(page: "Page", platform: Platform, missing: int) -> None:
    chosen = pressed("Failed and missing")
    look_at(page, platform, "event_aggregates")
    launched = launch(page, platform, chosen, count=missing)
    assert launched.ended() == "COMPLETED_SUCCESS"
    assert hours(platform, "MATERIALIZED") == list(range(HOURS))
    with Warehouse(platform.warehouse).connect(read_only=True) as connection:
        sums = connection.execute(
            "SELECT region, sum(orders)::INTEGER, count(*) FROM shop.event_aggregates "
            "GROUP BY region ORDER BY region"
        ).fetchall()
    assert sums == [(region, HOURS * ORDERS_PER_HOUR, HOURS) for region in REGIONS]


def one_region_is_trained_alone(page: "Page", platform: Platform) -> None:
    look_at(page, platform, "event_features")
    launched = launch(page, platform, pressed("All"), count=HOURS)
    assert launched.ended() == "COMPLETED_SUCCESS"
    look_at(page, platform, "regional_model?view=partitions")
    page.get_by_text("north", exact=True).first.click()
    launched = launch(page, platform, as_it_is, count=1)
    assert launched.ended() == "SUCCESS"
    answer = platform.ask(PARTITIONS, path=["shop", "regional_model"])["assetNodeOrError"]
    statuses = answer["assetPartitionStatuses"]
    assert statuses == {"materializedPartitions": ["north"], "failedPartitions": []}
    page.goto(f"{platform.url}/assets/shop/regional_model?view=partitions&partition=north")
    for name in ("calibration", "confusion_matrix", "importances"):
        page.get_by_text(name, exact=True).wait_for()
