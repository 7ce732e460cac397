"""Budget the memory of loaded models: a fixed limit, or what the machine has left."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal

RESERVE_BYTES = 256 * 2**20
"""Free memory that is kept for recordings and batches."""

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Memory limit and usage of the container: cgroup version 2, then 1."""


class MemoryBudget:
    """Counts bytes taken of a limit. Thread-safe."""

    def __init__(self, limit_bytes: int | None = None, *, measured: bool = False) -> None:
        """Start with nothing taken.

        Args:
            limit_bytes: Limit of the sum; None for no limit.
            measured: Without a limit, whether to refuse what exceeds the machine's free memory.
        """
        self.limit_bytes = limit_bytes
        self._measured = measured
        self._taken_bytes = 0
        self._lock = threading.Lock()

    @property
    def taken_bytes(self) -> int:
        """Bytes taken and not given back."""
        return self._taken_bytes

    def fits(self, n_bytes: int, freed_bytes: int = 0) -> bool:
        """Tell whether `n_bytes` could be taken, if `freed_bytes` were given back first."""
        if self.limit_bytes is not None:
            return self._taken_bytes - freed_bytes + n_bytes <= self.limit_bytes
        return not self._measured or n_bytes <= free_memory_bytes() - RESERVE_BYTES + freed_bytes

    def take(self, n_bytes: int, *, force: bool = False) -> bool:
        """Take bytes if they fit, or in any case with `force`; return whether they were taken."""
        with self._lock:
            if not force and not self.fits(n_bytes):
                return False
            self._taken_bytes += n_bytes
            return True

    def give_back(self, n_bytes: int) -> None:
        with self._lock:
            self._taken_bytes -= n_bytes


def free_memory_bytes() -> int:
    """Return the bytes that may still be allocated under the container's and the machine's limits."""
    free_bytes = _available_bytes()
    for limit_file, usage_file in CGROUP_FILES:
        try:
            limit, usage = Path(limit_file).read_text().strip(), Path(usage_file).read_text().strip()
        except OSError:
            continue
        if limit.isdecimal() and usage.isdecimal():  # version 2 says "max" where there is no limit
            # Usage includes file pages that the kernel can drop; this process's resident memory does not.
            free_bytes = min(free_bytes, max(int(limit) - int(usage), int(limit) - resident_bytes()))
    return free_bytes


def resident_bytes(process: int | Literal["self"] = "self") -> int:
    """Return a process's resident memory, in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
