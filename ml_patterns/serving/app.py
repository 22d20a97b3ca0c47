"""The model server's routes.

Belongs here: HTTP in, HTTP out, and the limits of one request. Does not: the bodies
(`protocol.py`), the models (`models.py`), the review pages (`reviews/`), the process (`run.py`).
"""

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ml_patterns.registry.registry import Registry
from ml_patterns.serving import protocol
from ml_patterns.serving.admission import Admission, Ticket
from ml_patterns.serving.cache import ModelCache
from ml_patterns.serving.connections import Lingering
from ml_patterns.serving.errors import RequestError, too_large, unavailable
from ml_patterns.serving.metrics import Metrics
from ml_patterns.serving.middleware import NOTES, Doorkeeper
from ml_patterns.serving.models import Fleet, ServedModel
from ml_patterns.serving.openapi import INFERENCE, RESPONSES
from ml_patterns.serving.reviews.routes import REVIEWS, add_reviews
from ml_patterns.serving.rows import RowParts
from ml_patterns.serving.settings import ServerSettings
from ml_patterns.storage.artifacts import ArtifactStore

_log = logging.getLogger("ml_patterns.serving")
_LINGER_SECONDS = 2.0
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"


def create_app(registry: Registry, artifacts: ArtifactStore, settings: ServerSettings) -> FastAPI:
    """The model server as an ASGI application; its life starts and ends the background reading."""
    metrics = Metrics()
    cache = ModelCache(
        artifacts,
        max_models=settings.max_models,
        max_bytes=settings.max_model_bytes,
        on_load=metrics.count_load,
    )
    fleet = Fleet(registry, cache, fault_pause=settings.fault_pause)
    admission = Admission(
        max_requests=settings.max_concurrent_requests, max_bytes=settings.max_pending_bytes
    )
    metrics.watch(fleet, cache, admission)
    workers = ThreadPoolExecutor(settings.worker_threads, thread_name_prefix="predict")
    parts = RowParts(settings.worker_threads)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        await asyncio.to_thread(_read_registry, fleet, settings)
        reader = threading.Thread(
            target=_follow, args=(fleet, metrics, settings, stop), name="champions", daemon=True
        )
        reader.start()
        yield
        stop.set()
        reader.join()
        workers.shutdown(cancel_futures=True)
        parts.close()

    app = FastAPI(
        title="ml_patterns model server",
        description="Open Inference Protocol v2.",
        version=version("ml-patterns"),
        lifespan=life,
    )
    app.add_middleware(
        Doorkeeper,
        metrics=metrics,
        token=settings.token.get_secret_value() if settings.token else None,
        own_doors=(REVIEWS,),
    )
    # Added last, so outermost: it answers for the doorkeeper's refusals too.
    app.add_middleware(Lingering, patience=_LINGER_SECONDS, most_bytes=settings.max_body_bytes)
    app.add_exception_handler(RequestError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(ClientDisconnect, _hung_up)
    app.add_exception_handler(Exception, _fail)
    _add_health(app, fleet)
    _add_models(app, fleet)
    _add_inference(app, fleet, admission, (workers, parts), settings, metrics)
    add_reviews(app, registry, artifacts, settings)

    @app.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """Prometheus' text format."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _add_health(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/v2", responses=RESPONSES)
    def server_metadata() -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {
            "name": "ml_patterns",
            "version": app.version,
            "extensions": list(protocol.EXTENSIONS),
        }

    @app.get("/v2/health/live", responses=RESPONSES)
    async def live() -> dict[str, Any]:
        """The process answers."""
        return {"live": True}

    @app.get("/v2/health/ready", responses=RESPONSES)
    async def ready() -> JSONResponse:
        """The registry was read; broken champions, and what serves instead, are listed."""
        is_ready = fleet.staleness is not None
        faults = [
            {"model": fault.name, "version": str(fault.version),
             "serving": None if fault.serving is None else str(fault.serving)}
            for fault in fleet.faults
        ]  # fmt: skip
        return JSONResponse(
            {"ready": is_ready, "live": True, "broken": faults},
            HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE,
        )


def _add_models(app: FastAPI, fleet: Fleet) -> None:
    @app.get(_MODEL, responses=RESPONSES)
    def model_metadata(model: str) -> dict[str, Any]:
        """Inputs, outputs and versions of a model, as its champion sees them."""
        return protocol.model_metadata(fleet.champion(model), fleet.versions(model))

    @app.get(_VERSION, responses=RESPONSES)
    def version_metadata(model: str, version: str) -> dict[str, Any]:
        """Inputs and outputs of one version."""
        return protocol.model_metadata(fleet.version(model, version), fleet.versions(model))

    @app.get(f"{_MODEL}/ready", responses=RESPONSES)
    def model_ready(model: str) -> JSONResponse:
        """Whether the champion, or what serves instead of it, is loaded."""
        return _readiness(model, functools.partial(fleet.champion, model), fleet)

    @app.get(f"{_VERSION}/ready", responses=RESPONSES)
    def version_ready(model: str, version: str) -> JSONResponse:
        """Whether one version is loaded."""
        return _readiness(model, functools.partial(fleet.version, model, version), None)


def _readiness(name: str, find: Any, fleet: Fleet | None) -> JSONResponse:
    try:
        served: ServedModel = find()
    except RequestError as error:
        if error.status is not HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return JSONResponse({"name": name, "ready": False, "error": str(error)}, error.status)
    body: dict[str, Any] = {"name": name, "ready": True, "version": str(served.version)}
    for fault in fleet.faults if fleet else ():
        if fault.name == name:
            body["broken"] = str(fault.version)
    return JSONResponse(body)


def _add_inference(
    app: FastAPI,
    fleet: Fleet,
    admission: Admission,
    threads: tuple[ThreadPoolExecutor, RowParts],
    settings: ServerSettings,
    metrics: Metrics,
) -> None:
    workers, parts = threads

    def predict(
        model: str, number: str | None, body: bytes, json_length: str | None, notes: dict[str, Any]
    ) -> protocol.Answer:
        served = fleet.champion(model) if number is None else fleet.version(model, number)
        request = protocol.read_request(
            body, json_length, settings.max_rows, columns=len(served.model.card.features)
        )
        protocol.check_width(request.matrix, served)
        predictions = parts.predict(served.model, request.matrix)
        metrics.rows.labels(model).inc(len(predictions))
        notes.update(model=model, version=served.version, rows=len(predictions))
        return protocol.write_answer(
            served, request.id or notes["request_id"], predictions, binary=request.binary
        )

    async def answer(request: Request, model: str, number: str | None) -> Response:
        with admission.admit() as ticket:
            body = await _read_body(request, ticket, settings)
            json_length = request.headers.get(protocol.JSON_LENGTH_HEADER)
            work = workers.submit(predict, model, number, body, json_length, request.scope[NOTES])
        # The ticket is held until the work is done, not until the client is told: work that
        # outlives its time-out still takes memory and a thread.
        work.add_done_callback(lambda _done: ticket.close())
        result = await _in_time(work, settings)
        headers = {}
        media_type = "application/json"
        if result.json_length is not None:
            headers[protocol.JSON_LENGTH_HEADER] = str(result.json_length)
            media_type = "application/octet-stream"
        return Response(result.content, headers=headers, media_type=media_type)

    @app.post(f"{_MODEL}/infer", response_class=Response, openapi_extra=INFERENCE,
              responses=RESPONSES)  # fmt: skip
    async def infer(request: Request, model: str) -> Response:
        """Predictions of the champion."""
        return await answer(request, model, None)

    @app.post(f"{_VERSION}/infer", response_class=Response, openapi_extra=INFERENCE,
              responses=RESPONSES)  # fmt: skip
    async def infer_version(request: Request, model: str, version: str) -> Response:
        """Predictions of one version."""
        return await answer(request, model, version)


async def _read_body(request: Request, ticket: Ticket, settings: ServerSettings) -> bytes:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the content encoding {encoding!r} is not read here"
        )
    most = settings.max_body_bytes
    announced = request.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large(f"a body of {announced} bytes is more than the {most} that are read")
    chunks = []
    size = 0
    try:
        async with asyncio.timeout(settings.receive_timeout.total_seconds()):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise too_large(f"the body has more than the {most} bytes that are read")
                ticket.grow(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise RequestError(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time") from error
    return b"".join(chunks)


async def _in_time(work: Future[protocol.Answer], settings: ServerSettings) -> protocol.Answer:
    try:
        return await asyncio.wait_for(
            asyncio.wrap_future(work), settings.request_timeout.total_seconds()
        )
    except TimeoutError as error:
        raise unavailable("the request could not be answered in time") from error


def _read_registry(fleet: Fleet, settings: ServerSettings) -> None:
    try:
        fleet.refresh()
        fleet.settle(budget=settings.refresh_interval)
    except sa.exc.SQLAlchemyError as error:
        _log.warning("the registry does not answer; what is known still serves: %s", error)
    except Exception:
        # The one reader of champions must outlive whatever it meets, or the server would serve
        # old champions for ever without a word.
        _log.exception("reading the champions failed; what is known still serves")


def _follow(
    fleet: Fleet, metrics: Metrics, settings: ServerSettings, stop: threading.Event
) -> None:
    while not stop.wait(settings.refresh_interval.total_seconds()):
        _read_registry(fleet, settings)
        metrics.publish()


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _refuse_route(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _hung_up(_request: Request, _error: Exception) -> Response:
    # Nobody reads this; the status is what the access log shows.
    return JSONResponse({"error": "the client hung up"}, HTTPStatus.BAD_REQUEST)


async def _fail(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why"}, 500)
