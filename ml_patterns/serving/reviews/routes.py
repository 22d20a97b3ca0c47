"""The review pages over HTTP.

Belongs here: who may do what, in which order it is checked, and the status of each refusal. Does
not: what a page shows (`desk.py`, `templates/`), how an identity is proved (`identity.py`).

The pages have no script and load nothing: their headers forbid both, so that even a text that got
past the escaping could not act.
"""

import asyncio
import base64
import hashlib
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, FastAPI
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ml_patterns.errors import ConflictError, UserError
from ml_patterns.registry.registry import Registry
from ml_patterns.registry.reviewers import Reviewers
from ml_patterns.serving.reviews.desk import Desk
from ml_patterns.serving.reviews.identity import COOKIE, Identities, Identity
from ml_patterns.serving.reviews.limits import RateLimit
from ml_patterns.serving.settings import ServerSettings
from ml_patterns.storage.artifacts import ArtifactStore

REVIEWS = "/reviews"
_LARGEST_FORM = 32_768
_LONGEST_REASON = 2_000
_MINUTE = 60.0

Form = dict[str, str]


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not a failure
    """A request that is answered with a page that says why not."""

    def __init__(
        self,
        status: HTTPStatus,
        sentence: str,
        *,
        retry_after: int | None = None,
        identity: Identity | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_after = retry_after
        self.identity = identity


class Pages:
    """Templates, and the headers that every page has."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("ml_patterns.serving.reviews"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        loader = self._templates.loader
        assert loader is not None
        style = loader.get_source(self._templates, "style.css")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self._templates.globals["style"] = Markup(style)  # noqa: S704 - ours, from a file
        self._templates.filters.update(
            figure=_figure, percent=_percent, instant=_instant, span=_span, plain=_plain
        )
        self.headers = {
            "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    def show(self, name: str, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:
        """A page."""
        text = self._templates.get_template(name).render(**values)
        return HTMLResponse(text, status, self.headers)


def add_reviews(
    app: FastAPI, registry: Registry, artifacts: ArtifactStore, settings: ServerSettings
) -> None:
    """Adds the review pages to the model server."""
    desk, pages = Desk(registry, artifacts), Pages()
    identities = Identities(settings, Reviewers(registry.engine, registry.clock))
    attempts = RateLimit(settings.logins_per_minute, _MINUTE)
    answers = RateLimit(settings.answers_per_minute, _MINUTE)
    router = APIRouter(prefix=REVIEWS, include_in_schema=False)

    def identified(request: Request) -> Identity:
        address = request.client.host if request.client else "unknown"
        shown = "Authorization" in request.headers
        if shown and (wait := attempts.wait(address)):
            raise _too_many("wrong tokens", wait)
        identity = identities.of(request)
        if identity is None:
            if shown:
                attempts.take(address)
            raise Refused(HTTPStatus.UNAUTHORIZED, "Nobody may look or answer without a name.")
        return identity

    def from_own_page(request: Request, identity: Identity | None, form: Form) -> None:
        if identity is not None and not identity.is_ambient:
            return
        if not identities.is_own_origin(request):
            raise Refused(
                HTTPStatus.FORBIDDEN, "This request comes from another site.", identity=identity
            )
        if identity is not None and not identities.is_own_form(identity, form.get("form", "")):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "This form is too old, or was made for somebody else; open the review again.",
                identity=identity,
            )

    def render_case(
        identity: Identity,
        number: int,
        status: HTTPStatus = HTTPStatus.OK,
        problem: str = "",
        reason: str = "",
    ) -> Response:
        try:
            case = desk.case(number)
        except UserError as error:
            raise Refused(HTTPStatus.NOT_FOUND, str(error), identity=identity) from error
        return pages.show(
            "review.html",
            status,
            identity=identity,
            form_token=identities.form_token(identity),
            now=registry.clock(),
            case=case,
            problem=problem,
            reason=reason,
            longest=_LONGEST_REASON,
        )

    @router.get("")
    def queue(request: Request) -> Response:
        identity = identified(request)
        return pages.show(
            "queue.html",
            identity=identity,
            form_token=identities.form_token(identity),
            now=registry.clock(),
            waiting=desk.waiting(),
            answered=desk.answered(),
        )

    @router.get("/login")
    def ask_for_token(request: Request) -> Response:
        return pages.show("login.html", identity=identities.of(request), problem="")

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        form = await _read_form(request, settings)
        return await run_in_threadpool(logged_in, request, form)

    def logged_in(request: Request, form: Form) -> Response:
        from_own_page(request, None, form)
        address = request.client.host if request.client else "unknown"
        if wait := attempts.wait(address):
            raise _too_many("wrong tokens", wait)
        found = identities.log_in(form.get("token", ""))
        if found is None:
            attempts.take(address)
            raise Refused(HTTPStatus.UNAUTHORIZED, "This token is not, or no longer, valid.")
        response = RedirectResponse(REVIEWS, HTTPStatus.SEE_OTHER, pages.headers)
        response.set_cookie(
            COOKIE,
            found[1],
            max_age=int(settings.session_lifetime.total_seconds()),
            path=REVIEWS,
            secure=identities.is_secure(request),
            httponly=True,
            samesite="strict",
        )
        return response

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        form = await _read_form(request, settings)
        return await run_in_threadpool(logged_out, request, form)

    def logged_out(request: Request, form: Form) -> Response:
        from_own_page(request, identified(request), form)
        response = RedirectResponse(f"{REVIEWS}/login", HTTPStatus.SEE_OTHER, pages.headers)
        response.delete_cookie(COOKIE, path=REVIEWS)
        return response

    @router.get("/{number:int}")
    def review(request: Request, number: int) -> Response:
        return render_case(identified(request), number)

    @router.post("/{number:int}")
    async def answer(request: Request, number: int) -> Response:
        form = await _read_form(request, settings)
        return await run_in_threadpool(answered, request, number, form)

    def answered(request: Request, number: int, form: Form) -> Response:
        identity = identified(request)
        from_own_page(request, identity, form)
        if wait := answers.take(identity.reviewer):
            raise _too_many("answers", wait, identity)
        given, reason = form.get("answer"), form.get("reason", "").strip()
        if given not in ("approve", "reject"):
            problem = "Say approve or reject."
        elif not reason:
            problem = "A reason is mandatory: it stands in the audit log for those who come later."
        elif len(reason) > _LONGEST_REASON:
            problem = f"A reason has at most {_LONGEST_REASON} characters; this has {len(reason)}."
        else:
            try:
                desk.answer(
                    number,
                    approve=given == "approve",
                    reviewer=identity.reviewer,
                    reason=reason,
                )
            except ConflictError as error:
                problem = f"Your answer was not recorded: {error}."
                return render_case(identity, number, HTTPStatus.CONFLICT, problem, reason)
            except UserError as error:
                raise Refused(HTTPStatus.NOT_FOUND, str(error), identity=identity) from error
            return RedirectResponse(f"{REVIEWS}/{number}", HTTPStatus.SEE_OTHER, pages.headers)
        return render_case(
            identity, number, HTTPStatus.UNPROCESSABLE_ENTITY, problem, form.get("reason", "")
        )

    async def refuse(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        unknown = error.status is HTTPStatus.UNAUTHORIZED
        response = pages.show(
            "login.html" if unknown else "refused.html",
            error.status,
            identity=error.identity,
            form_token=identities.form_token(error.identity) if error.identity else "",
            problem=error.sentence,
        )
        if unknown:
            response.headers["WWW-Authenticate"] = 'Bearer realm="reviews"'
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        return response

    app.include_router(router)
    app.add_exception_handler(Refused, refuse)


def _too_many(what: str, wait: int, identity: Identity | None = None) -> Refused:
    return Refused(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"Too many {what}; try again in {wait} seconds.",
        retry_after=wait,
        identity=identity,
    )


async def _read_form(request: Request, settings: ServerSettings) -> Form:
    """A form's fields; each name counts once, the first time."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Only a form is read here.")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.receive_timeout.total_seconds()):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST_FORM:
                    raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "This form is too long.")
    except TimeoutError as error:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "The form did not arrive in time.") from error
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except (UnicodeDecodeError, ValueError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "This is no form.") from error
    return dict(reversed(fields))


def _figure(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.1f} %"


def _instant(value: datetime | None) -> str:
    return "—" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(value: timedelta) -> str:
    """A span of time in the one unit that fits, without its sign."""
    seconds = abs(value.total_seconds())
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def _plain(value: str) -> str:
    return value.replace("_", " ")
