"""Bytes of sound on their way from a connection to a session's thread, and the client's wishes among them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from serve.errors import ServiceError
from serve.transcript.events import Wish

CHECK_EVERY_S = 1.0
"""How often a session that waits for sound checks whether its request has ended."""


@dataclass(frozen=True)
class Piece:
    """Bytes that arrived together, or a wish."""

    data: bytes
    arrived: float
    """Time of the monotonic clock."""
    is_first: bool = True
    """Whether it begins where a message began."""
    wish: Wish | None = None


class SoundQueue:
    """A bounded queue between two threads."""

    def __init__(self, max_bytes: int) -> None:
        self.on_room: Callable[[], None] = lambda: None
        """Called from the reading thread when there is room again."""
        self.error: ServiceError | None = None
        """The error that the input ended with."""
        self._max_bytes = max_bytes
        self._pieces: deque[Piece] = deque()
        self.n_bytes = 0
        """Bytes queued."""
        self._is_over = False
        self._changed = threading.Condition()

    def put(self, data: bytes, wish: Wish | None = None) -> bool:
        """Queue bytes or a wish; False means that there is no room for more."""
        with self._changed:
            if not self._is_over:
                self._pieces.append(Piece(data, time.monotonic(), wish=wish))
                self.n_bytes += len(data)
                self._changed.notify()
            return self.n_bytes < self._max_bytes

    def take(self, max_bytes: int, check: Callable[[], None]) -> Piece | None:
        """Wait for the next piece, cut to `max_bytes`; None at the end.

        Args:
            max_bytes: Most bytes returned.
            check: May raise; called about every second.
        """
        check()
        with self._changed:
            while not self._pieces and not self._is_over:
                self._changed.wait(CHECK_EVERY_S)
                check()
            piece = self._pieces.popleft() if self._pieces else None
            if piece is not None and len(piece.data) > max_bytes:
                rest = Piece(piece.data[max_bytes:], piece.arrived, is_first=False)
                self._pieces.appendleft(rest)
                piece = Piece(piece.data[:max_bytes], piece.arrived, piece.is_first)
            self.n_bytes -= len(piece.data) if piece else 0
            has_room = self.n_bytes < self._max_bytes
        if has_room:
            self.on_room()
        return piece

    def end(self, error: ServiceError | None) -> None:
        """End the input, once; what is queued stays."""
        with self._changed:
            if not self._is_over:
                self._is_over, self.error = True, error
            self._changed.notify()

    def abandon(self) -> None:
        """End the input, and drop what is queued."""
        self.end(None)
        with self._changed:
            self._pieces.clear()
            self.n_bytes = 0
        self.on_room()
