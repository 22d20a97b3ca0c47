"""Who may look, who may answer, and what each refusal says."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ml_patterns.base import utc_now
from ml_patterns.branching import commands
from ml_patterns.branching.policy import Policy
from ml_patterns.registry.reviewers import Reviewers
from ml_patterns_tests.serving.conftest import Server, running_server
from ml_patterns_tests.serving.reviews.site import Site

APPROVAL = {"answer": "approve", "reason": "looks right"}


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def log_in(client: httpx.Client, token: str) -> httpx.Response:
    """As the browser does it; the client keeps the cookie."""
    origin = str(client.base_url).rstrip("/")
    return client.post("/reviews/login", data={"token": token}, headers={"Origin": origin})


def form_token(page: httpx.Response) -> str:
    return page.text.partition('name="form" value="')[2].partition('"')[0]


def state(site: Site, number: int) -> str:
    return site.house.registry.review(number).state


def test_nobody_looks_or_answers_without_a_name(site: Site, client: httpx.Client) -> None:
    """Airflow once had a route that approved for whoever asked."""
    review = site.ask()
    for method, path in (
        ("GET", "/reviews"),
        ("GET", f"/reviews/{review.id}"),
        ("POST", f"/reviews/{review.id}"),
        ("POST", "/reviews/logout"),
    ):
        response = client.request(method, path, data=APPROVAL if method == "POST" else None)
        assert response.status_code == 401, path
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert "eu" not in response.text.replace("required", "")
    assert state(site, review.id) == "pending"


def test_a_token_in_the_header_answers(site: Site, client: httpx.Client) -> None:
    review = site.ask()
    response = client.post(
        f"/reviews/{review.id}", data=APPROVAL, headers=bearer(site.reviewers.add("ada"))
    )
    assert response.status_code == 303
    answered = site.house.registry.review(review.id)
    assert (answered.state, answered.reviewer, answered.reason) == (
        "approved", "ada", "looks right"
    )  # fmt: skip


@pytest.mark.parametrize("reason", ["", "  \n\t ", "x" * 2001])
def test_an_answer_without_a_fit_reason_is_refused(
    site: Site, client: httpx.Client, reason: str
) -> None:
    review = site.ask()
    headers = bearer(site.reviewers.add("ada"))
    for answer in ("approve", "reject"):
        data = {"answer": answer, "reason": reason}
        response = client.post(f"/reviews/{review.id}", data=data, headers=headers)
        assert response.status_code == 422
        assert "reason" in response.text.partition('role="alert"')[2].partition("</p>")[0]
    assert state(site, review.id) == "pending"


def test_neither_approve_nor_reject_is_refused(site: Site, client: httpx.Client) -> None:
    review = site.ask()
    headers = bearer(site.reviewers.add("ada"))
    for answer in ("", "Approve", "deploy"):
        data = {"answer": answer, "reason": "well"}
        assert client.post(f"/reviews/{review.id}", data=data, headers=headers).status_code == 422
    assert state(site, review.id) == "pending"


def test_tokens_that_are_expired_revoked_or_made_up_open_nothing(
    site: Site, client: httpx.Client
) -> None:
    review = site.ask()
    engine = site.house.registry.engine
    yesterday = Reviewers(engine, lambda: utc_now() - timedelta(days=1))
    expired = yesterday.add("ada", timedelta(hours=23))
    revoked = site.reviewers.add("grace")
    assert site.reviewers.revoke("grace") == 1
    for token in (expired, revoked, "mlpr_guess"):
        answer = client.post(f"/reviews/{review.id}", data=APPROVAL, headers=bearer(token))
        assert answer.status_code == 401
        assert log_in(client, token).status_code == 401
    assert state(site, review.id) == "pending"


def test_a_log_in_ends_when_its_token_is_taken_back(site: Site, client: httpx.Client) -> None:
    assert log_in(client, site.reviewers.add("ada")).status_code == 303
    assert client.get("/reviews").status_code == 200
    site.reviewers.revoke("ada")
    assert client.get("/reviews").status_code == 401


def test_an_altered_or_foreign_cookie_opens_nothing(site: Site, client: httpx.Client) -> None:
    ada, grace = site.reviewers.add("ada"), site.reviewers.add("grace")
    log_in(client, ada)
    cookie = client.cookies["ml_patterns_reviewer"]
    number, until, seal = cookie.split(".")
    log_in(client, grace)
    other = client.cookies["ml_patterns_reviewer"].split(".")[0]
    client.cookies.clear()
    for forged in (
        f"{other}.{until}.{seal}",
        f"{number}.{int(until) + 9}.{seal}",
        f"{number}.{until}.{'0' * 64}",
        f"{number}.{until}",
        "",
    ):
        response = client.get("/reviews", headers={"Cookie": f"ml_patterns_reviewer={forged}"})
        assert response.status_code == 401, forged
    with running_server(site.house) as elsewhere:
        headers = {"Cookie": f"ml_patterns_reviewer={cookie}"}
        assert httpx.get(f"{elsewhere.url}/reviews", headers=headers).status_code == 401


def test_a_cookie_alone_answers_nothing(site: Site, client: httpx.Client) -> None:
    """A browser sends it with every form, whoever made the form."""
    review = site.ask()
    log_in(client, site.reviewers.add("ada"))
    path, origin = f"/reviews/{review.id}", str(client.base_url).rstrip("/")
    form = form_token(client.get(path))
    assert form
    for headers, token in (
        ({}, form),
        ({"Origin": "http://evil.example"}, form),
        ({"Origin": "null"}, form),
        ({"Origin": origin, "Sec-Fetch-Site": "cross-site"}, form),
        ({"Origin": origin, "Sec-Fetch-Site": "same-site"}, form),
        ({"Origin": origin}, ""),
        ({"Origin": origin}, form[:-1] + ("0" if form[-1] != "0" else "1")),
    ):
        response = client.post(path, data={**APPROVAL, "form": token}, headers=headers)
        assert response.status_code == 403, (headers, token)
    assert state(site, review.id) == "pending"
    response = client.post(path, data={**APPROVAL, "form": form}, headers={"Origin": origin})
    assert response.status_code == 303


def test_another_reviewers_form_is_refused(site: Site, client: httpx.Client) -> None:
    review = site.ask()
    path, origin = f"/reviews/{review.id}", str(client.base_url).rstrip("/")
    log_in(client, site.reviewers.add("ada"))
    form = form_token(client.get(path))
    log_in(client, site.reviewers.add("grace"))
    response = client.post(path, data={**APPROVAL, "form": form}, headers={"Origin": origin})
    assert response.status_code == 403
    assert "somebody else" in response.text


def test_a_wrong_token_in_the_header_is_not_helped_by_a_cookie(
    site: Site, client: httpx.Client
) -> None:
    log_in(client, site.reviewers.add("ada"))
    assert client.get("/reviews", headers=bearer("wrong")).status_code == 401


def test_the_servers_own_token_is_nobodys_name(site: Site) -> None:
    with running_server(site.house, token="machine") as server:
        url = f"{server.url}/reviews"
        assert httpx.get(url, headers=bearer("machine")).status_code == 401
        assert httpx.get(url, headers=bearer(site.reviewers.add("ada"))).status_code == 200
        assert httpx.get(f"{server.url}/reviewsx").status_code == 401
        assert httpx.get(f"{server.url}/v2").status_code == 401


def test_guessing_tokens_is_slowed_down(site: Site) -> None:
    token = site.reviewers.add("ada")
    with running_server(site.house, logins_per_minute=3) as server:
        url = f"{server.url}/reviews"
        statuses = [httpx.get(url, headers=bearer("guess")).status_code for _ in range(4)]
        assert statuses == [401, 401, 401, 429]
        blocked = httpx.get(url, headers=bearer(token))
        assert blocked.status_code == 429
        assert 0 < int(blocked.headers["Retry-After"]) <= 60
        with httpx.Client(base_url=server.url) as client:
            assert log_in(client, token).status_code == 429


def test_answers_are_rate_limited_per_reviewer(site: Site) -> None:
    review = site.ask()
    ada, grace = site.reviewers.add("ada"), site.reviewers.add("grace")
    with running_server(site.house, answers_per_minute=2) as server:
        url, data = f"{server.url}/reviews/{review.id}", {"answer": "", "reason": "hm"}
        statuses = [httpx.post(url, data=data, headers=bearer(ada)).status_code for _ in range(3)]
        assert statuses == [422, 422, 429]
        assert httpx.post(url, data=APPROVAL, headers=bearer(grace)).status_code == 303


# A trusted proxy


def proxied(site: Site, **settings: Any) -> Any:
    return running_server(site.house, reviewer_header="X-Remote-User", **settings)


def test_a_trusted_proxy_names_the_reviewer(site: Site) -> None:
    review = site.ask()
    origin = "https://models.example.com"
    with proxied(site, public_origin=origin) as server:
        url, headers = f"{server.url}/reviews/{review.id}", {"X-Remote-User": "ada@example.com"}
        form = form_token(httpx.get(url, headers=headers))
        data = {**APPROVAL, "form": form}
        assert httpx.post(url, data=data, headers=headers).status_code == 403
        own = {**headers, "Origin": server.url}
        assert httpx.post(url, data=data, headers=own).status_code == 403
        public = {**headers, "Origin": origin}
        assert httpx.post(url, data=data, headers=public).status_code == 303
    assert site.house.registry.review(review.id).reviewer == "ada@example.com"


def test_the_header_is_believed_from_nobody_else(site: Site, client: httpx.Client) -> None:
    named = {"X-Remote-User": "ada"}
    assert client.get("/reviews", headers=named).status_code == 401  # no proxy is configured
    with proxied(site, trusted_proxies=["192.0.2.7"]) as server:
        url = f"{server.url}/reviews"
        assert httpx.get(url, headers=named).status_code == 401
        claimed = {**named, "X-Forwarded-For": "192.0.2.7"}
        assert httpx.get(url, headers=claimed).status_code == 401
    with proxied(site) as server:
        url = f"{server.url}/reviews"
        assert httpx.get(url, headers=named).status_code == 200
        for names in (
            [("X-Remote-User", "ada"), ("X-Remote-User", "eve")],
            [],
            [("X-Remote-User", "")],
        ):
            assert httpx.get(url, headers=names).status_code == 401


# What the pages say


def test_who_comes_second_is_told_who_was_first_and_why(site: Site, client: httpx.Client) -> None:
    review = site.ask()
    commands.reject(site.house.registry, review.id, reviewer="grace", reason="bad data in May")
    response = client.post(
        f"/reviews/{review.id}", data=APPROVAL, headers=bearer(site.reviewers.add("ada"))
    )
    assert response.status_code == 409
    assert "already rejected by grace: bad data in May" in response.text
    assert state(site, review.id) == "rejected"


def test_a_policy_that_changed_voids_the_answer(site: Site, client: httpx.Client) -> None:
    review = site.ask("eu")
    site.policy = Policy(deploy_at=0.9995, review_at=0.5)
    site.ask("us", seed=3)
    response = client.post(
        f"/reviews/{review.id}", data=APPROVAL, headers=bearer(site.reviewers.add("ada"))
    )
    assert response.status_code == 409
    assert "the policy of the gate changed" in response.text
    assert state(site, review.id) == "voided"


def test_a_lost_model_is_no_lost_page(site: Site, client: httpx.Client) -> None:
    review = site.ask()
    version = site.house.registry.version("shop", "eu", 1)
    site.house._model_file(version).unlink()
    page = client.get(f"/reviews/{review.id}", headers=bearer(site.reviewers.add("ada")))
    assert page.status_code == 200
    assert "The model card cannot be read: artifact" in page.text


def test_a_model_that_could_not_be_asked_has_a_page(site: Site, client: httpx.Client) -> None:
    review = site.ask(features=())
    page = client.get(f"/reviews/{review.id}", headers=bearer(site.reviewers.add("ada")))
    assert page.status_code == 200
    assert "cannot be asked" in page.text


def test_what_is_not_there_is_said_so(site: Site, client: httpx.Client) -> None:
    headers = bearer(site.reviewers.add("ada"))
    for method, path, status in (
        ("GET", "/reviews/99", 404),
        ("POST", "/reviews/99", 404),
        ("GET", "/reviews/x", 404),
        ("DELETE", "/reviews/1", 405),
    ):
        data = APPROVAL if method == "POST" else None
        assert client.request(method, path, data=data, headers=headers).status_code == status
    big = {"answer": "approve", "reason": "x" * 40_000}
    assert client.post("/reviews/1", data=big, headers=headers).status_code == 413
    assert client.post("/reviews/1", json=APPROVAL, headers=headers).status_code == 415


def test_no_page_may_run_or_load_anything(site: Site, client: httpx.Client) -> None:
    review = site.ask()
    headers = bearer(site.reviewers.add("ada"))
    for path in ("/reviews", f"/reviews/{review.id}", "/reviews/login", "/reviews/99"):
        page = client.get(path, headers=headers)
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert "<script" not in page.text
        assert " style=" not in page.text


def test_the_queue_shows_what_each_waits_for(site: Site, client: httpx.Client) -> None:
    site.with_champion("asia")
    for region in ("eu", "us"):
        site.ask(region, seed=len(region))
    page = client.get("/reviews", headers=bearer(site.reviewers.add("ada"))).text
    assert "2 reviews wait" in page
    for review in site.house.registry.reviews("shop"):
        assert site.house.registry.decision(review.decision_id).reason in page
    assert "better than nothing" in page.partition("Closed lately")[2]
