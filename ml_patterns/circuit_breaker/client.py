"""The model client: a batch in, one labelled prediction per row out, whatever happens.

Belongs here: the fallback chain, and putting a client together. Does not: asking the model server
(`live.py`), the breaker (`breaker.py`), Dagster (`resources.py`).
"""

import logging
import threading
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pybreaker
import sqlalchemy as sa

from ml_patterns.base import Clock, utc_now
from ml_patterns.circuit_breaker.answers import Answers
from ml_patterns.circuit_breaker.breaker import SharedBreaker
from ml_patterns.circuit_breaker.cache import PredictionCache, feature_hashes
from ml_patterns.circuit_breaker.deployed import Deployed, DeployedModels
from ml_patterns.circuit_breaker.dialect import Dialect
from ml_patterns.circuit_breaker.live import NOT_SERVED, Accounting, LiveModels, VersionGoneError
from ml_patterns.circuit_breaker.protocol import server_url
from ml_patterns.circuit_breaker.settings import PredictionsSettings
from ml_patterns.circuit_breaker.store import OperationalStore, breaker_name
from ml_patterns.circuit_breaker.window import FailureWindow
from ml_patterns.errors import ArtifactError
from ml_patterns.registry.registry import Registry
from ml_patterns.retry.budget import RetryBudget
from ml_patterns.retry.caller import RetryingCaller
from ml_patterns.retry.http import fetch, http_session
from ml_patterns.retry.settings import RetrySettings
from ml_patterns.retry.waits import Backoff
from ml_patterns.storage.artifacts import ArtifactStore

_LOG = logging.getLogger(__name__)
NO_CHAMPION = "no champion"
_EVEN_ODDS = 0.5


