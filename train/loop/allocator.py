"""Tell glibc's allocator, and oneDNN's caches, what training needs of them; see `serve.model.allocator`."""

from __future__ import annotations

import os

from serve.model.allocator import glibc

# Parameters of mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20

_KEPT_SHAPES = "128"


def bound_shape_caches() -> None:
    """Keep what oneDNN prepared for the latest 128 shapes of a product only; before torch is imported.

    It prepares, and keeps for 1,024 shapes, a program and memory for each: ever new shapes came to four
    gigabytes in an hour. With rows filled up (`train.model.fused_lora`) a run needs few. Of 16, 128 and 1,024
    kept, on a processor with AMX: 5.8, 6.7 and 6.7 samples a second; 2.5, 2.9 and 3.3 GiB after sixty steps.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KEPT_SHAPES)
    os.environ.setdefault("LRU_CACHE_CAPACITY", _KEPT_SHAPES)


def keep_freed_memory() -> None:
    """Keep what a step frees for the next one: mapping activations anew costs a fifth of a step on a CPU."""
    if (libc := glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 1024 * _MIB)
        libc.mallopt(_M_TRIM_THRESHOLD, 2047 * _MIB)
        libc.mallopt(_M_TOP_PAD, 64 * _MIB)
