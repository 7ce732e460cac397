"""The WebSocket of a SageMaker container: sound in and text out at the same time.

The client sends a text frame of settings, binary frames of sound, and at the end `{"type": "end"}` or an
empty binary frame. The service sends text frames, and closes with 1000. An error is sent as a text frame
`{"ModelStreamError"}`, followed by a close code that tells whose fault it is. A frame is read only once the
session has room for it, so a client that sends too fast gets backpressure from its own connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
from litestar import WebSocket, websocket
from litestar.datastructures import State
from litestar.exceptions import WebSocketException

from serve import errors
from serve.http.door.json_text import read_object
from serve.http.errors import UNKNOWN_ERROR_MESSAGE, BodyTimeout, ClientGone
from serve.http.metrics import Metrics
from serve.http.sagemaker.invocations import options_outside_body
from serve.service.live_settings import LiveSettings, parse_live_settings
from serve.service.service import Service
from serve.transcript.events import LiveText
from serve.transcript.live_text import encode_live, encode_stream_error

if TYPE_CHECKING:  # these imports take seconds, so the loading thread does them
    from serve.service.live import LiveSession

PATH = "/invocations-bidirectional-stream"

AnySocket = WebSocket[Any, Any, State]

DONE = 1000
TOO_BIG = 1009
BAD_REQUEST = 1008
OUR_FAULT = 1011
TRY_LATER = 1013

_log = structlog.get_logger(__name__)


@websocket(PATH)
async def live_stream(socket: AnySocket, state: State) -> None:
    """Transcribe speech while it is being spoken."""
    service: Service = state.service
    metrics: Metrics = state.metrics
    started, outcome, closing = time.monotonic(), "done", DONE
    await socket.accept()
    try:
        with suppress(OSError, WebSocketException):  # a client that has left needs no answer
            try:
                await _serve(socket, service, metrics)
                await socket.close(DONE)
            except ClientGone:
                outcome = "client_gone"
            except errors.ServiceError as error:
                outcome, closing = error.code, close_code(error)
                await _break_off(socket, outcome, str(error), closing)
            except (OSError, WebSocketException):
                outcome = "client_gone"
            except Exception as error:
                outcome, closing = "internal_error", OUR_FAULT
                _log.error("stream.failed", error=type(error).__name__, exc_info=True)
                await _break_off(socket, outcome, UNKNOWN_ERROR_MESSAGE, closing)
    finally:
        stream_s = time.monotonic() - started
        metrics.answered(PATH, closing, stream_s)
        if outcome != "done":
            metrics.failed(outcome)
        _log.info("stream", outcome=outcome, stream_s=round(stream_s, 3))


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


async def _break_off(socket: AnySocket, code: str, message: str, closing: int) -> None:
    await socket.send_text(encode_stream_error(code, message))
    await socket.close(closing, reason=code)


async def _serve(socket: AnySocket, service: Service, metrics: Metrics) -> None:
    """Read the settings and transcribe the stream; its place is freed in any case.

    Raises:
        ServiceError: The stream was refused or broken off.
        ClientGone: The client left.
    """
    service.check_room(is_long=True)  # so that a refused client need not send its settings
    settings = await _read_settings(socket, service)
    with service.admit(is_long=True) as place, service.live_session(settings, place) as session:
        listening = asyncio.ensure_future(_listen(socket, service, session))
        speaking = asyncio.ensure_future(_speak(socket, service.in_thread(session.run)))
        try:
            await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            if not speaking.done():
                raise ClientGone
            speaking.result()
        finally:
            session.abandon()
            metrics.transcribed(session.heard_s, None)
            for task in (listening, speaking):
                task.cancel()
            await asyncio.gather(listening, speaking, return_exceptions=True)


async def _read_settings(socket: AnySocket, service: Service) -> LiveSettings:
    """Read the first frame.

    Raises:
        RequestError: It is not a text frame of valid settings.
        BodyTimeout: It did not arrive in time.
    """
    idle_s = min(service.settings.head_timeout_s, service.settings.live_idle_timeout_s)
    _, options = options_outside_body(socket)
    try:
        async with asyncio.timeout(idle_s):
            frame = await _receive(socket)
    except TimeoutError as error:
        raise BodyTimeout(f"no settings came within {idle_s:g} s") from error
    if not isinstance(frame, str):
        raise errors.RequestError("the first frame must be text: the settings, a JSON object")
    return parse_live_settings(read_object(frame), options)


async def _listen(socket: AnySocket, service: Service, session: LiveSession) -> None:
    """Pass sound to the session until its end, then wait for the client to leave.

    Raises:
        ClientGone: The client left.
    """
    has_room = asyncio.Event()
    loop = asyncio.get_running_loop()

    def make_room() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(has_room.set)

    session.on_room(make_room)
    settings = service.settings
    try:
        async with asyncio.timeout(settings.live_max_s):
            while (data := await _next_sound(socket, settings.live_idle_timeout_s)) is not None:
                has_room.clear()
                if not session.hear(data):
                    await has_room.wait()
        session.end()
    except TimeoutError:
        session.end(errors.RequestTimeout(settings.live_max_s))
    except errors.ServiceError as error:
        session.end(error)
    while True:
        await _receive(socket)


async def _next_sound(socket: AnySocket, idle_s: float) -> bytes | None:
    """Return the next sound; None at the end.

    Raises:
        RequestError: The frame is neither sound nor the end.
        BodyTimeout: No frame arrived in time.
    """
    try:
        async with asyncio.timeout(idle_s):
            frame = await _receive(socket)
    except TimeoutError as error:
        raise BodyTimeout(f"no sound came within {idle_s:g} s; send silence where nobody speaks") from error
    if isinstance(frame, bytes):
        return frame or None
    if read_object(frame) == {"type": "end"}:
        return None
    raise errors.RequestError('a text frame after the settings can only be {"type": "end"}')


async def _receive(socket: AnySocket) -> str | bytes:
    """Return the next frame.

    Raises:
        ClientGone: The client left.
    """
    message = await socket.receive()
    if message["type"] != "websocket.receive":
        raise ClientGone
    text: str | None = message.get("text")
    data: bytes | None = message.get("bytes")
    return text if text is not None else data or b""


async def _speak(socket: AnySocket, texts: AsyncIterator[LiveText]) -> None:
    async for text in texts:
        await socket.send_text(encode_live(text))
