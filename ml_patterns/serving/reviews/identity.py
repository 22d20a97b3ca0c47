"""Who asks: a trusted proxy's header, a reviewer's token, or the cookie of a log-in.

Belongs here: identities, the cookie, and what proves that a form was filled in on our own page.
Does not: the tokens (`registry/reviewers.py`), the pages (`routes.py`).

Nothing is ever done for somebody without an identity. A browser sends cookies, and a proxy its
header, along with any request, whoever made the page that it comes from; such requests must
therefore carry our origin and a form token that only our page knows. A request with an
`Authorization` header is nobody's accident and needs neither.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from urllib.parse import urlsplit

from starlette.requests import Request

from ml_patterns.registry.reviewers import Reviewers, ReviewerToken
from ml_patterns.serving.settings import ServerSettings

COOKIE = "ml_patterns_reviewer"
_FORM_LASTS = timedelta(hours=12)
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Identity:
    """A reviewer, and how we know."""

    reviewer: str
    way: Literal["proxy", "token", "cookie"]
    session: str

    @property
    def is_ambient(self) -> bool:
        """Whether a browser proves it without the reviewer's doing."""
        return self.way != "token"


class Identities:
    """Tells reviewers from strangers.

    Args:
        settings: which proxies are trusted, and how long a log-in lasts.
        reviewers: their tokens.
    """

    def __init__(self, settings: ServerSettings, reviewers: Reviewers) -> None:
        self._settings = settings
        self._reviewers = reviewers
        secret = settings.session_secret
        # Without a secret from outside a log-in ends with the process, and is this process's alone.
        self._key = secret.get_secret_value().encode() if secret else secrets.token_bytes(32)

    def of(self, request: Request) -> Identity | None:
        """Who asks; None: nobody that we know."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            found = self._reviewers.by_token(given.strip()) if scheme.lower() == "bearer" else None
            # Who shows a wrong token is not let in by the cookie beside it.
            return None if found is None else Identity(found.reviewer, "token", str(found.id))
        return self._by_proxy(request) or self._by_cookie(request)

    def log_in(self, token: str) -> tuple[ReviewerToken, str] | None:
        """A reviewer and the value of the cookie that logs in; None: the token is not valid."""
        found = self._reviewers.by_token(token.strip())
        if found is None:
            return None
        lasts = min(self._reviewers.clock() + self._settings.session_lifetime, found.expires_at)
        return found, self._sealed("session", f"{found.id}.{int(lasts.timestamp())}")

    def form_token(self, identity: Identity) -> str:
        """What a form of ours carries, for this reviewer alone."""
        until = int((self._reviewers.clock() + _FORM_LASTS).timestamp())
        return self._sealed(_form_of(identity), str(until))

    def is_own_form(self, identity: Identity, token: str) -> bool:
        """Whether a form was made by `form_token` for this reviewer, and not too long ago."""
        until = self._opened(_form_of(identity), token)
        return until is not None and self._is_ahead(until)

    def is_own_origin(self, request: Request) -> bool:
        """Whether a browser says that a request comes from a page of ours."""
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return False
        origin = request.headers.get("Origin")
        if origin is None:
            return False
        if self._settings.public_origin is not None:
            return origin == self._settings.public_origin
        return urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()

    def is_secure(self, request: Request) -> bool:
        """Whether browsers reach us over TLS, so that the cookie may be kept to it."""
        public = self._settings.public_origin or request.url.scheme
        return public.startswith("https")

    def _by_proxy(self, request: Request) -> Identity | None:
        header = self._settings.reviewer_header
        if header is None or request.client is None:
            return None
        if request.client.host not in self._settings.trusted_proxies:
            return None
        names = request.headers.getlist(header)
        # Two names: one of them was not the proxy's.
        if len(names) != 1:
            return None
        name = names[0].strip()
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            return None
        return Identity(name, "proxy", "proxy")

    def _by_cookie(self, request: Request) -> Identity | None:
        value = self._opened("session", request.cookies.get(COOKIE, ""))
        number, _, until = (value or "").partition(".")
        if not number.isdigit() or not self._is_ahead(until):
            return None
        # Read again each time: a token that was taken back logs out at once.
        found = self._reviewers.by_id(int(number))
        return None if found is None else Identity(found.reviewer, "cookie", number)

    def _is_ahead(self, until: str) -> bool:
        return until.isdigit() and self._reviewers.clock().timestamp() < int(until)

    def _sealed(self, purpose: str, value: str) -> str:
        return f"{value}.{self._seal(purpose, value)}"

    def _opened(self, purpose: str, sealed: str) -> str | None:
        value, _, seal = sealed.rpartition(".")
        genuine = self._seal(purpose, value)
        return value if hmac.compare_digest(seal.encode(), genuine.encode()) else None

    def _seal(self, purpose: str, value: str) -> str:
        text = f"{len(purpose)}:{purpose}{value}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _form_of(identity: Identity) -> str:
    return f"form {identity.way} {identity.session} {identity.reviewer}"
