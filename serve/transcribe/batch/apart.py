"""Run a function in a process apart, which may die of what it is asked: question -> answer, or how it died.

    with Apart(make) as apart:          # make: () -> function; both are pickled, and `make` runs over there
        answer = apart.ask(question)    # raises Died

Knows no recordings and no engine.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, Self, TypeVar

from serve.errors import ShrotaError, StartupError

Question = TypeVar("Question")
Answer = TypeVar("Answer")

GRACE_S = 10.0
"""Time that an idle process has to end by itself, in seconds."""


class Died(Exception):
    """The process ended without an answer."""


class Apart(Generic[Question, Answer]):
    """A process that answers one question after another; one that died is replaced for the next question."""

    def __init__(self, make: Callable[[], Callable[[Question], Answer]]) -> None:
        self._make = make
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, question: Question) -> Answer:
        """Return the answer.

        Raises:
            Died: The process died of the question; the message says how.
            StartupError: It failed for another reason, or died before it was asked.
        """
        if self._connection is None:
            self._connection = self._start()
        try:
            self._connection.send(question)
            answer: Answer | StartupError = self._connection.recv()
        except (EOFError, OSError) as error:
            raise Died(self._end()) from error
        if isinstance(answer, StartupError):
            raise answer
        return answer

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a forked engine's threads would be missing
        connection, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, self._make), daemon=True)
        self._process.start()
        theirs.close()  # so that its death ends what is read here
        try:
            fault = connection.recv()
        except (EOFError, OSError) as error:
            raise StartupError(f"a worker's own process cannot start: {self._end()}") from error
        if fault is not None:
            raise fault
        return connection

    def _end(self) -> str:
        """End the process, if there is one, and return how it ended."""
        if self._connection is not None:
            self._connection.close()  # which ends it, where it waits for a question
            self._connection = None
        if self._process is None:
            return ""
        self._process.join(GRACE_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code, self._process = self._process.exitcode, None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _answer(connection: Connection, make: Callable[[], Callable[[Any], Any]]) -> None:
    """Answer until nobody asks any more; the first thing sent is why that cannot be done, or None."""
    with suppress(EOFError, OSError):  # whoever asked is gone
        try:
            answer = make()
        except ShrotaError as error:
            connection.send(StartupError(str(error)))
            return
        connection.send(None)
        while True:
            question = connection.recv()
            try:
                connection.send(answer(question))
            except ShrotaError as error:
                connection.send(StartupError(str(error)))
