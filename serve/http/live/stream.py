"""What the protocols of live speech share: a connection attends a run until either ends.

A frame is read only once the session has room for it, so a client that sends too fast gets backpressure from
its own connection. An error is sent as the protocol has it, followed by a close code that tells whose fault
it is.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import structlog
from litestar import WebSocket
from litestar.datastructures import State
from litestar.exceptions import WebSocketException

from serve import errors
from serve.http.door.log_lines import LogLines
from serve.http.errors import UNKNOWN_ERROR_MESSAGE, BodyTimeout, ClientGone
from serve.http.metrics import Metrics
from serve.service.live.runs import LiveRun
from serve.service.live.settings import LiveSettings
from serve.service.service import Service
from serve.transcript.events import LiveEvent

AnySocket = WebSocket[Any, Any, State]

MAX_VALUES = 160
"""Values of an address that are read; Deepgram's clients may send a hundred words that are likely."""

WORK_S = 1.0
"""Seconds of sound from which on a socket's line is always in the log."""

DONE = 1000
GOING_AWAY = 1001
TOO_BIG = 1009
BAD_REQUEST = 1008
OUR_FAULT = 1011
TRY_LATER = 1013

_log = structlog.get_logger(__name__)


class Stream(ABC):
    """One connection; each protocol has its own subclass."""

    route: ClassVar[str]
    can_come_back: ClassVar[bool] = False
    """Whether a client that lost its connection may go on by the session's token."""

    def __init__(self, socket: AnySocket, state: State) -> None:
        self.socket = socket
        self.service: Service = state.service
        self.metrics: Metrics = state.metrics
        self._lines: LogLines = state.lines
        self.run: LiveRun | None = None
        self.after = 0
        """Number of the last event that the client has."""
        self.unread: str | bytes | None = None
        """A frame that came behind the settings, and is still to be taken."""
        self._left_with = 0  # the client's close code, once it has told one
        self._has_room = asyncio.Event()

    @abstractmethod
    async def read_settings(self) -> LiveSettings:
        """Return the stream's settings, from its address or its first frames.

        Raises:
            RequestError: They are wrong.
        """

    @abstractmethod
    async def take(self, frame: str | bytes) -> bool:
        """Do what a frame asks; False ends the input.

        Raises:
            RequestError: The frame is none of the protocol's.
        """

    @abstractmethod
    async def say(self, number: int, event: LiveEvent) -> None:
        """Send an event."""

    @abstractmethod
    async def tell_error(self, code: str, message: str) -> None:
        """Send an error, the last frame of the stream."""

    async def greet(self) -> None:  # noqa: B027 - most say nothing
        """Send what comes before all events."""

    async def bye(self) -> None:  # noqa: B027 - most say nothing
        """Send what comes after all events."""

    def query(self) -> list[tuple[str, str]]:
        """Return the names and values of the address, empty values too; of very many the first."""
        query = self.socket.scope["query_string"].decode(errors="replace")
        return parse_qsl(query, keep_blank_values=True)[:MAX_VALUES]

    def token(self) -> str | None:
        """Return the token of the session to go on with, if any."""
        return None

    async def attend(self) -> None:
        """Serve the connection to its end, whatever happens."""
        started, outcome, closing = time.monotonic(), "done", DONE
        await self.accept()
        try:
            with suppress(OSError, WebSocketException):  # a client that has left needs no answer
                try:
                    await self._serve()
                    await self.bye()
                    await self.socket.close(DONE)
                except ClientGone:
                    outcome = "client_gone"
                except errors.ServiceError as error:
                    outcome, closing = error.code, close_code(error)
                    await self._break_off(outcome, str(error), closing)
                except (OSError, WebSocketException):
                    outcome = "client_gone"
                except Exception as error:
                    outcome, closing = "internal_error", OUR_FAULT
                    _log.error("stream.failed", error=type(error).__name__, exc_info=True)
                    await self._break_off(outcome, UNKNOWN_ERROR_MESSAGE, closing)
        finally:
            stream_s = time.monotonic() - started
            self.metrics.answered(self.route, closing, stream_s)
            if outcome != "done":
                self.metrics.failed(outcome)
            self._lines.info(
                _log,
                "stream",
                is_work=self.run is not None and self.run.session.heard_s >= WORK_S,
                route=self.route,
                outcome=outcome,
                stream_s=round(stream_s, 3),
            )

    async def accept(self) -> None:
        """Accept the connection, and the first subprotocol that it offers: browsers put a key there."""
        offered: list[str] = self.socket.scope.get("subprotocols") or []
        await self.socket.accept(subprotocols=offered[0] if offered else None)

    async def _break_off(self, code: str, message: str, closing: int) -> None:
        await self.tell_error(code, message)
        await self.socket.close(closing, reason=code)

    async def _serve(self) -> None:
        """Attend a run until its end, or until the client leaves.

        Raises:
            ServiceError: The stream was refused or broken off.
            ClientGone: The client left.
        """
        run = self.run = await self._open()
        listener = run.listener
        run.session.on_room(self._room_maker())
        # From here on nothing may be awaited outside the `try`: whatever fails ends the run.
        listening = asyncio.ensure_future(self._listen(run))
        speaking = asyncio.ensure_future(self._speak(run))
        is_left = False
        try:
            await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            if not speaking.done() or isinstance(speaking.exception(), OSError | WebSocketException):
                is_left = self.can_come_back and self._left_with not in (DONE, GOING_AWAY)
                raise ClientGone
            speaking.result()
            if run.listener != listener:
                raise errors.TakenOver
        finally:
            for task in (listening, speaking):
                task.cancel()
            await asyncio.gather(listening, speaking, return_exceptions=True)
            if is_left:
                self.service.live.leave(run, listener)
            else:
                await self.service.live.close(run, listener)

    async def _open(self) -> LiveRun:
        if (token := self.token()) is not None:
            return self.service.live.resume(token)
        self.service.admit(is_long=True).close()  # so that a refused client need not send its settings
        settings = await self.read_settings()
        place = self.service.admit(is_long=True)
        try:
            return await self.service.open_live(
                settings, place, lambda run: self.metrics.transcribed(run.session.heard_s, None)
            )
        except BaseException:
            place.close()
            raise

    def _room_maker(self) -> Any:
        loop = asyncio.get_running_loop()

        def make_room() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._has_room.set)

        return make_room

    async def hear(self, data: bytes) -> None:
        """Pass sound to the session, and wait while it has no room."""
        assert self.run is not None, "the settings are read"
        self._has_room.clear()
        if not self.run.hear(data):
            await self._has_room.wait()

    async def _listen(self, run: LiveRun) -> None:
        """Take frames until the input ends, then wait for the client to leave.

        Raises:
            ClientGone: The client left.
        """
        settings = self.service.settings
        try:
            async with asyncio.timeout(settings.live_max_s):
                while await self.take(await self.next_frame("sound")):
                    pass
            run.session.end()
        except TimeoutError:
            run.session.end(errors.RequestTimeout(settings.live_max_s))
        except errors.ServiceError as error:
            run.session.end(error)
        while True:
            await self._receive()

    async def next_frame(self, what: str) -> str | bytes:
        """Return the next frame.

        Raises:
            BodyTimeout: No frame arrived in time.
            ClientGone: The client left.
        """
        settings = self.service.settings
        idle_s = settings.live_idle_timeout_s
        if self.unread is not None:
            frame, self.unread = self.unread, None
            return frame
        if (
            self.run is None
        ):  # whoever has not even said what it wants gets no more time than a request's head
            idle_s = min(idle_s, settings.head_timeout_s)
        try:
            async with asyncio.timeout(idle_s):
                return await self._receive()
        except TimeoutError as error:
            advice = "; send silence where nobody speaks" if what == "sound" else ""
            raise BodyTimeout(f"no {what} came within {idle_s:g} s{advice}") from error

    async def _receive(self) -> str | bytes:
        message = await self.socket.receive()
        if message["type"] != "websocket.receive":
            code = message.get("code")
            self._left_with = code if isinstance(code, int) else 0
            raise ClientGone
        text: str | None = message.get("text")
        data: bytes | None = message.get("bytes")
        return text if text is not None else data or b""

    async def _speak(self, run: LiveRun) -> None:
        await self.greet()
        async for number, event in run.events(self.after):
            self.metrics.heard_live(event)
            await self.say(number, event)
            if not self.can_come_back:
                run.forget(number)


def close_code(error: errors.ServiceError) -> int:
    """Return the WebSocket close code for an error (RFC 6455, section 7.4.1)."""
    match error:
        case errors.PayloadTooLarge() | errors.AudioTooLong():
            return TOO_BIG
        case errors.RequestError():
            return BAD_REQUEST
        case errors.Overloaded() | errors.NotReady():
            return TRY_LATER
    return OUR_FAULT
