"""The model server as a process.

Belongs here: starting, announcing and ending it. Does not: what it answers (`app.py`).
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from ml_patterns.collecting import collect_from_now_on
from ml_patterns.errors import SettingsError
from ml_patterns.installation import Installation
from ml_patterns.registry.registry import Registry
from ml_patterns.serving.app import create_app
from ml_patterns.serving.connections import impatient
from ml_patterns.serving.settings import ServerSettings
from ml_patterns.serving.workers import Workers
from ml_patterns.storage.artifacts import ArtifactStore
from ml_patterns.storage.operational import engine_for

_BACKLOG = 4096


def serve(settings: ServerSettings, installation: Installation) -> None:
    """Runs the model server until SIGTERM or SIGINT; what runs then is finished first.

    Prints one line, `listening on http://HOST:PORT`, when requests are accepted; port 0 takes a
    free port. Logs go to standard error.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    _log_to_stderr()
    listener = _listen(settings)
    # Before any worker: the tables are made once, and a database that is not there is one sentence.
    registry = Registry(engine_for(installation.state_url))
    address = listener.getsockname()

    def announce() -> None:
        host, port = address[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    if settings.workers == 1:
        _serve(settings, installation, registry, listener, announce)
        return
    registry.engine.dispose()
    workers = Workers(
        settings.workers, _serve_as_worker, (settings.of_one_worker(), installation), listener
    )
    workers.run(announce, settings.shutdown_timeout)


def _serve_as_worker(
    settings: ServerSettings,
    installation: Installation,
    listener: socket.socket,
    announce: Callable[[], None],
) -> None:
    _log_to_stderr()
    registry = Registry(engine_for(installation.state_url))
    _serve(settings, installation, registry, listener, announce)


def _serve(
    settings: ServerSettings,
    installation: Installation,
    registry: Registry,
    listener: socket.socket,
    announce: Callable[[], None],
) -> None:
    app = create_app(registry, ArtifactStore(installation.artifacts), settings)
    collect_from_now_on()
    server = _AnnouncedServer(
        uvicorn.Config(
            app,
            http=impatient(settings.receive_timeout.total_seconds()),
            ws="none",
            backlog=_BACKLOG,
            log_config=None,
            access_log=False,
            server_header=False,
            # Who a trusted proxy is, is told by the connection, not by a header.
            proxy_headers=False,
            timeout_keep_alive=int(settings.keep_alive.total_seconds()),
            timeout_graceful_shutdown=int(settings.shutdown_timeout.total_seconds()),
        ),
        announce,
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn raises the signal again when it is done; with handlers of ours below its own the
    # process then ends with exit code 0, and a signal before uvicorn listens is not lost.
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(settings: ServerSettings) -> socket.socket:
    """A bound socket; before anything else starts, so that a taken port is one sentence."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on port {settings.port} of {settings.host}: {error.strerror}; "
            "choose another port, or end the process that has it"
        ) from error


class _AnnouncedServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._announce()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger("ml_patterns.serving.access")
    access.handlers, access.propagate = [handler], False
    access.setLevel(logging.INFO)
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name, level in (("ml_patterns", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [plain], False
        logger.setLevel(level)
