"""The version of the operational database's schema.

Belongs here: reading it, and bringing a database up to date. Does not: the lock that lets one
process do so (`operational.py`), the tables as the code knows them (each room's `tables.py`), the
steps (`migrations/versions/`, which stay what they were when they were released).

A change of a `tables.py` needs a new revision: copy the newest one, give it the next number, name
the one before it in `down_revision`, set `HEAD`. A test holds all revisions together against the
tables.
"""

from pathlib import Path

import sqlalchemy as sa

from ml_patterns.errors import UserError

HEAD = "3"
"""The newest revision; known without loading Alembic, which takes longer than most commands."""
VERSION_TABLE = "ml_patterns_schema"
"""Not Alembic's default name: Dagster keeps its own version there, maybe in the same database."""

_MIGRATIONS = Path(__file__).parent / "migrations"


def version_of(connection: sa.Connection) -> str | None:
    """The revision that a database has; None: it has none yet."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return version


def upgrade(connection: sa.Connection) -> None:
    """Brings a database to `HEAD`, in the caller's transaction.

    A database that has tables but no version was made before there were versions; its tables are
    those of revision 1, which creates only what is missing.

    Raises:
        UserError: the database is newer than this code.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    found = version_of(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise UserError(
            f"the operational database has schema {found}, but this version of ml-patterns knows "
            f"only up to {HEAD}; install the newer version, or set ML_PATTERNS_STATE_URL to "
            "another database"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
