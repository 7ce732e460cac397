"""Run the application under uvicorn, and stop it the way SageMaker asks: refuse, finish, exit 0.

After SIGTERM the port stays open and /ping says 503 while running requests finish; at `drain_s` they are
broken off with an error event. The whole takes less than 25 s of the 30 s before SIGKILL. A second signal
ends it at once.
"""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import structlog
import uvicorn

from serve.http.app import create_app
from serve.http.service import Service
from serve.settings import Settings

CONNECTIONS_CLOSE_S = 2
"""Time for the last bytes to leave after draining."""

KEEP_ALIVE_S = 75
"""Longer than the idle time-out of the usual load balancers, which otherwise meet closed connections."""

_log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """A server that drains its service before it closes its port."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        """Take a configuration whose application serves `service`."""
        super().__init__(config)
        self._service = service
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; the base class would close the port at once."""
        if self._loop is None or self._draining is not None or not self.started:
            self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_draining)

    def stop(self) -> None:
        """Close at once; from any thread."""
        self.should_exit = True

    def _begin_draining(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and say where: the port may have been chosen by the system."""
        await super().startup(sockets)
        for server in self.servers:
            for bound in server.sockets:
                _log.info("service.listening", address=":".join(map(str, bound.getsockname()[:2])))


def run(settings: Settings) -> int:
    """Serve until a signal or until the model cannot be loaded; return the exit status."""
    service = Service(settings)
    server: DrainingServer

    app = create_app(service, on_failure=lambda: server.stop())
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CONNECTIONS_CLOSE_S,
    )
    server = DrainingServer(config, service)
    server.run()
    return 0 if service.failure is None and server.started else 1
