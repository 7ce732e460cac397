"""Let a client that is refused in mid-body read why: its body is taken in and dropped before the close.

A connection that is closed with unread bytes is reset, and the answer on it is lost. So a response to a body
that was not read is sent at once and complete, with `Connection: close`; then the rest of the body is read,
within bounds, and thrown away.
"""

from __future__ import annotations

import asyncio
from typing import cast

from litestar.types import HTTPReceiveMessage, HTTPScope, Message, Receive, Send

DROP_FOR_S = 5.0
"""Longest time for which a body is thrown away."""

MAX_DROPPED_BYTES = 128 * 2**20


class UnreadBody:
    """The body of one request, as far as nobody has read it."""

    def __init__(self, scope: HTTPScope, receive: Receive) -> None:
        names = {name.lower(): value for name, value in scope["headers"]}
        self._is_unread = b"transfer-encoding" in names or names.get(b"content-length", b"0") != b"0"
        self._waits = names.get(b"expect", b"").lower() == b"100-continue"
        self._receive = receive
        self._has_begun = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers for a response that is sent now."""
        return [(b"connection", b"close")] if self._is_unread else []

    async def receive(self) -> HTTPReceiveMessage:
        """Return the next message of the client."""
        self._has_begun = True
        message = cast(HTTPReceiveMessage, await self._receive())
        if message["type"] != "http.request" or not message["more_body"]:
            self._is_unread = False
        return message

    async def send(self, message: Message, send: Send) -> None:
        """Send a message; before the end of a response, read the rest of the body."""
        is_last = message["type"] == "http.response.body" and not message.get("more_body")
        if not is_last or not self._is_unread or (self._waits and not self._has_begun):
            await send(message)  # whoever waits for 100 Continue sends no body after an error
            return
        if message["type"] == "http.response.body":
            message["more_body"] = True
        await send(message)
        await self._drop()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop(self) -> None:
        n_bytes = 0
        try:
            async with asyncio.timeout(DROP_FOR_S):
                while self._is_unread and n_bytes <= MAX_DROPPED_BYTES:
                    message = await self.receive()
                    n_bytes += len(message["body"]) if message["type"] == "http.request" else 0
        except TimeoutError:
            pass
