"""What of its SQL and of the settings decides what a layer returns.

Belongs here: leaving out comments and white space, naming the settings. Does not: comparing with
what was built (`plan.py`), running the SQL (`transform.py`).
"""

import hashlib
import re
from typing import Literal

from ml_patterns.settings import PipelineSettings

_TOKEN = re.compile(
    r"(?P<text>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)|--[^\n]*|(?P<comment>/\*)|\s+",
    re.DOTALL,
)
_COMMENT_MARK = re.compile(r"/\*|\*/")


def normalised(sql: str) -> str:
    """SQL without comments and superfluous white space: a changed comment restates nothing."""
    parts: list[str] = []
    position = 0
    while token := _TOKEN.search(sql, position):
        parts += [sql[position : token.start()], token["text"] or " "]
        position = _comment_end(sql, token.start()) if token["comment"] else token.end()
    parts = [part for part in (*parts, sql[position:]) if part]
    once = [part for n, part in enumerate(parts) if part != " " or parts[n - 1 : n] != [" "]]
    return "".join(once).strip().rstrip(";").strip()


def _comment_end(sql: str, start: int) -> int:
    """Comments nest in DuckDB as in PostgreSQL."""
    depth = 0
    for mark in _COMMENT_MARK.finditer(sql, start):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)


def code_of(settings: PipelineSettings, layer: Literal["aggregates", "features"]) -> str:
    """Hashes of a layer's SQL and of the settings that change its values: `<SQL>/<settings>`."""
    if layer == "aggregates":
        sql, values = settings.aggregates_sql, [settings.events.reading]
    else:
        sql = settings.features_sql
        values = [
            settings.events.reading,
            str(settings.aggregates.window),
            ",".join(sorted(settings.aggregates.label_columns)),
            str(settings.events.label_delay),
            ",".join(table.name for table in settings.external),
        ]
    return f"{_short(normalised(sql))}/{_short(*values)}"


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
