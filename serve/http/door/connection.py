"""HTTP/1.1 connections within limits: uvicorn's protocol on httptools, with every byte of a head counted.

httptools parses twenty times faster than h11 but limits nothing: it keeps a header of any size until it ends,
and accepts any number of them. h11 limits heads, but parses bodies in Python, and a proxy in front would
have to come with every installation. So this subclass feeds httptools in small pieces and counts what comes
of them: bytes and lines of a head, framing around a body, requests that wait on one connection, and the time
that all of it takes. A client over a limit gets a status and a sentence, and its connection is closed.

The only upgrade is WebSocket. Java's HttpClient, Ktor and `curl --http2` send `Upgrade: h2c` with every first
request, which a server may ignore (RFC 9110, section 7.8). httptools takes the offer for accepted: it ends
the message after its headers and treats the body as another protocol. So the headers are parsed again without
the offer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

MAX_TARGET_BYTES = 16 * 1024
"""Longest path and query of a request."""

MAX_HEADER_BYTES = 16 * 1024
"""All headers of a request together, trailers included."""

MAX_HEADERS = 100

PIECE_BYTES = 16 * 1024
"""Most bytes fed to the parser at a time, so that a head is over its limit by one piece at most."""

MAX_FRAMING_BYTES = 64 * 1024
"""Chunk sizes, chunk extensions and the like that may surround a body beyond the body's own size."""

MAX_PIPELINED = 16
"""Requests that may wait on one connection; no client of today sends any before the last is answered."""

LINGER_S = 2.0
"""Time in which a refused client may go on sending, so that it reads the refusal."""

MAX_DROPPED_BYTES = 16 << 20
"""Most bytes that it may send meanwhile; they are thrown away."""

_OFFER = frozenset((b"upgrade", b"http2-settings"))
"""Headers of an upgrade offer, and their names in `Connection`."""

