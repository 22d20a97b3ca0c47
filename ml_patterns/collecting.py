"""When a process looks for garbage, and among what: what was loaded once stays anyway.

Belongs here: a command's two moments, and a long step. Does not: how the process ends
(`__main__.py`).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_EVERYDAY = gc.get_threshold()
_WHILE_LOADING = 2_000_000
"""New objects before a collection: more than Dagster and a project make while they load."""


def load_first() -> None:
    """Puts collections off until `collect_from_now_on`, or until garbage could be much.

    What is imported lives as long as the process; Python would search it dozens of times.
    """
    gc.set_threshold(_WHILE_LOADING)


def collect_from_now_on() -> None:
    """Ends `load_first`: what is there stays and is not searched again, what comes is.

    To be called by what works long; a short command ends before it matters.
    """
    if gc.get_threshold()[0] == _WHILE_LOADING:
        gc.freeze()
        gc.set_threshold(*_EVERYDAY)


@contextmanager
def among_what_is_new() -> Iterator[None]:
    """Searches for garbage only among what is made inside; for a step that makes very much.

    With Dagster loaded a search through everything takes a tenth of a second, every few regions.
    """
    searched_all = gc.get_freeze_count() == 0
    gc.freeze()
    try:
        yield
    finally:
        if searched_all:
            gc.unfreeze()
