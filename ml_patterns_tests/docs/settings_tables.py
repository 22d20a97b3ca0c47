"""The tables of settings on the pages, made from the settings themselves.

Belongs here: which page shows which block. Does not: meanings and defaults, which stand in the
rooms' `settings.py`. `python -m ml_patterns_tests.docs.settings_tables` writes the tables anew.
"""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ml_patterns.base import format_duration
from ml_patterns.branching.policy import Policy
from ml_patterns.branching.settings import NotificationsSettings
from ml_patterns.circuit_breaker.settings import PredictionsSettings
from ml_patterns.fan_out.settings import TrainingSettings
from ml_patterns.landing.settings import SourceSettings
from ml_patterns.retry.settings import ExternalSettings, PagesSettings, RetrySettings
from ml_patterns.serving.settings import ServerSettings
from ml_patterns_tests.docs.tree import PROJECT

BLOCKS: dict[str, dict[str, type[BaseModel]]] = {
    "fan-out": {"training.": TrainingSettings},
    "branching": {"gate.": Policy, "notifications.": NotificationsSettings},
    "retry": {
        "retry.": RetrySettings,
        "external.": ExternalSettings,
        "external.pages.": PagesSettings,
    },
    "circuit-breaker": {"predictions.": PredictionsSettings},
    "serving": {"": ServerSettings},
    "bring-your-own-events": {"source.": SourceSettings},
}
_HEAD = "| setting | default | |\n|---|---|---|\n"
_MIB = 2**20


def with_tables(page: str) -> str:
    """A page's text as its settings want it.

    Raises:
        ValueError: the page has another number of tables of settings.
    """
    tables = ["".join(_rows(prefix, block)) for prefix, block in BLOCKS[page].items()]
    text = (PROJECT / "docs" / f"{page}.md").read_text()
    head, *parts = re.split(rf"{re.escape(_HEAD)}(?:\|.*\n)*", text)
    if len(parts) != len(tables):
        raise ValueError(f"{page}.md has {len(parts)} tables of settings, not {len(tables)}")
    return head + "".join(
        f"{_HEAD}{table}{after}" for table, after in zip(tables, parts, strict=True)
    )


def _rows(prefix: str, settings: type[BaseModel]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from _rows(f"{prefix}{name}.", type(default))
        else:
            yield f"| `{prefix}{name}` | {_in_words(default)} | {field.description} |\n"


def _in_words(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, timedelta):
        return format_duration(default)
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        plain = all(isinstance(entry, str) for entry in default)
        return ", ".join(default) if plain else f"{len(default)} of them"
    if isinstance(default, int) and default >= _MIB and default % _MIB == 0:
        return f"{default // _MIB} MiB"
    if isinstance(default, int | float):
        return f"{default:,}" if default >= 10_000 else f"{default:g}"
    return f"`{default}`" if default else ""


if __name__ == "__main__":
    for name in BLOCKS:
        (PROJECT / "docs" / f"{name}.md").write_text(with_tables(name))
