"""What is known of an adapter that a service holds, and what it may be called. Imports no engine."""

from __future__ import annotations

import re

import msgspec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
"""What an adapter or a model may be called."""


class Adapter(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "src", "n_requests": "requests"}):
    """What is known of a registered adapter; also the JSON body that `/adapters` answers."""

    name: str
    alias: str | None
    source: str
    """Directory that it was loaded from."""
    language: str | None
    pinned: bool
    """Whether it stays in memory."""
    loaded: bool
    memory_bytes: int
    """0 for an adapter that is not loaded, or that the service was started with."""
    served: bool
    """Whether requests that name no adapter use this one."""
    n_requests: int
    """Requests that are using it."""
