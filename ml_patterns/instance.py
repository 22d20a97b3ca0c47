"""The Dagster instance of DAGSTER_HOME, opened once for a process.

Belongs here: that one instance. Does not: what is told to it.
"""

import os
from functools import cache

import dagster as dg

from ml_patterns.dagster_internals import reuse_migrations


def instance_of_home() -> dg.DagsterInstance:
    """The instance; opening one takes longer than most of what a command asks of it.

    Raises:
        KeyError: DAGSTER_HOME is not set.
    """
    return _opened(os.environ["DAGSTER_HOME"])


@cache
def _opened(home: str) -> dg.DagsterInstance:
    reuse_migrations()
    return dg.DagsterInstance.get()
