"""What the model server counts, in Prometheus' text format.

Belongs here: the metrics and their names. Does not: when they are counted (`middleware.py`,
`app.py`).
"""

import os
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ml_patterns.serving.admission import Admission
from ml_patterns.serving.cache import ModelCache
from ml_patterns.serving.models import Fleet

# Set in worker processes: prometheus_client keeps what they count in this folder's files.
_SHARED = "PROMETHEUS_MULTIPROC_DIR"
_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one application; several in one process do not meet, workers of one server do."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "ml_patterns_requests",
            "Requests answered, by route and status.",
            ["route", "status"],
            registry=self._registry,
        )
        self.latency = Histogram(
            "ml_patterns_request_seconds",
            "From the request's headers to its answer.",
            ["route"],
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self.rows = Counter(
            "ml_patterns_predicted_rows",
            "Rows predicted, by model.",
            ["model"],
            registry=self._registry,
        )
        self._loads = Counter(
            "ml_patterns_model_loads",
            "Artifacts loaded into memory, by result.",
            ["result"],
            registry=self._registry,
        )
        self._models = self._sum("models_in_memory", "Models in memory.")
        self._model_bytes = self._sum("model_bytes", "Length of the texts of the models in memory.")
        self._in_progress = self._sum(
            "requests_in_progress", "Inference requests without an answer."
        )
        self._registry_age = Gauge(
            "ml_patterns_registry_age_seconds",
            "Since the registry was read.",
            multiprocess_mode="livemax",
            registry=self._registry,
        )
        self._broken = Gauge(
            "ml_patterns_champion_broken",
            "1 while a champion's artifact cannot be loaded.",
            ["model", "version"],
            multiprocess_mode="livemax",
            registry=self._registry,
        )
        self._were_broken: set[tuple[str, str]] = set()
        self._watched: tuple[Fleet, ModelCache, Admission] | None = None

    def _sum(self, name: str, text: str) -> Gauge:
        return Gauge(
            f"ml_patterns_{name}", text, multiprocess_mode="livesum", registry=self._registry
        )

    def count_load(self, succeeded: bool) -> None:
        """One artifact was loaded, or could not be."""
        self._loads.labels("success" if succeeded else "failure").inc()

    def watch(self, fleet: Fleet, cache: ModelCache, admission: Admission) -> None:
        """Reports their state whenever the metrics are read."""
        self._watched = (fleet, cache, admission)
        self._registry.register(_ChampionCollector(fleet))

    def publish(self) -> None:
        """Writes down what this process holds now, for whichever worker is asked for metrics."""
        if self._watched is None:
            return
        fleet, cache, admission = self._watched
        self._models.set(cache.models)
        self._model_bytes.set(cache.bytes)
        self._in_progress.set(admission.requests)
        if fleet.staleness is not None:
            self._registry_age.set(fleet.staleness)
        broken = {(fault.name, str(fault.version)) for fault in fleet.faults}
        for labels in broken | self._were_broken:
            self._broken.labels(*labels).set(labels in broken)
        self._were_broken |= broken

    def render(self) -> bytes:
        """The text that Prometheus scrapes; of all workers where there are several.

        What other workers hold is as old as the last time they read the champions.
        """
        self.publish()
        if not os.environ.get(_SHARED):
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        if self._watched is not None:
            together.register(_ChampionCollector(self._watched[0]))
        return generate_latest(together)


class _ChampionCollector(Collector):
    """Champions as the answering worker knows them; each reads them at least once a second."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        generation = GaugeMetricFamily(
            "ml_patterns_champion_generation", "Generation of each champion.", labels=["model"]
        )
        version = GaugeMetricFamily(
            "ml_patterns_champion_version", "Version of each champion.", labels=["model"]
        )
        for name, champion in sorted(self._fleet.champions.items()):
            generation.add_metric([name], champion.generation)
            version.add_metric([name], champion.version)
        yield from (generation, version)
