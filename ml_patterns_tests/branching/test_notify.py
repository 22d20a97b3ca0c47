"""Notifications: at least once, under one key, and never in anybody's way."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from ml_patterns.branching.notify import deliver
from ml_patterns.branching.policy import Policy
from ml_patterns.registry.outbox import notifications
from ml_patterns_tests.branching.conftest import Shop


class Webhook:
    """A real webhook on loopback that answers by a script, 204 after its end."""

    def __init__(self, *script: int) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        outer, answers = self, iter(script)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                outer.calls.append((self.headers["Idempotency-Key"], body))
                self.send_response(next(answers, 204))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=secret"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def rejected(shop: Shop) -> Shop:
    """Two regions were rejected."""
    for region in ("eu", "us"):
        version = shop.registry.register(
            pipeline="shop", region=region, artifact=region, kind="own", training_key="k"
        )
        shop.registry.record_decision(
            version,
            verdict="reject",
            reason="accuracy 0.80 is below review_at 0.9",
            evidence={},
            policy=Policy(),
            test_fingerprint="rows",
            champion_generation=0,
        )
    return shop


@pytest.fixture
def hooks() -> Iterator[list[Webhook]]:
    opened: list[Webhook] = []
    yield opened
    for webhook in opened:
        webhook.close()


def test_a_rejection_reaches_the_webhook_once(rejected: Shop, hooks: list[Webhook]) -> None:
    hooks.append(webhook := Webhook())
    sent = deliver(rejected.registry.engine, webhook.url)
    assert (sent.delivered, sent.failed) == (2, 0)
    assert deliver(rejected.registry.engine, webhook.url).delivered == 0
    (key, body), _ = webhook.calls
    assert body["idempotency_key"] == key
    assert body["kind"] == "rejected"
    assert body["text"] == ("shop/eu version 1 rejected: accuracy 0.80 is below review_at 0.9")
    assert len({key for key, _ in webhook.calls}) == 2


def test_a_failing_webhook_gets_it_again_under_the_same_key(
    rejected: Shop, hooks: list[Webhook]
) -> None:
    hooks.append(webhook := Webhook(500))
    first = deliver(rejected.registry.engine, webhook.url)
    assert (first.delivered, first.failed, first.error) == (1, 1, "HTTP 500")
    assert deliver(rejected.registry.engine, webhook.url).delivered == 1
    keys = [key for key, _ in webhook.calls]
    assert (len(keys), keys[0]) == (3, keys[2])


def test_a_dead_webhook_raises_nothing_and_loses_nothing(
    rejected: Shop, hooks: list[Webhook]
) -> None:
    hooks.append(webhook := Webhook())
    dead = Webhook()
    dead.close()
    sent = deliver(rejected.registry.engine, dead.url)
    assert (sent.delivered, sent.failed) == (0, 2)
    pending = notifications(rejected.registry.engine, pending_only=True)
    # Nobody was there: the second was not tried. The address, which is a secret, is not kept.
    assert [(note.attempts, note.error) for note in pending] == [(1, "ConnectionError"), (0, None)]
    assert deliver(rejected.registry.engine, webhook.url).delivered == 2


def test_the_log_is_told_once_and_without_a_webhook_too(
    rejected: Shop, hooks: list[Webhook]
) -> None:
    hooks.append(webhook := Webhook(500, 500))
    lines: list[tuple[int, str]] = []

    def log(level: int, line: str) -> None:
        lines.append((level, line))

    for url in (webhook.url, None):
        deliver(rejected.registry.engine, url, log=log)
    assert [level for level, _ in lines] == [logging.WARNING] * 2
    assert notifications(rejected.registry.engine, pending_only=True) == []
