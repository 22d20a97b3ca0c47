"""`python -m ml_patterns_tests.serving.reviews.screenshots FOLDER`: pictures of the review pages.

Belongs here: the story that the pictures show. Does not: tests.
"""

import sys
import tempfile
from pathlib import Path

from ml_patterns.branching import commands
from ml_patterns.branching.policy import Policy
from ml_patterns_tests.serving.conftest import running_server
from ml_patterns_tests.serving.reviews.site import Site, browser, chromium


def take(folder: Path) -> None:
    """Makes `reviews-queue.png`, `reviews-review.png` and `reviews-phone.png` in a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        site = Site(Path(temporary), Policy(review_at=0.85), noise=0.08)
        site.with_champion("us_west", rounds=6)
        site.ask("us_east", seed=3)
        token = site.reviewers.add("ada")
        review = site.ask("us_west", seed=1, rounds=40)
        site.ask("asia", seed=8, rounds=20)
        refused = site.ask("nordics", seed=4, rounds=9)
        commands.reject(
            site.house.registry, refused.id, reviewer="grace", reason="the pilot ended last week"
        )
        with running_server(site.house) as server, browser(chromium()) as chrome:
            for name, path, size in (
                ("queue", "/reviews", (1100, 700)),
                ("review", f"/reviews/{review.id}", (1100, 1400)),
                ("phone", f"/reviews/{review.id}", (390, 844)),
            ):
                page = chrome.new_page(
                    viewport={"width": size[0], "height": size[1]}, color_scheme="light"
                )
                page.goto(f"{server.url}/reviews/login")
                page.get_by_label("Your token").fill(token)
                page.get_by_role("button", name="Log in").click()
                page.goto(f"{server.url}{path}")
                page.screenshot(path=folder / f"reviews-{name}.png")
                page.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
