"""What the model server counts, in Prometheus' text format.

Belongs here: the metrics and their names. Does not: when they are counted (`middleware.py`,
`app.py`).
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ml_patterns.serving.admission import Admission
from ml_patterns.serving.cache import ModelCache
from ml_patterns.serving.models import Fleet

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one application; several in one process do not meet."""

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

    def count_load(self, succeeded: bool) -> None:
        """One artifact was loaded, or could not be."""
        self._loads.labels("success" if succeeded else "failure").inc()

    def watch(self, fleet: Fleet, cache: ModelCache, admission: Admission) -> None:
        """Reports their state whenever the metrics are read."""
        self._registry.register(_StateCollector(fleet, cache, admission))

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)


class _StateCollector(Collector):
    def __init__(self, fleet: Fleet, cache: ModelCache, admission: Admission) -> None:
        self._fleet = fleet
        self._cache = cache
        self._admission = admission

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
        broken = GaugeMetricFamily(
            "ml_patterns_champion_broken",
            "1 where a champion's artifact cannot be loaded.",
            labels=["model", "version"],
        )
        for fault in self._fleet.faults:
            broken.add_metric([fault.name, str(fault.version)], 1)
        yield from (generation, version, broken)
        for name, text, value in (
            ("models_in_memory", "Models in memory.", self._cache.models),
            ("model_bytes", "Length of the texts of the models in memory.", self._cache.bytes),
            ("requests_in_progress", "Inference requests without an answer.",
             self._admission.requests),
            ("registry_age_seconds", "Since the registry was read.",
             float("nan") if self._fleet.staleness is None else self._fleet.staleness),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"ml_patterns_{name}", text, value=value)
