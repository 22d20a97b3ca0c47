"""The shop's definitions, for a Dagster process that ends between our commit and Dagster's event.

`CRASHING_SHOP` names the shop's folder; with `CRASHING_AT` the process kills itself with SIGKILL at
that boundary of a build.
"""

import os
import signal
from functools import partial
from pathlib import Path

import dagster as dg

from ml_patterns.incremental import assets
from ml_patterns.storage.resources import OperationalResource, WarehouseResource
from ml_patterns_tests.incremental.conftest import make_settings

folder = Path(os.environ["CRASHING_SHOP"])


def step(name: str) -> None:
    if name == os.environ.get("CRASHING_AT"):
        os.kill(os.getpid(), signal.SIGKILL)


assets.build.build = partial(assets.build.build, step=step)  # type: ignore[assignment]

defs = dg.Definitions(
    assets=assets.build_assets(make_settings(folder)),
    resources={
        "warehouse": WarehouseResource(database=str(folder / "warehouse.duckdb")),
        "operational": OperationalResource(url=f"sqlite:///{folder}/state.sqlite"),
    },
    executor=dg.in_process_executor,
)
