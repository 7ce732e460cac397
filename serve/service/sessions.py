"""Recordings that belong together share options, and the text of one is the prompt of the next.

    session = sessions.start(options)
    options = session.prompted_options        # of a recording of the session
    session.last_text = transcript.text       # what the next recording goes on from
    sessions.close(session.id)

Bounded in number and in time, and kept in this process alone. Knows no HTTP.
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
    """Given at its start."""
    expires: float
    """Seconds since 1970."""
    last_text: str = ""
    """Of the recording that was transcribed last."""

    @property
    def prompted_options(self) -> TranscriptionOptions:
        """Options of the session's next recording, as far as that says nothing else."""
        if not self.last_text:
            return self.options
        return replace(self.options, prompt=self.last_text[-MAX_PROMPT_CHARACTERS:])


class Sessions:
    """All that are open."""

    def __init__(
        self, *, max_sessions: int, lifetime_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_sessions = max_sessions
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._open: dict[str, Session] = {}  # those that expire first come first
        self._lock = threading.Lock()

    def start(self, options: TranscriptionOptions) -> Session:
        """Open a session.

        Raises:
            TooManySessions: As many as may be are open.
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
            UnknownSession: There is none of this id; it may have expired.
        """
        with self._lock:
            self._forget_expired(self._clock())
            try:
                return self._open[session_id]
            except KeyError:
                raise UnknownSession from None

    def close(self, session_id: str) -> None:
        """Forget a session.

        Raises:
            UnknownSession: There is none of this id; it may have expired.
        """
        self.find(session_id)
        with self._lock:
            self._open.pop(session_id, None)

    def _forget_expired(self, now: float) -> None:
        for session in list(self._open.values()):
            if session.expires > now:
                break
            del self._open[session.id]
