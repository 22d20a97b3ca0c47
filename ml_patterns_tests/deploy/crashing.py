"""A code location whose runs end badly, and the sensor that tells of it."""

import os
import signal
from pathlib import Path

import dagster as dg

from ml_patterns.installation import Installation
from ml_patterns.maintenance.sensors import build_sensors
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.resources import storage_resources

SETTINGS = PipelineSettings.model_validate(
    {
        "name": "shop",
        "events": {"path": "none/*.csv", "id": "i", "time": "t", "version": "v", "region": "r",
                   "start": "2026-01-01"},
    }
)  # fmt: skip


@dg.asset(key=["shop", "killed_once"])
def killed_once() -> None:
    """Its first process dies as by the kernel's hand; the second one lives."""
    marker = Path(os.environ["DAGSTER_HOME"]) / "killed"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@dg.asset(key=["shop", "mistaken"])
def mistaken() -> None:
    """Fails, and would fail again."""
    raise ValueError("no retry helps")


defs = dg.Definitions(
    assets=[killed_once, mistaken],
    jobs=[
        dg.define_asset_job("shop_build_job", selection=[killed_once]),
        dg.define_asset_job("shop_training_job", selection=[mistaken]),
    ],
    sensors=build_sensors(SETTINGS),
    resources={"operational": storage_resources(Installation.from_environment())["operational"]},
    executor=dg.in_process_executor,
)
