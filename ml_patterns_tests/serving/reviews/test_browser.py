"""A reviewer's whole way in a real browser."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest

from ml_patterns_tests.serving.conftest import Server
from ml_patterns_tests.serving.reviews.site import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def page(chrome: "Browser") -> Iterator["Page"]:
    context = chrome.new_context()
    yield context.new_page()
    context.close()


def log_in(page: "Page", server: Server, token: str) -> None:
    page.goto(f"{server.url}/reviews")
    page.get_by_label("Your token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="for an answer").wait_for()


def test_from_the_queue_to_the_deployed_champion(site: Site, server: Server, page: "Page") -> None:
    site.with_champion()
    review = site.ask()
    log_in(page, server, site.reviewers.add("ada"))

    page.get_by_role("link", name="eu, version 2").click()
    text = page.inner_text("main")
    for heading in ("Why a human is asked", "Test results", "Slices", "Model card",
                    "What changed since the champion", "Audit trail"):  # fmt: skip
        assert heading in text
    assert site.house.registry.decision(review.decision_id).reason in text

    page.get_by_label("Why").fill("   ")
    page.get_by_role("button", name="Reject").click()
    assert "A reason is mandatory" in page.get_by_role("alert").inner_text()
    assert site.house.registry.review(review.id).state == "pending"

    page.get_by_label("Why").fill("better everywhere, and the rows are right")
    page.get_by_role("button", name="Approve").click()
    answer = page.locator("#answer")
    assert "approved by ada" in answer.inner_text()
    assert "better everywhere" in answer.inner_text()
    assert page.get_by_role("button", name="Approve").count() == 0

    assert site.deploy().promoted
    page.reload()
    assert "It serves now, as generation 2" in page.locator("#answer").inner_text()
    with httpx.Client(base_url=server.url, timeout=30) as client:
        deadline = time.monotonic() + 30
        served = {}
        while time.monotonic() < deadline and served.get("version") != "2":
            served = client.get("/v2/models/shop.eu/ready").json()
        assert served == {"name": "shop.eu", "ready": True, "version": "2"}


def test_an_empty_reason_does_not_even_leave_the_browser(
    site: Site, server: Server, page: "Page"
) -> None:
    review = site.ask()
    log_in(page, server, site.reviewers.add("ada"))
    page.goto(f"{server.url}/reviews/{review.id}")
    page.get_by_role("button", name="Reject").click()
    assert page.evaluate("document.querySelector('textarea').validity.valueMissing")
    assert site.house.registry.review(review.id).state == "pending"


def test_a_review_is_answered_with_the_keyboard_alone(
    site: Site, server: Server, page: "Page"
) -> None:
    review = site.ask()
    token = site.reviewers.add("ada")
    page.goto(f"{server.url}/reviews")
    page.keyboard.type(token)  # the field has the focus
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="for an answer").wait_for()

    def tab_to(text: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.id || document.activeElement.innerText")
            if focused == text:
                return
        raise AssertionError(f"{text} cannot be reached")

    tab_to("eu, version 1")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Your answer").wait_for()
    tab_to("reason")
    page.keyboard.type("no longer needed")
    tab_to("Reject")
    page.keyboard.press("Enter")
    page.locator("#answer").wait_for()
    assert site.house.registry.review(review.id).state == "rejected"


def test_a_phone_shows_everything_without_scrolling_sideways(
    site: Site, server: Server, chrome: "Browser"
) -> None:
    site.with_champion()
    review = site.ask()
    context = chrome.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    log_in(page, server, site.reviewers.add("ada"))
    for path in ("/reviews", f"/reviews/{review.id}"):
        page.goto(server.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_scripts_are_shown_as_text(site: Site, server: Server, page: "Page") -> None:
    """In the region, a reason, a condition and the card: whatever other systems wrote there."""
    heard: list[str] = []
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url) if "/x" in request.url else None)
    review = site.ask(SCRIPT, data_checks={SCRIPT: None}, reason=SCRIPT, metrics={SCRIPT: 0.5},
                      importances={SCRIPT: 1.0})  # fmt: skip
    log_in(page, server, site.reviewers.add(SCRIPT))
    assert SCRIPT in page.inner_text("main")
    page.goto(f"{server.url}/reviews/{review.id}")
    page.get_by_label("Why").fill(SCRIPT)
    page.get_by_role("button", name="Approve").click()
    page.locator("#answer").wait_for()
    assert page.inner_text("#answer").count(SCRIPT) == 2  # who, and why
    assert page.inner_text("main").count(SCRIPT) >= 6
    assert "owned" not in page.title().replace(SCRIPT, "")
    assert page.locator("main script, main img").count() == 0
    assert heard == []


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(
    site: Site, server: Server, page: "Page"
) -> None:
    site.ask()
    log_in(page, server, site.reviewers.add("ada"))
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/reviews")
    assert page.evaluate("document.cookie") == ""


@contextmanager
def another_site(html: str) -> Iterator[str]:
    """A page on another host name of this machine."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://localhost:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_site_cannot_answer(site: Site, server: Server, page: "Page", host: str) -> None:
    """`localhost` on another port is another origin, but the same site: cookies are sent there."""
    review = site.ask()
    ours = Server(server.process, f"http://{host}:{server.port}", server.log)
    log_in(page, ours, site.reviewers.add("ada"))
    form = (
        f'<form method="post" action="{ours.url}/reviews/{review.id}">'
        '<input name="reason" value="trust me"><input name="answer" value="approve">'
        "<button>Win a prize</button></form>"
    )
    with another_site(form) as url:
        page.goto(url)
        with page.expect_response(f"**/reviews/{review.id}") as answered:
            page.get_by_role("button", name="Win a prize").click()
    # From another site the cookie stays at home; from the same site the origin is not ours.
    assert answered.value.status == (401 if host == "127.0.0.1" else 403)
    assert site.house.registry.review(review.id).state == "pending"


def test_logging_out_ends_it(site: Site, server: Server, page: "Page") -> None:
    site.ask()
    log_in(page, server, site.reviewers.add("ada"))
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Your token").wait_for()
    response = page.goto(f"{server.url}/reviews")
    assert response is not None
    assert response.status == 401