class ModelClient:
    """Predicts with the deployed models.

    Promise: `predict` answers every row of every frame and says where each answer came from;
    nothing that a server, a network or the operational database does makes it raise.

    Attributes:
        accounting: what this client did so far.
        breaker: the model server's, shared by the fleet.
        dialect: whether the server gets JSON or bytes.
    """

    def __init__(
        self,
        engine: sa.Engine,
        artifacts: ArtifactStore,
        model_url: str,
        settings: PredictionsSettings | None = None,
        retry: RetrySettings | None = None,
        *,
        clock: Clock = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Puts the layers together.

        Args:
            engine: the operational database; registry, breaker, budget and cache live there.
            artifacts: the champions' models and cards.
            model_url: base URL of the model server.
            settings: the pipeline's `predictions` block.
            retry: the pipeline's `retry` block, for the fleet's budget.
        """
        settings, retry = settings or PredictionsSettings(), retry or RetrySettings()
        self._fallbacks = settings.fallbacks
        self._deployed = DeployedModels(Registry(engine, clock), artifacts)
        self._cache = PredictionCache(
            engine, max_age=settings.cache_max_age, max_rows=settings.cache_max_rows, clock=clock
        )
        self.accounting = Accounting()
        self.breaker = SharedBreaker(
            breaker_name(model_url),
            OperationalStore(engine),
            fail_max=settings.breaker.fail_max,
            window=FailureWindow(
                settings.breaker.failure_rate,
                settings.breaker.minimum_calls,
                settings.breaker.window.total_seconds(),
                time.monotonic,
            ),
            reset_timeout=settings.breaker.reset_timeout.total_seconds(),
            # An attempt, its wait at the bulkhead included, is over after one time-out.
            lease=2 * settings.request_timeout.total_seconds(),
            cached_for=settings.breaker.admission_cache.total_seconds(),
            listeners=[_Transitions(self.accounting)],
            clock=clock,
        )
        floor = settings.min_wait.total_seconds()
        caller = RetryingCaller(
            attempts=settings.attempts,
            deadline=settings.deadline.total_seconds(),
            attempt_timeout=settings.request_timeout.total_seconds(),
            backoff=Backoff(2 * floor, floor, settings.max_wait.total_seconds()),
            budget=RetryBudget(
                engine, ratio=retry.budget_ratio, floor=retry.budget_floor, clock=clock
            ),
            clock=clock,
            sleep=sleep,
        )
        session, seconds = http_session(settings.bulkhead), settings.request_timeout.total_seconds()
        self.dialect = Dialect(
            lambda: fetch(session, "GET", server_url(model_url), timeout=seconds).body
        )
        self._live = LiveModels(
            model_url=model_url,
            session=session,
            caller=caller,
            breaker=self.breaker,
            batch_rows=settings.batch_rows,
            bulkhead=threading.BoundedSemaphore(settings.bulkhead),
            accounting=self.accounting,
            dialect=self.dialect,
        )

    def predict(
        self, pipeline: str, region: str, frame: pd.DataFrame, *, base_rate: float | None = None
    ) -> pd.DataFrame:
        """One prediction per row, in the frame's order and with its index.

        Args:
            frame: has the model's features as columns; others are ignored.
            base_rate: answers where no model can; even odds if it is not known either.

        Returns:
            `answers.COLUMNS`; a prediction is a probability, never missing.
        """
        answers = Answers.waiting_for(len(frame))
        deployed, matrix = self._model_for(pipeline, region, frame, answers)
        if deployed is not None and len(frame):
            deployed, matrix = self._ask_live(pipeline, region, frame, deployed, matrix, answers)
            model = f"{pipeline}.{region}"
            for fallback in self._fallbacks:
                if fallback == "cache":
                    self._from_cache(model, deployed, matrix, answers)
                elif fallback == "champion":
                    self._from_champion(deployed, matrix, answers)
            base_rate = deployed.artifact.card.base_rate
        # The last step cannot be switched off: a row without an answer is not among the promises.
        answers.give(
            answers.waiting,
            _EVEN_ODDS if base_rate is None else base_rate,
            "base_rate",
            version=deployed.version if deployed else None,
        )
        return answers.frame(frame.index)

    def _model_for(
        self, pipeline: str, region: str, frame: pd.DataFrame, answers: Answers
    ) -> tuple[Deployed | None, np.ndarray]:
        nothing = np.empty((len(frame), 0))
        try:
            deployed = self._deployed.find(pipeline, region)
            if deployed is not None:
                # A pooled model has the region as a feature; the caller gave it by name.
                return deployed, deployed.encode(frame.assign(region=region))
            reason = NO_CHAMPION
        except sa.exc.SQLAlchemyError as error:
            reason = f"unavailable: registry ({type(error).__name__})"
        except ArtifactError as error:
            reason = f"no artifact: {error}"
        except (KeyError, ValueError, TypeError) as error:
            reason = f"features do not fit the model: {error}"
        answers.reason[:] = reason
        if reason != NO_CHAMPION:
            _LOG.warning("%s.%s: %s", pipeline, region, reason)
        return None, nothing

    def _ask_live(
        self,
        pipeline: str,
        region: str,
        frame: pd.DataFrame,
        deployed: Deployed,
        matrix: np.ndarray,
        answers: Answers,
    ) -> tuple[Deployed, np.ndarray]:
        """Asks for all rows; if the version is gone, once more with the champion read again."""
        model = f"{pipeline}.{region}"
        for again in (True, False):
            try:
                self._live.ask(model, deployed.version, matrix, answers)
                break
            except VersionGoneError:
                answers.reason[answers.waiting] = f"{NOT_SERVED}: {model} {deployed.version}"
            if again:
                newer, newer_matrix = self._model_for(pipeline, region, frame, answers)
                if newer is None or newer.champion == deployed.champion:
                    answers.reason[answers.waiting] = f"{NOT_SERVED}: {model} {deployed.version}"
                    break
                deployed, matrix = newer, newer_matrix
        self._remember(model, deployed, matrix, answers)
        return deployed, matrix

    def _remember(
        self, model: str, deployed: Deployed, matrix: np.ndarray, answers: Answers
    ) -> None:
        live = np.flatnonzero(
            (answers.source == "live") & (answers.model_version == deployed.version)
        )
        if "cache" not in self._fallbacks or not len(live):
            return
        try:
            self._cache.put(
                model, deployed.version, feature_hashes(matrix[live]), answers.prediction[live]
            )
        except sa.exc.SQLAlchemyError as error:
            _LOG.warning("predictions of %s were not cached: %s", model, error)

    def _from_cache(
        self, model: str, deployed: Deployed, matrix: np.ndarray, answers: Answers
    ) -> None:
        waiting = answers.waiting
        if not len(waiting):
            return
        hashes = feature_hashes(matrix[waiting])
        try:
            found = self._cache.get(model, deployed.version, hashes)
        except sa.exc.SQLAlchemyError as error:
            _LOG.warning("the prediction cache cannot be read: %s", error)
            return
        hits = [found.get(key) for key in hashes]
        answers.give(
            waiting,
            np.array([np.nan if hit is None else hit.prediction for hit in hits]),
            "cache",
            version=deployed.version,
            age_s=np.array([0.0 if hit is None else hit.age_s for hit in hits]),
        )

    def _from_champion(self, deployed: Deployed, matrix: np.ndarray, answers: Answers) -> None:
        waiting = answers.waiting
        if not len(waiting):
            return
        try:
            scored = deployed.score(matrix[waiting])
        except Exception as error:
            # LightGBM raises its own error for a model it cannot read; the base rate follows.
            _LOG.warning("champion %s cannot be scored here: %s", deployed.version, error)
            return
        answers.give(waiting, scored, "champion", version=deployed.version)


class _Transitions(pybreaker.CircuitBreakerListener):
    """Writes the breaker's transitions into the accounting and the log."""

    def __init__(self, accounting: Accounting) -> None:
        self._accounting = accounting

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        old = old_state.name if old_state else "unknown"
        self._accounting.transitions.append(f"{old} -> {new_state.name}")
        _LOG.info("circuit %s: %s -> %s", cb.name, old, new_state.name)
