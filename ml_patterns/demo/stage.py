"""The demo's stage: its folder, its settings and its model server.

Belongs here: what has to stand before the story begins, and the processes of it. Does not: the
story (`story.py`), counting (`report.py`).
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from ml_patterns.base import format_duration
from ml_patterns.errors import MLPatternsError
from ml_patterns.installation import Installation
from ml_patterns.retry.settings import INSIDE_COMMAND
from ml_patterns.sandbox import events
from ml_patterns.settings import PipelineSettings

PIPELINE = "deliveries"

OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "retry": {
        "min_wait": timedelta(milliseconds=200),
        "max_wait": timedelta(seconds=1),
        "attempt_timeout": timedelta(seconds=1),
    },
    "predictions": {
        "request_timeout": timedelta(seconds=2),
        "min_wait": timedelta(milliseconds=50),
        "max_wait": timedelta(milliseconds=200),
    },
    "breaker": {"reset_timeout": timedelta(seconds=2)},
}
"""Seconds instead of minutes; nothing else of the pipeline is changed."""


def in_a_hurry(settings: PipelineSettings) -> PipelineSettings:
    """The pipeline with the demo's waits and time-outs."""
    breaker = settings.predictions.breaker.model_copy(update=dict(OVERRIDES["breaker"]))
    predictions = {**OVERRIDES["predictions"], "breaker": breaker}
    return settings.model_copy(
        update={
            "retry": settings.retry.model_copy(update=dict(OVERRIDES["retry"])),
            "predictions": settings.predictions.model_copy(update=predictions),
        }
    )


def overrides_in_words() -> str:
    """The overrides as the demo prints them."""
    return ", ".join(
        f"{block}.{name} {format_duration(value)}"
        for block, values in OVERRIDES.items()
        for name, value in values.items()
    )


@dataclass(frozen=True)
class Stage:
    """The demo's folder below the project's `data/`."""

    folder: Path

    @classmethod
    def build(cls, project: Path) -> Self:
        """An empty stage; what an earlier demo left is removed."""
        stage = cls(project / "data" / "demo")
        shutil.rmtree(stage.folder, ignore_errors=True)
        stage.landing.mkdir(parents=True)
        return stage

    @property
    def landing(self) -> Path:
        """Where files land."""
        return self.folder / "events"

    def services(self) -> dict[str, str]:
        """Environment in which every part finds the demo's data."""
        return {
            "DAGSTER_HOME": str(self.folder / "dagster"),
            "ML_PATTERNS_EVENTS": str(self.landing),
            "ML_PATTERNS_WAREHOUSE": str(self.folder / "warehouse.duckdb"),
            "ML_PATTERNS_STATE_URL": f"sqlite:///{self.folder / 'state.sqlite'}",
            "ML_PATTERNS_ARTIFACTS": str(self.folder / "artifacts"),
        }

    def enter(self) -> None:
        """Makes this process run on the stage, and a shell that reads `env.sh`."""
        os.environ.update(self.services() | {INSIDE_COMMAND: "true"})
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self.services().items()]
        (self.folder / "env.sh").write_text("\n".join(exports) + "\n")

    def land(self, names: list[str], source: Path) -> None:
        """Lets files arrive, oldest first."""
        for name in names:
            shutil.copyfile(source / name, self.landing / name)

    def redeliver(self) -> Path:
        """Lets one file arrive again under its name, corrected."""
        return events.redeliver(self.landing)


class ModelServer:
    """`ml-patterns serve` as a process of its own."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Starts it, on the port that it had before, and waits until it listens.

        Raises:
            MLPatternsError: it ended instead; the log says why.
        """
        port = self.url.rsplit(":", 1)[-1] if self.url else "0"
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ml_patterns.serving", "--port", port],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.startswith("listening on "):
            raise MLPatternsError(f"the model server did not start; {self._log} says why")
        self.url = line.removeprefix("listening on ")

    def kill(self) -> int:
        """Ends it with SIGKILL, as a crash would; returns its process id."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return self._process.pid

    def stop(self) -> None:
        """Ends it as an operator would, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def installed(server: ModelServer) -> Installation:
    """The stores of the stage and the server of the demo."""
    os.environ["ML_PATTERNS_MODEL_URL"] = server.url
    return Installation.from_environment()
