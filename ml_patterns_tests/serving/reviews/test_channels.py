"""Tickets and chats: every event arrives, in order, once where that can be, in nobody's way."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from ml_patterns.branching import commands
from ml_patterns.branching.channels.chat import ChatChannel
from ml_patterns.branching.channels.jira import JiraChannel, JiraSettings, label_of
from ml_patterns.branching.channels.passing import tell
from ml_patterns.branching.notify import deliver
from ml_patterns.errors import SettingsError
from ml_patterns.registry.deliveries import claim, stuck, untold
from ml_patterns.registry.outbox import notifications
from ml_patterns.registry.records import Notification
from ml_patterns.registry.registry import Registry
from ml_patterns.retry.caller import RetryingCaller
from ml_patterns.retry.waits import Backoff
from ml_patterns.storage.operational import engine_for
from ml_patterns_tests.serving.reviews.test_races import ask

HASTY = RetryingCaller(attempts=3, deadline=10, attempt_timeout=0.5, backoff=Backoff(0, 0, 0))


class Jira:
    """Jira on loopback, as far as tickets need it.

    Attributes:
        script: what happens to the next requests: `ok`, `fail` (503), `hang`, `deaf` (it does what
            is asked, but the answer is lost), `refuse` (401); `ok` after its end.
    """

    def __init__(self, *, cloud: bool = False) -> None:
        self.script: Iterator[str] = iter(())
        self.tickets: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET", None)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                self._answer("POST", json.loads(self.rfile.read(length)))

            def _answer(self, method: str, body: Any) -> None:
                outer.requests += 1
                fate = next(outer.script, "ok")
                if self.headers["Authorization"] != "Bearer secret":
                    fate = "refuse"
                if fate == "hang":
                    outer.released.wait(30)
                    return
                if fate in ("fail", "refuse"):
                    status, document = (503 if fate == "fail" else 401), {}
                else:
                    status, document = outer.act(method, self.path, body, cloud)
                if fate == "deaf":
                    self.close_connection = True
                    return
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.settings = JiraSettings.model_validate(
            {
                "url": f"http://127.0.0.1:{self.server.server_port}/",
                "project": "ML",
                "token": "secret",
            }
        )

    def act(self, method: str, url: str, body: Any, cloud: bool) -> tuple[int, Any]:
        """What Jira does."""
        split = urlsplit(url)
        match (method, *split.path.removeprefix("/rest/api/2/").split("/")):
            case ("GET", "search", *rest):
                if cloud != (rest == ["jql"]):
                    return (410 if cloud else 404), {}
                wanted = parse_qs(split.query)["jql"][0]
                found = [k for k, t in self.tickets.items() if t["labels"][0] in wanted]
                return 200, {"issues": [{"key": key} for key in found]}
            case ("POST", "issue"):
                key = f"ML-{len(self.tickets) + 1}"
                self.tickets[key] = {**body["fields"], "comments": [], "status": "new"}
                return 201, {"key": key}
            case ("GET", "issue", key, "comment"):
                return 200, {"comments": [{"body": c} for c in self.tickets[key]["comments"]]}
            case ("POST", "issue", key, "comment"):
                self.tickets[key]["comments"].append(body["body"])
                return 201, {}
            case ("GET", "issue", key, "transitions"):
                offered = [("11", "indeterminate"), ("31", "done")]
                return 200, {
                    "transitions": [
                        {"id": number, "to": {"statusCategory": {"key": category}}}
                        for number, category in offered
                    ]
                }
            case ("POST", "issue", key, "transitions"):
                assert body == {"transition": {"id": "31"}}
                self.tickets[key]["status"] = "done"
                return 204, {}
            case ("GET", "issue", key):
                status = self.tickets[key]["status"]
                return 200, {"fields": {"status": {"statusCategory": {"key": status}}}}
        raise AssertionError(url)

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def jira() -> Iterator[Jira]:
    jira = Jira()
    yield jira
    jira.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    engine = engine_for(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield Registry(engine)
    engine.dispose()


def story(registry: Registry) -> None:
    """Two reviews: one approved, one rejected."""
    for region in ("eu", "us"):
        ask(registry, region, region, "rows")
    first, second = registry.reviews("shop")
    commands.approve(registry, first.id, reviewer="ada", reason="looks right")
    commands.reject(registry, second.id, reviewer="grace", reason="looks wrong")


def complete(registry: Registry, jira: Jira) -> None:
    """One ticket per review, each with its one answer, and done."""
    assert {ticket["labels"][0] for ticket in jira.tickets.values()} == {
        label_of(review) for review in registry.reviews("shop", None)
    }
    assert len(jira.tickets) == 2
    for ticket in jira.tickets.values():
        assert (len(ticket["comments"]), ticket["status"]) == (1, "done")
    comments = " ".join(ticket["comments"][0] for ticket in jira.tickets.values())
    assert "looks right" in comments
    assert "looks wrong" in comments
    assert untold(registry.engine, "jira", notifications(registry.engine)[0].created_at) == []


@pytest.mark.parametrize("cloud", [False, True])
def test_a_review_is_one_ticket_that_is_commented_and_closed(
    registry: Registry, cloud: bool
) -> None:
    jira = Jira(cloud=cloud)
    try:
        story(registry)
        channel = JiraChannel(jira.settings, registry, HASTY)
        assert tell(registry.engine, channel).delivered == 4
        complete(registry, jira)
        asked = jira.requests
        assert tell(registry.engine, channel).delivered == 0
        assert jira.requests == asked
    finally:
        jira.close()


@pytest.mark.parametrize("fate", ["fail", "hang", "deaf"])
@pytest.mark.parametrize("at", range(0, 16, 3))
def test_whatever_jira_does_to_a_request_the_story_is_told_once(
    registry: Registry, jira: Jira, fate: str, at: int
) -> None:
    story(registry)
    jira.script = iter(["ok"] * at + [fate])
    channel = JiraChannel(jira.settings, registry, HASTY)
    assert tell(registry.engine, channel).failed == 0
    complete(registry, jira)


def test_a_process_that_dies_before_it_noted_the_answer_opens_no_second_ticket(
    registry: Registry, jira: Jira
) -> None:
    story(registry)
    channel = JiraChannel(jira.settings, registry, HASTY)
    for notification in notifications(registry.engine):
        channel.send(notification)
    assert tell(registry.engine, channel).delivered == 4
    complete(registry, jira)


def test_a_dead_jira_blocks_neither_the_gate_nor_the_others_and_catches_up(
    registry: Registry, jira: Jira
) -> None:
    channel = JiraChannel(jira.settings, registry, HASTY)
    jira.script = iter(["fail"] * 6)
    ask(registry, "eu", "eu", "rows")
    first = tell(registry.engine, channel)
    assert (first.delivered, first.failed) == (0, 1)
    ((name, notification, attempts, error),) = stuck(registry.engine)
    assert (name, notification.kind, attempts) == ("jira", "review_requested", 1)
    assert "503" in error
    assert "secret" not in error
    ask(registry, "us", "us", "rows")  # the gate goes on
    assert deliver(registry.engine, None).delivered == 2  # so does the log
    assert tell(registry.engine, channel).delivered == 0
    for review in registry.reviews("shop"):
        commands.approve(registry, review.id, reviewer="ada", reason="looks right")
    assert tell(registry.engine, channel).delivered == 4
    assert stuck(registry.engine) == []
    assert [ticket["status"] for ticket in jira.tickets.values()] == ["done", "done"]


def test_what_jira_refuses_for_good_holds_back_its_region_only(
    registry: Registry, jira: Jira
) -> None:
    story(registry)
    jira.script = iter(["refuse"])
    channel = JiraChannel(jira.settings, registry, HASTY)
    first = tell(registry.engine, channel)
    assert (first.delivered, first.failed) == (2, 2)
    assert tell(registry.engine, channel).delivered == 2
    complete(registry, jira)


def test_two_passes_never_tell_the_same_at_once(registry: Registry) -> None:
    ask(registry, "eu", "eu", "rows")
    (notification,) = notifications(registry.engine)
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        name = "slow"
        told: list[Notification] = []  # noqa: RUF012 - a test's notebook

        def send(self, notification: Notification) -> None:
            self.told.append(notification)
            inside.set()
            go_on.wait(30)

    channel = Slow()
    other = threading.Thread(target=tell, args=(registry.engine, channel))
    other.start()
    assert inside.wait(30)
    assert tell(registry.engine, channel).delivered == 0
    go_on.set()
    other.join()
    assert channel.told == [notification]


def test_a_claim_of_a_dead_process_ends(registry: Registry) -> None:
    from datetime import timedelta

    ask(registry, "eu", "eu", "rows")
    (notification,) = notifications(registry.engine)
    now, minute = registry.clock(), timedelta(minutes=1)
    assert claim(registry.engine, "jira", notification, now, minute)
    assert not claim(registry.engine, "jira", notification, now + minute / 2, minute)
    assert claim(registry.engine, "jira", notification, now + minute, minute)


def test_jira_is_configured_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "PROJECT", "TOKEN", "USER", "ISSUE_TYPE"):
        monkeypatch.delenv(f"ML_PATTERNS_JIRA_{name}", raising=False)
    assert JiraSettings.from_environment() is None
    monkeypatch.setenv("ML_PATTERNS_JIRA_URL", "https://jira.example.com")
    with pytest.raises(SettingsError, match="but ML_PATTERNS_JIRA_PROJECT is not"):
        JiraSettings.from_environment()


@pytest.fixture
def chat() -> Iterator[tuple[str, list[Any], Callable[..., None]]]:
    """A service that apprise speaks to: its URL, what it heard, and how to script it."""
    heard: list[Any] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                heard.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"json://127.0.0.1:{server.server_port}", heard, statuses.extend
        server.shutdown()
        thread.join()


# Loading all its services, apprise imports a module that Python took away in 3.13.
loads_apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@loads_apprise
def test_a_chat_hears_everything_in_order_though_it_fails(
    registry: Registry, chat: tuple[str, list[Any], Callable[..., None]]
) -> None:
    pytest.importorskip("apprise", reason="apprise is missing: pip install apprise")
    url, heard, script = chat
    story(registry)
    script([503, 200, 503, 503, 503, 503])
    channel = ChatChannel([url], HASTY)
    told = 0
    for _ in range(4):
        told += tell(registry.engine, channel).delivered
    assert told == 4
    written = notifications(registry.engine)
    for region in ("eu", "us"):
        texts = [m["message"] for m in heard if f"shop/{region}" in m["message"]]
        keys = [n.key for n in written if n.region == region]
        assert [key for text in texts for key in keys if key in text] == keys


@loads_apprise
def test_a_url_that_apprise_does_not_know_is_one_sentence_without_its_secret() -> None:
    pytest.importorskip("apprise", reason="apprise is missing: pip install apprise")
    with pytest.raises(SettingsError, match="does not understand URL 1") as refused:
        ChatChannel(["nonsense://token-1234"])
    assert "1234" not in str(refused.value)


def test_the_outbox_is_read_without_a_lock(registry: Registry) -> None:
    ask(registry, "eu", "eu", "rows")
    with registry.engine.begin() as writer:
        writer.execute(sa.text("UPDATE registry_outbox SET attempts = 0"))
        since = registry.clock().replace(year=2020)
        assert len(untold(registry.engine, "jira", since)) == 1
