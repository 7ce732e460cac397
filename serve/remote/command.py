"""The course of every launcher: flags -> requests, then printed or sent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from serve.config.flags import parse_flags
from serve.errors import AwsError, ConfigError
from serve.remote.requests import Request, requests_as_json
from serve.remote.submit import submit


class _Order(Protocol):
    @property
    def region(self) -> str | None: ...

    @property
    def dry_run(self) -> bool: ...


OrderT = TypeVar("OrderT", bound=_Order)


def run_launcher(
    order: type[OrderT],
    arguments: Sequence[str],
    build: Callable[[OrderT], Sequence[Request]],
    *,
    program: str,
    about: str,
    examples: str,
) -> int:
    """Do what the flags of a dataclass say and return the exit status; faults are printed, one a line."""
    try:
        ordered = parse_flags(order, arguments, program=program, about=about, examples=examples)
        requests = build(ordered)
        if ordered.dry_run:
            print(requests_as_json(requests))
        else:
            submit(requests, ordered.region, print)
    except ConfigError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1
    except AwsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
