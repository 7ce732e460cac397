"""WebSocket frames within limits: uvicorn's protocol, with frames counted and small ones joined.

Browsers send a frame for every 128 samples of sound, and anybody can send one for every byte. Each would wake
a task and a thread. So binary frames that arrive while one is unread are joined with it, and a frame is
handed on only once some milliseconds of frames may have come. A frame that begins a WebM recording is joined
to none before it, for that is how a recorder that was started again is recognised. What joining cannot mend
(frames of a few bytes by the thousand, floods of pings, endless fragments) closes the socket with code 1008
and a reason.

Text that is no UTF-8 closes it with 1007, without a word in the log: uvicorn writes a traceback for each.

Every socket of the service gets these limits; a route needs to do nothing for it.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from serve.audio.container import EBML_HEAD

TINY_BYTES = 128
"""A frame below this size is tiny: 4 ms of 16-bit sound at 16 kHz."""

MAX_TINY_PER_S = 500
"""Tiny frames, control frames and fragments that a client may send a second, on average."""

MAX_TINY_AT_ONCE = 1_000

JOIN_FOR_S = 0.02
"""Time for which binary frames are joined before they are handed on together."""

JOINED_BYTES = 64 * 1024
"""Joined frames are handed on from this size on."""

MESSAGES_PER_S = 200
"""Messages that the application gets a second, on average; further ones wait, and so does their sender."""

MESSAGES_AT_ONCE = 400

INVALID_DATA = 1007
POLICY_VIOLATION = 1008

LINGER_S = 2.0
"""Time in which a refused client may go on sending."""


class Allowance:
    """A budget that refills steadily: `per_s` a second, at most `at_once`."""

    def __init__(self, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left, self._last_s = at_once, 0.0

    def take(self, now_s: float) -> float:
        """Take one from the budget; return the seconds until it is whole again, 0 where it sufficed."""
        self._refill(now_s)
        self._left -= 1
        return max(0.0, -self._left / self._per_s)

    def spare(self, now_s: float) -> bool:
        """Take one from the budget if there is one; return whether there was."""
        self._refill(now_s)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _refill(self, now_s: float) -> None:
        self._left = min(self._at_once, self._left + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s


class FramedSocket(WebSocketsSansIOProtocol):
    """One WebSocket."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._tiny = Allowance(MAX_TINY_PER_S, MAX_TINY_AT_ONCE)
        self._pace = Allowance(MESSAGES_PER_S, MESSAGES_AT_ONCE)
        self._joined = bytearray()
        self._joining: asyncio.TimerHandle | None = None
        self._is_refused = False

    def data_received(self, data: bytes) -> None:
        """Parse what arrives; after a flood, drop it, so that the client can read the reason."""
        if self._is_refused:
            return
        super().data_received(data)
        if not self.handshake_initiated:
            self._refuse_handshake()

    def handle_events(self) -> None:
        """Count and join the frames that have arrived."""
        events = self.conn.events_received()
        now_s = self.loop.time()
        for event in events:
            if isinstance(event, Request):
                self.handle_connect(event)
                continue
            assert isinstance(event, Frame), "a server receives no responses"
            is_tiny = len(event.data) < TINY_BYTES or event.opcode not in (Opcode.BINARY, Opcode.TEXT)
            if is_tiny and self._tiny.take(now_s):
                self._refuse(
                    POLICY_VIOLATION, f"more than {MAX_TINY_PER_S} small frames a second; send larger ones"
                )
                self._is_refused = True
                return
            self._take(event)

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY and frame.fin and frame.data:
            if bytes(frame.data[: len(EBML_HEAD)]) == EBML_HEAD:
                self._hand_on()
            self._join(frame.data)
            return
        if frame.opcode not in (Opcode.PING, Opcode.PONG):
            self._hand_on()  # before what comes after them
        match frame.opcode:
            case Opcode.CONT:
                self.handle_cont(frame)
            case Opcode.TEXT:
                self.handle_text(frame)
            case Opcode.BINARY:
                self.handle_bytes(frame)
            case Opcode.PING:
                self.handle_ping()
            case Opcode.PONG:
                self.handle_pong(frame)
            case Opcode.CLOSE:
                self.handle_close(frame)

    def _join(self, data: bytes | bytearray | memoryview) -> None:
        self._joined += data
        if len(self._joined) >= JOINED_BYTES:
            self._hand_on()
        elif self._joining is None:
            self._joining = self.loop.call_later(JOIN_FOR_S, self._hand_on)

    def _hand_on(self) -> None:
        """Give the application the frames joined so far, as one message."""
        if self._joining is not None:
            self._joining.cancel()
            self._joining = None
        if self._joined and not self.disconnected:
            self.frames, self._joined = [bytes(self._joined)], bytearray()
            self.curr_msg_data_type = "bytes"
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """Give the application a message; text that is no UTF-8 ends the socket."""
        if self.curr_msg_data_type == "text":
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self._refuse(INVALID_DATA, "a text frame is not UTF-8")
                return
        super().send_receive_event_to_app()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message, at a bounded pace."""
        message = await super().receive()
        if message["type"] == "websocket.receive":
            # Without a pause, a task that finds message after message would hold the event loop.
            await asyncio.sleep(self._pace.take(self.loop.time()))
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message; after a refusal, the application learns that its client has gone."""
        if self.close_sent:
            raise ClientDisconnected
        await super().send(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.read_paused = True  # nothing more comes
        self._hand_on()
        super().connection_lost(exc)

    def _refuse_handshake(self) -> None:
        """Answer a request that is no handshake: uvicorn hands over whole heads, and waits for ever."""
        if not (answer := b"".join(self.conn.data_to_send())):
            response = self.conn.reject(HTTPStatus.BAD_REQUEST, "the request is no WebSocket handshake\n")
            answer = response.serialize()
        self.transport.write(answer)
        self.transport.close()

    def _refuse(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_S, self.transport.abort)
