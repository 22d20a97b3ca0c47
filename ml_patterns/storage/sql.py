"""Identifiers and literals in SQL.

Belongs here: the only ways by which a name from settings or data enters a statement. Does not:
statements; those stand beside their users. Values are always bound.
"""

import re

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def is_name(text: str) -> bool:
    """Whether a text can name a pipeline, schema or external table without quotes."""
    return _NAME.fullmatch(text) is not None


def quoted(identifier: str) -> str:
    """An identifier, quoted so that nothing in it can end it."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text literal, for the few places where DuckDB takes no bound value."""
    return "'" + text.replace("'", "''") + "'"
