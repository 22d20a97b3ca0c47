"""The fleet: which version answers for a model.

Belongs here: champions as the registry names them, versions by number, and what serves while a new
champion's artifact is broken. Does not: loading (`cache.py`), the wire (`protocol.py`).

A request takes one `ServedModel` and uses nothing else, so a champion change in its middle cannot
mix two models in one answer.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from ml_patterns.errors import ArtifactError
from ml_patterns.registry.registry import Champion, Registry
from ml_patterns.serving.cache import LoadedModel, ModelCache
from ml_patterns.serving.errors import not_found, unavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model and the version it answers as."""

    name: str
    version: int
    model: LoadedModel


@dataclass(frozen=True)
class Fault:
    """A champion that cannot serve.

    Attributes:
        generation: the champion generation whose artifact is broken.
        serving: the version that answers instead; None: nothing answers.
        reason: one sentence for the operator.
        retry_at: when it is tried again, on the fleet's monotonic clock.
    """

    name: str
    version: int
    generation: int
    serving: int | None
    reason: str
    retry_at: float


class Fleet:
    """All models of a registry, loaded when they are first asked for.

    Args:
        fault_pause: how long a broken artifact is left alone before it is tried again.
    """

    def __init__(
        self,
        registry: Registry,
        cache: ModelCache,
        *,
        fault_pause: timedelta = timedelta(seconds=5),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._fault_pause = fault_pause.total_seconds()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._wanted: dict[str, Champion] = {}
        self._serving: dict[str, Champion] = {}
        self._faults: dict[str, Fault] = {}
        self._addresses: dict[tuple[str, int], str] = {}
        self._refreshed_at: float | None = None

    def refresh(self) -> None:
        """Reads the champions; a changed one answers from its first successful load on.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the registry did not answer; what was known still
                serves.
        """
        champions = {f"{c.pipeline}.{c.region}": c for c in self._registry.champions()}
        with self._lock:
            for name, old in self._wanted.items():
                new = champions.get(name)
                if new is None:
                    self._serving.pop(name, None)
                    self._faults.pop(name, None)
                elif new.generation != old.generation:
                    # The old one is the fallback even where no request has loaded it yet, unless
                    # it was broken itself.
                    if name not in self._faults:
                        self._serving.setdefault(name, old)
                    self._faults.pop(name, None)
            self._wanted = champions
            self._refreshed_at = self._monotonic()

    def settle(self, budget: timedelta = timedelta(minutes=1)) -> None:
        """Loads the champions that changed, so that no request waits and a broken one is told.

        Args:
            budget: what is not loaded by then is left to the next call or the first request.
        """
        end = self._monotonic() + budget.total_seconds()
        with self._lock:
            pending = [
                name
                for name, champion in self._wanted.items()
                if name in self._faults
                or (name in self._serving and self._serving[name] != champion)
            ]
        for name in pending:
            if self._monotonic() >= end:
                break
            self._answering(name, self._wanted[name])

    def champion(self, name: str) -> ServedModel:
        """The model that answers for a name when no version is asked for.

        Raises:
            RequestError: 404 no such model; 503 its artifact is broken and nothing preceded it.
        """
        if self._refreshed_at is None:
            raise unavailable("the registry has not been read yet")
        wanted = self._wanted.get(name)
        if wanted is None:
            raise not_found(f"there is no model {name!r} with a champion")
        served = self._answering(name, wanted)
        if served is None:
            raise unavailable(
                f"version {wanted.version} of model {name!r} cannot be loaded, and no version "
                "served before it"
            )
        return served

    def version(self, name: str, number: str) -> ServedModel:
        """A registered version, champion or not.

        Args:
            number: the version as the protocol writes it, a text.

        Raises:
            RequestError: 404 no such model or version; 503 its artifact is broken, or the registry
                does not answer.
        """
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise not_found(f"model {name!r} has no version {number!r}: versions are numbers")
        key = (name, int(number))
        if key not in self._addresses:
            for known in self._versions(name):
                self._addresses[name, known[0]] = known[1]
        if key not in self._addresses:
            raise not_found(f"model {name!r} has no version {number}")
        try:
            return ServedModel(name, key[1], self._cache.get(self._addresses[key]))
        except ArtifactError as error:
            raise unavailable(f"version {number} of model {name!r} cannot be loaded") from error

    def versions(self, name: str) -> list[int]:
        """The registered versions of a model, in order.

        Raises:
            RequestError: 404 no such model; 503 the registry does not answer.
        """
        return sorted(number for number, _ in self._versions(name))

    @property
    def champions(self) -> dict[str, Champion]:
        """The champions last read, by model name."""
        return self._wanted

    @property
    def faults(self) -> list[Fault]:
        """Champions that cannot serve, by name."""
        with self._lock:
            return sorted(self._faults.values(), key=lambda fault: fault.name)

    @property
    def staleness(self) -> float | None:
        """Seconds since the registry was read; None: never."""
        return None if self._refreshed_at is None else self._monotonic() - self._refreshed_at

    def _versions(self, name: str) -> list[tuple[int, str]]:
        if not name.isprintable():
            # PostgreSQL refuses a NUL with an error, which must not pass for a registry that fails.
            raise not_found(f"there is no model {name!r}")
        pipeline, _, region = name.partition(".")
        try:
            found = [(v.number, v.artifact) for v in self._registry.versions(pipeline, region)]
        except sa.exc.SQLAlchemyError as error:
            raise unavailable("the registry does not answer") from error
        if not found:
            raise not_found(f"there is no model {name!r}")
        return found

    def _answering(self, name: str, wanted: Champion) -> ServedModel | None:
        """The champion, or what served before it while it is broken."""
        with self._lock:
            fault = self._faults.get(name)
        if (
            fault is None
            or fault.generation != wanted.generation
            or self._monotonic() >= fault.retry_at
        ):
            try:
                model = self._cache.get(wanted.artifact)
            except ArtifactError as error:
                self._note_fault(name, wanted, str(error))
            else:
                with self._lock:
                    if self._wanted.get(name) == wanted:
                        self._serving[name] = wanted
                        self._faults.pop(name, None)
                return ServedModel(name, wanted.version, model)
        with self._lock:
            previous = self._serving.get(name)
        if previous is None or previous == wanted:
            return None
        try:
            return ServedModel(name, previous.version, self._cache.get(previous.artifact))
        except ArtifactError:
            return None

    def _note_fault(self, name: str, wanted: Champion, reason: str) -> None:
        with self._lock:
            known = self._serving.get(name)
        previous = self._predecessor(wanted) if known is None or known == wanted else known
        with self._lock:
            if self._wanted.get(name) != wanted:
                return
            if previous is not None:
                self._serving[name] = previous
            _log.error(
                "version %d of %s cannot be loaded, %s serves: %s",
                wanted.version,
                name,
                "nothing" if previous is None else f"version {previous.version}",
                reason,
            )
            self._faults[name] = Fault(
                name=name,
                version=wanted.version,
                generation=wanted.generation,
                serving=None if previous is None else previous.version,
                reason=reason,
                retry_at=self._monotonic() + self._fault_pause,
            )

    def _predecessor(self, wanted: Champion) -> Champion | None:
        """The newest earlier champion that loads, for a server that has never seen one serve."""
        try:
            history = self._registry.generations(wanted.pipeline, wanted.region)
        except sa.exc.SQLAlchemyError:
            return None
        for past in reversed(history):
            if past.artifact == wanted.artifact:
                continue
            try:
                self._cache.get(past.artifact)
            except ArtifactError:
                continue
            return Champion(
                past.pipeline,
                past.region,
                past.version,
                past.artifact,
                past.generation,
                past.promoted_at,
            )
        return None
