"""Tell glibc's allocator, and oneDNN's caches, what training needs of them; see `serve.allocator`."""

from __future__ import annotations

import os

from serve.allocator import glibc

# Parameters of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20

_KEPT_SHAPES = "16"


def bound_shape_caches() -> None:
    """Keep what oneDNN prepared for the latest few shapes of a product only; before torch is imported.

    It prepares, and keeps for 1,024 shapes, a program and memory for each. Batches of windows of every length
    have ever new shapes: in an hour that came to four gigabytes. Without AMX it saves no time that could be
    measured; with AMX, which multiplies faster than it compiles, steps are a fifth faster with both at 1024.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KEPT_SHAPES)
    os.environ.setdefault("LRU_CACHE_CAPACITY", _KEPT_SHAPES)


def keep_freed_memory() -> None:
    """Keep what a step frees for the next one: mapping activations anew costs a fifth of a step on a CPU."""
    if (libc := glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 1024 * _MIB)
        libc.mallopt(_M_TRIM_THRESHOLD, 2047 * _MIB)
        libc.mallopt(_M_TOP_PAD, 64 * _MIB)
