"""Reviewers: who may answer reviews, and the tokens they show.

Belongs here: giving out, checking and taking back tokens. Does not: cookies and headers
(`serving/reviews/identity.py`), what a reviewer decides (`reviews.py`).

A token is kept as its SHA-256 only. It holds 256 random bits, so a slow hash would protect nothing:
what cannot be guessed need not be slow to check.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.errors import UserError
from ml_patterns.registry.tables import reviewer_tokens as table
from ml_patterns.storage.operational import reading

LASTING = timedelta(days=90)
_LONGEST = 100


@dataclass(frozen=True)
class ReviewerToken:
    """A token that was given to a reviewer; the token itself is kept nowhere."""

    id: int
    reviewer: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    def state(self, now: datetime) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if now < self.expires_at else "expired"


_COLUMNS = [column for column in table.c if column.name != "token_hash"]


class Reviewers:
    """The reviewers of an installation and their tokens."""

    def __init__(self, engine: sa.Engine, clock: Clock = utc_now) -> None:
        self.engine = engine
        self.clock = clock

    def add(self, reviewer: str, lasting: timedelta = LASTING) -> str:
        """Gives a reviewer a new token; those given before stay valid.

        Returns:
            The token. It cannot be read again.

        Raises:
            UserError: the name is empty, too long or unprintable, or the token would never be
                valid.
        """
        reviewer = reviewer.strip()
        if not reviewer or len(reviewer) > _LONGEST or not reviewer.isprintable():
            raise UserError(
                f"a reviewer's name has 1 to {_LONGEST} printable characters; this one does not"
            )
        if lasting <= timedelta(0):
            raise UserError("a token must be valid for some time; write --for 90d, for example")
        token, now = f"mlpr_{secrets.token_urlsafe(32)}", self.clock()
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(table).values(
                    reviewer=reviewer,
                    token_hash=_hashed(token),
                    created_at=now,
                    expires_at=now + lasting,
                )
            )
        return token

    def tokens(self) -> list[ReviewerToken]:
        """Every token that was ever given out, oldest first."""
        with reading(self.engine) as connection:
            rows = connection.execute(sa.select(*_COLUMNS).order_by(table.c.id))
            return [ReviewerToken(**row) for row in rows.mappings()]

    def revoke(self, reviewer: str) -> int:
        """Takes a reviewer's tokens back, at once; returns how many were valid.

        Raises:
            UserError: there is no such reviewer.
        """
        now, of = self.clock(), table.c.reviewer == reviewer
        with self.engine.begin() as connection:
            if connection.scalar(sa.select(sa.func.count()).where(of)) == 0:
                raise UserError(
                    f"there is no reviewer {reviewer!r}; see `ml-patterns reviewer list`"
                )
            done = connection.execute(
                sa.update(table)
                .where(of, table.c.revoked_at.is_(None), table.c.expires_at > now)
                .values(revoked_at=now)
                .returning(table.c.id)
            )
            return len(done.all())

    def by_token(self, token: str) -> ReviewerToken | None:
        """Whose token it is; None: nobody's, or it is expired or revoked."""
        return self._valid(table.c.token_hash == _hashed(token))

    def by_id(self, number: int) -> ReviewerToken | None:
        """A token that is still valid, by its number."""
        return self._valid(table.c.id == number)

    def _valid(self, condition: sa.ColumnElement[bool]) -> ReviewerToken | None:
        with reading(self.engine) as connection:
            row = connection.execute(sa.select(*_COLUMNS).where(condition)).one_or_none()
        if row is None:
            return None
        found = ReviewerToken(**row._mapping)
        return found if found.state(self.clock()) == "valid" else None


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
