"""Lines in the log for what anybody can do by the thousand: some a second, others are counted."""

from __future__ import annotations

import time
from typing import Any

from serve.http.door.frames import Allowance

LINES_PER_S = 10
LINES_AT_ONCE = 200


class LogLines:
    """What all requests and sockets of a service share. Used on the event loop only."""

    def __init__(self, per_s: float = LINES_PER_S, at_once: float = LINES_AT_ONCE) -> None:
        self._allowance = Allowance(per_s, at_once)
        self._n_left_out = 0

    def info(self, log: Any, event: str, *, is_work: bool, **facts: object) -> None:
        """Log a line; one that tells of no work is left out where too many came before it."""
        if is_work or self._allowance.spare(time.monotonic()):
            left_out, self._n_left_out = self._n_left_out, 0
            log.info(event, **facts, **({"n_not_logged": left_out} if left_out else {}))
        else:
            self._n_left_out += 1
