"""Listen for the request to stop: SIGTERM (a spot instance, SageMaker) or SIGINT (Ctrl-C)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(kw_only=True)
class StopRequest:
    """Whether somebody asked the run to stop; it finishes its step and saves first."""

    requested: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT while the block runs, instead of what they did before.

    Works in the main thread alone, as Python's signal handlers do.
    """
    stop = StopRequest()

    def note(signal_number: int, frame: object) -> None:
        stop.requested = True

    previous = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
