"""Sessions: recordings that share options, where the text of one is the prompt of the next.

    session = sessions.start(options)
    options = session.prompted_options        # for a recording of the session
    session.last_text = transcript.text       # becomes the prompt of the next recording
    sessions.close(session.id)

Sessions are limited in number and lifetime, and live in this process alone. Knows no HTTP.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serve.errors import TooManySessions, UnknownSession
from serve.options import MAX_PROMPT_CHARACTERS, TranscriptionOptions


@dataclass(eq=False, kw_only=True)
class Session:
    """One conversation."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    options: TranscriptionOptions
    """Options given when the session was started."""
    expires: float
    """When the session expires, in seconds since 1970."""
    last_text: str = ""
    """Text of the last recording."""

    @property
    def prompted_options(self) -> TranscriptionOptions:
        """Default options for the session's next recording."""
        if not self.last_text:
            return self.options
        return replace(self.options, prompt=self.last_text[-MAX_PROMPT_CHARACTERS:])


class Sessions:
    """The open sessions. Thread-safe."""

    def __init__(
        self, *, max_sessions: int, lifetime_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_sessions = max_sessions
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._open: dict[str, Session] = {}  # in order of expiry
        self._lock = threading.Lock()

    def start(self, options: TranscriptionOptions) -> Session:
        """Open a session.

        Raises:
            TooManySessions: The maximum number of sessions is open.
        """
        now = self._clock()
        with self._lock:
            self._forget_expired(now)
            if len(self._open) >= self._max_sessions:
                first = next(iter(self._open.values()))
                raise TooManySessions(self._max_sessions, first.expires - now)
            session = Session(options=options, expires=now + self._lifetime_s)
            self._open[session.id] = session
            return session

    def find(self, session_id: str) -> Session:
        """Return an open session.

        Raises:
            UnknownSession: No session has this id; it may have expired.
        """
        with self._lock:
            self._forget_expired(self._clock())
            try:
                return self._open[session_id]
            except KeyError:
                raise UnknownSession from None

    def close(self, session_id: str) -> None:
        """Close a session.

        Raises:
            UnknownSession: No session has this id; it may have expired.
        """
        self.find(session_id)
        with self._lock:
            self._open.pop(session_id, None)

    def _forget_expired(self, now: float) -> None:
        for session in list(self._open.values()):
            if session.expires > now:
                break
            del self._open[session.id]
