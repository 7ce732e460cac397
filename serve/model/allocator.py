"""Make glibc's allocator return freed memory. Does nothing without glibc (macOS, musl)."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8
"""Parameter of mallopt(3), from malloc.h."""

_ARENAS_OF_REQUESTS = 2


def share_arenas(n_threads: int) -> None:
    """Limit the number of malloc arenas; call before threads start.

    An arena keeps its peak memory, and glibc makes up to eight per core: threads of requests, ffmpeg readers
    and loaders would leave ten megabytes in each. The engine's `n_threads`, which allocate most, get an arena
    each.
    """
    if (libc := glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, n_threads + _ARENAS_OF_REQUESTS)


def return_freed_memory() -> None:
    """Return freed memory to the system, which glibc would keep; call after freeing something large.

    Quantising whisper-large-v2 on a CPU leaves 4 GiB; an unloaded adapter leaves part of its model.
    """
    if (libc := glibc()) is not None:
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """Return the C library if it has `mallopt` and `malloc_trim`."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return None
    return libc