_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 414: b"URI Too Long", 503: b"Service Unavailable"}
_PHRASES |= {431: b"Request Header Fields Too Large"}


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits on connections."""

    max_connections: int = 512
    max_per_address: int | None = None
    head_timeout_s: float = 10.0
    """Time for a head to arrive: from the connection's start, and then from a head's first byte."""
    write_timeout_s: float = 30.0
    """Longest time in which a client may read nothing of a response that waits for it."""


class PlainHttpProtocol(HttpToolsProtocol):
    """One connection."""

    limits = ConnectionLimits()
    """Set by `with_limits`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = True
        self._head_bytes = 0  # fed since the message before ended
        self._header_bytes = self._n_headers = 0
        self._has_begun = False
        self._sent_bytes = self._body_bytes = 0  # of a message after its head, and of its body
        self._quiet_bytes = 0  # sent since the last byte of a body
        self._born = self.loop.time()
        self._fault: tuple[int, str] | None = None
        self._is_refused = False
        self._cycles: list[RequestResponseCycle] = []  # without those that were answered before the last came
        self._dropped_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered here."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or make room for it; refuse it where all others are at work."""
        crowd = [each for each in self.connections if isinstance(each, PlainHttpProtocol)]
        super().connection_made(transport)
        own = [each for each in crowd if _address(each) == _address(self)]
        limit = self.limits.max_per_address
        is_full = len(self.connections) > self.limits.max_connections
        if (limit is not None and len(own) >= limit and not _give_way(own)) or (
            is_full and not _give_way(crowd)
        ):
            self._refuse(503, "too many connections are open; retry in a moment")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._tell_gone()

    def data_received(self, data: bytes) -> None:
        """Feed received bytes to the parser, piece by piece, until a limit is exceeded."""
        if self._is_refused or self.transport.is_closing():
            self._dropped_bytes += len(data)
            if self._dropped_bytes > MAX_DROPPED_BYTES:
                self._cut()
            return
        self._unset_keepalive_if_required()
        for at in range(0, len(data), PIECE_BYTES):
            self._feed(data[at : at + PIECE_BYTES])
            if self.parser is None or self._is_refused or self.transport.get_protocol() is not self:
                return

    def _feed(self, data: bytes) -> None:
        """Parse a piece; where the headers offer a foreign upgrade, parse them again without it."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._await_head()
        else:
            self._sent_bytes += len(data)
            self._quiet_bytes += len(data)
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self._stop_waiting()
                    if all(each.response_complete for each in self._cycles):
                        self._stop_write_timer()  # the socket has limits of its own
                        self.handle_websocket_upgrade()
                    else:  # that answer would fall among the socket's frames
                        self._refuse(400, "a request before the WebSocket's is not answered yet")
                    return
                if self.parser.get_method() == b"CONNECT":  # has no path, so it cannot be parsed again
                    self._refuse(400, "Invalid HTTP request received.")
                    return
                (n_read,) = upgrade.args
                data = self._head_without_offer() + bytes(data)[n_read:]
                self._begin_anew()
            except httptools.HttpParserError:
                self._refuse(*(self._fault or (400, "Invalid HTTP request received.")))
                return
            else:
                break
        self._check_size()

    def _check_size(self) -> None:
        """Check what the parser keeps to itself: an unfinished line of a head, of chunks or of trailers."""
        if self._in_head:
            if self._head_bytes > MAX_TARGET_BYTES + MAX_HEADER_BYTES + PIECE_BYTES:
                self._refuse(431, "the request's head is larger than 32 KiB")
            elif self._has_begun and self._timer is None:
                self._await_head()
        elif (
            self._quiet_bytes > MAX_FRAMING_BYTES
            or self._sent_bytes > 2 * self._body_bytes + MAX_FRAMING_BYTES
        ):
            self._refuse(400, "the body comes in chunks that are far too small")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._has_begun = True
        self._header_bytes = self._n_headers = 0
        self._sent_bytes = self._body_bytes = self._quiet_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take the next part of the path and query."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._fail(414, "the request's path and query are longer than 16 KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer."""
        self._n_headers += 1
        self._header_bytes += len(name) + len(value)
        if self._n_headers > MAX_HEADERS:
            self._fail(431, f"the request has more than {MAX_HEADERS} headers")
        if self._header_bytes > MAX_HEADER_BYTES:
            self._fail(431, "the request's headers are larger than 16 KiB")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the response, unless the headers will be parsed again."""
        if self._is_read_again():
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._fail(400, "too many requests wait on this connection")
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()
        if self.cycle is not None:  # as it is where the connection becomes a WebSocket
            self._cycles = [*(each for each in self._cycles if not each.response_complete), self.cycle]

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._quiet_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body, unless the headers will be parsed again."""
        if not self._is_read_again():
            self._in_head, self._has_begun, self._head_bytes = True, False, 0
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Give the client time to read; one that reads nothing is cut off, and its request ends."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle; one whose client does not read is cut off."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(LINGER_S, self._cut)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.limits.head_timeout_s, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _head_is_late(self) -> None:
        self._timer = None
        if not self.is_idle:  # a further request may wait until this one is answered
            self._await_head()
        elif self._has_begun or self._head_bytes:
            self._refuse(408, "the request's head did not arrive in time")
        else:
            self.transport.close()

    def _fail(self, status: int, message: str) -> None:
        """Note a fault of the head, and stop the parser."""
        self._fault = self._fault or (status, message)
        raise ValueError(message)

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, and close once the client has had time to read the answer."""
        self._is_refused = True
        self._stop_waiting()
        if self.is_idle:  # else the answer would fall into that of the request before it
            text = message.encode()
            head = b"HTTP/1.1 %d %b\r\ncontent-type: text/plain; charset=utf-8\r\n" % (
                status,
                _PHRASES[status],
            )
            self.transport.write(
                head + b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(text), text)
            )
            self.loop.call_later(LINGER_S, self._cut)
        else:
            self._cut()

    def _cut(self) -> None:
        """Close at once. What the application still writes is dropped: uvloop would raise, once for each."""
        self._tell_gone()
        self.transport.abort()

    def _tell_gone(self) -> None:
        """Tell each request that its client is gone; uvicorn tells only the last that came."""
        self.pipeline.clear()
        for each in self._cycles:
            each.disconnected = True
            each.message_event.set()
        self._cycles = []

    def _is_read_again(self) -> bool:
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _should_upgrade(self) -> bool:
        # A POST with a recording is served as such, even if its sender offers a WebSocket upgrade.
        return self.parser.get_method() == b"GET" and super()._should_upgrade()

    def _begin_anew(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _head_without_offer(self) -> bytes:
        """Return the current message's head, without the upgrade offer."""
        version = str(self.parser.get_http_version()).encode()
        lines = [b" ".join((self.parser.get_method(), self.url, b"HTTP/" + version))]
        lines += [name + b": " + value for name, value in self._other_headers()]
        return b"\r\n".join((*lines, b"", b""))

    def _other_headers(self) -> Iterator[tuple[bytes, bytes]]:
        for name, value in self.headers:
            if name == b"connection":
                wishes = [wish.strip() for wish in value.split(b",")]
                value = b", ".join(wish for wish in wishes if wish.lower() not in _OFFER)
            if name not in _OFFER and (value or name != b"connection"):
                yield name, value


def with_limits(limits: ConnectionLimits) -> type[PlainHttpProtocol]:
    """Return the protocol with these limits; uvicorn creates one for each connection."""
    return cast(type[PlainHttpProtocol], type("HttpProtocol", (PlainHttpProtocol,), {"limits": limits}))


def _give_way(connections: list[PlainHttpProtocol]) -> bool:
    """Close the oldest idle connection of the address that has most; return whether there was one."""
    idle = [each for each in connections if each.is_idle and not each.transport.is_closing()]
    if not idle:
        return False
    counts = Counter(_address(each) for each in idle)
    min(idle, key=lambda each: (-counts[_address(each)], each._born))._cut()
    return True


def _address(connection: PlainHttpProtocol) -> str:
    return connection.client[0] if connection.client else ""
