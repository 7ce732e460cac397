"""Turn SIGTERM (a spot instance, SageMaker) and SIGINT (Ctrl-C) into a flag that the loop reads."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(kw_only=True)
class StopRequest:
    """Whether the run should stop; it first finishes its step and saves."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Record SIGTERM and SIGINT while the block runs, replacing their handlers. Main thread only."""
    stop = StopRequest()

    def note(signal_number: int, frame: object) -> None:
        stop.requested = True

    previous = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
