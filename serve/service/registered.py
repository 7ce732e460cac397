"""State and names of registered adapters. Imports no engine."""

from __future__ import annotations

import re

import msgspec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
"""Names of adapters and models."""


class Adapter(msgspec.Struct, frozen=True, kw_only=True, rename={"source": "src", "n_requests": "requests"}):
    """A registered adapter's state; also the JSON body of `/adapters`."""

    name: str
    alias: str | None
    source: str
    """Directory that the adapter was loaded from."""
    language: str | None
    pinned: bool
    """Whether the adapter is never evicted."""
    loaded: bool
    memory_bytes: int
    """Memory that the adapter takes; 0 if it is not loaded, or part of the engine."""
    served: bool
    """Whether requests that name no adapter use this one."""
    n_requests: int
    """Requests that are using it."""
