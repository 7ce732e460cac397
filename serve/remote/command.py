"""Build launcher commands, which turn flags into AWS requests and print or send them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from serve.config.command_line import Command, flags_of
from serve.config.reader import keys_of, read_or_raise
from serve.config.sources import flag_layer, flag_names
from serve.remote.requests import Request, requests_as_json
from serve.remote.submit import submit


class _Order(Protocol):
    @property
    def region(self) -> str | None: ...

    @property
    def dry_run(self) -> bool: ...


OrderT = TypeVar("OrderT", bound=_Order)


def launcher_command(
    name: str,
    order: type[OrderT],
    build: Callable[[OrderT], Sequence[Request]],
    *,
    about: str,
    examples: str,
    needs: str = "",
) -> Command[OrderT]:
    """Return a command whose flags are a dataclass's fields; it sends what `build` makes."""

    def read(flags: Mapping[str, Any]) -> OrderT:
        return read_or_raise(order, flag_layer(flags), flag_names(keys_of(order)))

    def run(ordered: OrderT) -> int:
        requests = build(ordered)
        if ordered.dry_run:
            print(requests_as_json(requests))
        else:
            submit(requests, ordered.region, print)
        return 0

    flags = flags_of(order, repeated=True)
    return Command(name, read=read, run=run, about=about, examples=examples, flags=flags, needs=needs)
