"""`make screenshots`: the pictures of README and docs, made anew from a demo.

Belongs here: the demo's pages and where to look on them. Does not: the review pages
(`serving/reviews/screenshots.py`), which are made along with them; tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ml_patterns.demo.stage import Stage
from ml_patterns_tests.serving.reviews import screenshots as reviews
from ml_patterns_tests.serving.reviews.site import browser, chromium
from ml_patterns_tests.ui.platform import PATIENCE, Platform, environment_of, running

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
CORNERS = ("event_files", "weather", "deployed_model", "prediction_quality")
GROUPS = ("incremental", "retry", "fan_out", "branching", "circuit_breaker")
PROJECT_PARTS = ("pyproject.toml", "workspace.yaml", "data/deliveries", "ml_patterns")


def take(folder: Path) -> None:
    """Tells the demo in a temporary copy of the project and photographs it."""
    with tempfile.TemporaryDirectory() as temporary:
        project = copy_of_the_project(Path(temporary) / "project")
        environment = {**environment_of(Path(temporary)), "PYTHONPATH": str(project)}
        subprocess.run(
            [sys.executable, "-m", "ml_patterns", "demo"], cwd=project, env=environment, check=True
        )
        environment |= Stage(project / "data" / "demo").services()
        environment["PYTHONPATH"] = os.pathsep.join([str(project), str(ROOT)])
        module = "ml_patterns.definitions"
        with running(Path(temporary), project, module, environment) as platform:
            photograph(platform, folder)
    reviews.take(folder)


def copy_of_the_project(target: Path) -> Path:
    """What the demo needs, so that the demo of this checkout is left alone."""
    for part in PROJECT_PARTS:
        source = ROOT / part
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / part)
    return target


def photograph(platform: Platform, folder: Path) -> None:
    """Every page of the UI that the docs show."""
    platform.ask("mutation { setNuxSeen }")
    with browser(chromium()) as chrome:
        page = chrome.new_page(viewport={"width": 1500, "height": 720}, color_scheme="light")
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(platform.url)
        page.get_by_text("Hide navigation").click()
        asset_graph(page, platform.url, folder / "asset-graph.png")
        page.set_viewport_size({"width": 1200, "height": 720})
        asset_page(page, platform.url, folder / "asset-page.png")
        plots(page, platform.url, folder / "plots.png")
        partitions(page, platform.url, folder / "partitions.png")
        model(page, platform.url, folder / "model.png")


def asset_graph(page: "Page", url: str, picture: Path) -> None:
    """All groups open, nothing beside the drawing."""
    expanded = "%2C".join(f"global%40global%3A{group}" for group in GROUPS)
    page.goto(f"{url}/asset-groups?expanded={expanded}")
    page.locator("button:has([aria-label=panel_show_right])").click()
    page.reload()  # the drawing is fitted to the window once, when it is loaded
    boxes = [page.get_by_text(name, exact=True).last for name in (*GROUPS, *CORNERS)]
    for box in boxes:
        box.wait_for()
    settle(page)
    found = [place for box in boxes if (place := box.bounding_box())]
    left, top = (min(place[side] for place in found) - 40 for side in ("x", "y"))
    right = max(place["x"] + place["width"] for place in found) + 50
    bottom = max(place["y"] + place["height"] for place in found) + 60
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    page.screenshot(path=picture, clip=clip)


def asset_page(page: "Page", url: str, picture: Path) -> None:
    """Description, columns, owners, code."""
    page.goto(f"{url}/assets/deliveries/event_features")
    page.get_by_text("backlog_per_promised_hour").wait_for()
    settle(page)
    page.screenshot(path=picture)


def plots(page: "Page", url: str, picture: Path) -> None:
    """Accuracy and its neighbours, region by region."""
    page.goto(f"{url}/assets/deliveries/regional_model")
    page.get_by_text("Plots", exact=True).click()
    page.get_by_text("test_accuracy", exact=True).first.scroll_into_view_if_needed()
    settle(page)
    page.screenshot(path=picture)


def partitions(page: "Page", url: str, picture: Path) -> None:
    """Which hours have predictions, and where an hour's answers came from."""
    page.goto(f"{url}/assets/deliveries/predictions?view=partitions&partition=2026-06-07-20:00")
    page.get_by_text("fallback_rate", exact=True).wait_for()
    settle(page)
    page.screenshot(path=picture)


def model(page: "Page", url: str, picture: Path) -> None:
    """A region's model, drawn."""
    page.goto(f"{url}/assets/deliveries/regional_model?view=partitions&partition=us_east")
    row = page.locator("tr").filter(has=page.get_by_text("calibration", exact=True))
    row.get_by_text("[Show Markdown]").click()
    page.get_by_role("dialog").locator("img").wait_for()
    settle(page)
    page.screenshot(path=picture)


def settle(page: "Page") -> None:
    """Lets the page's own animations end; a picture that came early is only less pretty."""
    page.wait_for_timeout(5000)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
