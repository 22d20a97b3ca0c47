"""The story: a week of parcels, an outage, and the way back.

Belongs here: the order of events and what is said about them. Does not: the parts, all of which
are those of production: Dagster runs, the command line, the model server as a process, HTTP.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console

from ml_patterns.catch_up import CatchUp
from ml_patterns.circuit_breaker.degraded import degraded_partitions
from ml_patterns.circuit_breaker.resources import client_resources
from ml_patterns.circuit_breaker.store import OperationalStore, breaker_name
from ml_patterns.collecting import collect_from_now_on
from ml_patterns.demo import report
from ml_patterns.demo.stage import (
    PIPELINE,
    ModelServer,
    Stage,
    in_a_hurry,
    installed,
    overrides_in_words,
)
from ml_patterns.errors import MLPatternsError
from ml_patterns.installation import Installation
from ml_patterns.pipeline import build_defs
from ml_patterns.project import Project, dagster_home
from ml_patterns.registry.registry import Registry
from ml_patterns.sandbox import events
from ml_patterns.sandbox.upstream import Upstream, serve_upstream
from ml_patterns.settings import PipelineSettings
from ml_patterns.storage.operational import engine_for
from ml_patterns.storage.resources import storage_resources
from ml_patterns.storage.warehouse import Warehouse

_FIRST_DAYS_END = date(2026, 6, 5)
_UPSTREAM_SCRIPT = (
    {"status": 503, "retry_after": 1},
    {"reset": True},
    {"truncate": True},
)
_HEALING_ROUNDS = 20
_BUILD = ("ingest", "aggregates", "external", "features")


class Demo:
    """One telling of the story."""

    def __init__(self, project: Path, console: Console, upstream: Upstream) -> None:
        self._project = project
        self._console = console
        self._upstream = upstream
        self._stage = Stage.build(project)
        self._stage.enter()
        self._server = ModelServer(self._stage.folder / "model_server.log")
        self._source = project / "data" / "deliveries" / "events"
        self._stage.land(events.files_until(_FIRST_DAYS_END), self._source)
        self._settings = self._load()
        self._definitions: dict[Installation, dg.Definitions] = {}

    def tell(self) -> dict[str, Any]:
        """Runs every act; returns the report.

        Raises:
            MLPatternsError: a step failed that must not fail.
        """
        started = time.perf_counter()
        dagster_home(self._project)
        with dg.DagsterInstance.get() as instance:
            self._first_five_days(instance)
            self._a_person_decides(instance)
            self._start_server()
            since = self._cost_records()
            self._last_two_days(instance, since)
            try:
                self._predict_live(instance)
                self._outage(instance)
                self._recovery(instance)
            finally:
                self._server.stop()
        return self._report(since, time.perf_counter() - started)

    def _first_five_days(self, instance: dg.DagsterInstance) -> None:
        self._say("1", "Five days of files land: ingest, features, one model per region, the gate")
        self._say("", f"waits for this demo: {overrides_in_words()}")
        before = self._upstream.requests
        self._run(instance, *_BUILD)
        self._say(
            "",
            f"the weather API failed {len(_UPSTREAM_SCRIPT)} times on a script; "
            f"{self._upstream.requests - before} requests for 5 days",
        )
        self._run(instance, "training", "deployment")
        for decision in self._runner(instance).decisions():
            self._say("", f"{decision.region}: {decision.reason}")
        for message in self._upstream.messages:
            self._say("", f"webhook received: {message.get('kind')} {message.get('region')}")

    def _a_person_decides(self, instance: dg.DagsterInstance) -> None:
        reviews = Registry(self._engine).reviews(PIPELINE)
        waiting = ", ".join(review.region for review in reviews)
        self._say("2", f"{len(reviews)} models wait for a human ({waiting}); one is approved")
        chosen = next(review for review in reviews if review.region == "eu")
        self._command(
            "review", "approve", str(chosen.id),
            "--reason", "the best model this region has had", "--by", "demo",
        )  # fmt: skip
        self._run(instance, "deployment", "leaderboard")
        champions = Registry(self._engine).champions(PIPELINE)
        self._say("", f"champions: {', '.join(champion.region for champion in champions)}")

    def _start_server(self) -> None:
        self._server.start()
        self._say("3", f"the model server runs as a process of its own: {self._server.url}")

    def _last_two_days(self, instance: dg.DagsterInstance, since: int) -> None:
        self._say("4", "The last two days land, late rows among them; one file comes again")
        landed = set(events.files_until(_FIRST_DAYS_END))
        self._stage.land([name for name in events.file_names() if name not in landed], self._source)
        corrected = self._stage.redeliver()
        self._say("", f"corrected under its name: {corrected.name}")
        self._run(instance, *_BUILD)
        with self._warehouse.connect() as connection:
            cost = report.increment(connection, self._settings, since)
        self._say(
            "",
            f"{cost.partitions_recomputed} of {cost.partitions_total} aggregate partitions "
            f"computed, {cost.rows_scanned:,} of {cost.rows_total:,} rows read",
        )

    def _predict_live(self, instance: dg.DagsterInstance) -> None:
        self._say("5", "Predictions are asked from the model server")
        self._predict(instance, "2026-06-06-00:00", "2026-06-06-23:00")

    def _outage(self, instance: dg.DagsterInstance) -> None:
        pid = self._server.kill()
        self._say("6", f"The model server is killed (SIGKILL, process {pid}); predictions go on")
        self._predict(instance, "2026-06-07-00:00", "2026-06-07-23:00")
        circuit = OperationalStore(self._engine).read(breaker_name(self._server.url))
        waiting = degraded_partitions(self._engine, PIPELINE)
        self._say("", f"circuit {circuit.state}; {len(waiting)} partitions were served degraded")

    def _recovery(self, instance: dg.DagsterInstance) -> None:
        self._server.start()
        self._say("7", "The model server returns; degraded partitions heal")
        for _ in range(_HEALING_ROUNDS):
            if not degraded_partitions(self._engine, PIPELINE):
                break
            self._await_probe()
            self._run(instance, "predictions")
        left = degraded_partitions(self._engine, PIPELINE)
        if left:
            raise MLPatternsError(f"{len(left)} partitions did not heal")
        circuit = OperationalStore(self._engine).read(breaker_name(self._server.url))
        self._say("", f"circuit {circuit.state}; every answer of the week is live or labelled")
        self._run(instance, "quality")

    def _await_probe(self) -> None:
        """Waits until the open circuit admits a probe; the time is recorded in its state."""
        circuit = OperationalStore(self._engine).read(breaker_name(self._server.url))
        if circuit.retry_at is not None:
            time.sleep(max(0.0, (circuit.retry_at - datetime.now(UTC)).total_seconds()))

    def _predict(self, instance: dg.DagsterInstance, first: str, last: str) -> None:
        outcome = self._runner(instance).predict(first, last)
        self._check([outcome.failures])
        with self._warehouse.connect() as connection:
            grain_rows = connection.execute(
                f"SELECT source, count(*) FROM {PIPELINE}.predictions "
                "WHERE strftime(partition_start, '%Y-%m-%d-%H:%M') BETWEEN ? AND ? "
                "GROUP BY ALL ORDER BY 1",
                [first, last],
            ).fetchall()
        answers = ", ".join(f"{count:,} {source}" for source, count in grain_rows)
        self._say("", f"answered: {answers}")

    def _run(self, instance: dg.DagsterInstance, *steps: str) -> None:
        self._check([outcome.failures for outcome in self._runner(instance).run(steps)])

    def _check(self, failures: Sequence[Sequence[str]]) -> None:
        found = [text for texts in failures for text in texts]
        if found:
            raise MLPatternsError("the demo cannot go on: " + "; ".join(found))

    def _runner(self, instance: dg.DagsterInstance) -> CatchUp:
        installation = self._installation
        if installation not in self._definitions:
            resources = {**storage_resources(installation), **client_resources(installation)}
            self._definitions[installation] = build_defs(self._settings, resources)
        definitions = self._definitions[installation]
        return CatchUp(definitions, self._settings, installation, instance)

    def _load(self) -> PipelineSettings:
        return in_a_hurry(Project.load(self._project).pipeline(PIPELINE))

    @property
    def _installation(self) -> Installation:
        return installed(self._server) if self._server.url else Installation.from_environment()

    @property
    def _engine(self) -> Any:
        return engine_for(self._installation.state_url)

    @property
    def _warehouse(self) -> Warehouse:
        return Warehouse(self._installation.warehouse)

    def _cost_records(self) -> int:
        with self._warehouse.connect() as connection:
            return report.cost_records(connection, self._settings)

    def _command(self, *arguments: str) -> None:
        """Runs `ml-patterns` as a person would."""
        self._say("", "$ ml-patterns " + " ".join(arguments))
        done = subprocess.run(
            [sys.executable, "-m", "ml_patterns", *arguments],
            cwd=self._project,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise MLPatternsError(done.stderr.strip())

    def _say(self, act: str, text: str) -> None:
        if act:
            self._console.rule(f"[bold]{act}  {text}[/bold]", align="left")
        else:
            self._console.print(f"   {text}", highlight=False, markup=False, soft_wrap=True)

    def _report(self, since: int, seconds: float) -> dict[str, Any]:
        with self._warehouse.connect() as connection:
            found: dict[str, Any] = {
                "events": report.events(connection, self._settings),
                "increment": vars(report.increment(connection, self._settings, since)),
                "models": report.models(self._engine, self._settings),
                "serving": report.serving(
                    connection, self._engine, self._settings, breaker_name(self._server.url)
                ),
                "seconds": round(seconds, 1),
            }
        path = self._stage.folder / "report.json"
        path.write_text(json.dumps(found, indent=2) + "\n")
        report.print_report(self._console, found)
        self._say("", f"report: {path.relative_to(self._project)}; look around: make dev, or")
        self._say("", f"source {self._stage.folder.relative_to(self._project)}/env.sh for a shell")
        return found


def run_demo(project: Path) -> None:
    """Tells the story in a project; the report is `data/demo/report.json`.

    Raises:
        MLPatternsError: the bundled events are not there, or a step failed.
    """
    if not (project / "data" / "deliveries" / "events").is_dir():
        raise MLPatternsError(
            f"{project} has no data/deliveries/events; run the demo in a clone of the repository"
        )
    collect_from_now_on()
    with serve_upstream(_UPSTREAM_SCRIPT) as upstream:
        os.environ["ML_PATTERNS_WEATHER_URL"] = upstream.url
        os.environ["ML_PATTERNS_WEBHOOK"] = f"{upstream.url}/webhook"
        Demo(project, Console(), upstream).tell()
