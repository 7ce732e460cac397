"""Tell glibc's allocator when to give memory back.

Elsewhere (macOS, musl) there is no such allocator, and nothing happens.
"""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8
"""Parameter of mallopt(3), from malloc.h."""

_ARENAS_OF_REQUESTS = 2


def share_arenas(n_threads: int) -> None:
    """Let threads allocate from few arenas; before there are many threads.

    Every arena keeps the most that its threads ever had at a time: by default eight for each core, in which
    the threads of requests, of ffmpeg's readers and of adapters that come and go leave ten megabytes each.
    The engine's threads, which allocate most, have as many as they are.
    """
    if (libc := glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, n_threads + _ARENAS_OF_REQUESTS)


def return_freed_memory() -> None:
    """Give back what was freed, after what was large has gone: glibc would keep it.

    Of whisper-large-v2, quantised on a CPU, 4 GiB; of each adapter's model that was unloaded, a part.
    """
    if (libc := glibc()) is not None:
        libc.malloc_trim(0)


def glibc() -> ctypes.CDLL | None:
    """Return the C library, where it has `mallopt` and `malloc_trim`."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return None
    return libc
