"""How much memory loaded models may take: a limit that is set, or what the machine has left."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal

RESERVE_BYTES = 256 * 2**20
"""Of what is left, kept for recordings and batches."""

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the container this runs in; versions 2 and 1."""


class MemoryBudget:
    """What has been given out of a limit. Any thread may call it."""

    def __init__(self, limit_bytes: int | None = None, *, measured: bool = False) -> None:
        """Take the limit.

        Args:
            limit_bytes: All that is given out together.
            measured: Where there is no limit, whether to look at what the machine has left; otherwise
                anything is given.
        """
        self.limit_bytes = limit_bytes
        self._measured = measured
        self._taken_bytes = 0
        self._lock = threading.Lock()

    @property
    def taken_bytes(self) -> int:
        """What is given out."""
        return self._taken_bytes

    def fits(self, n_bytes: int, freed_bytes: int = 0) -> bool:
        """Tell whether so much could be taken, had somebody else given back so much."""
        if self.limit_bytes is not None:
            return self._taken_bytes - freed_bytes + n_bytes <= self.limit_bytes
        return not self._measured or n_bytes <= free_memory_bytes() - RESERVE_BYTES + freed_bytes

    def take(self, n_bytes: int, *, force: bool = False) -> bool:
        """Take so much, if it fits or is taken already; say whether it is."""
        with self._lock:
            if not force and not self.fits(n_bytes):
                return False
            self._taken_bytes += n_bytes
            return True

    def give_back(self, n_bytes: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._taken_bytes -= n_bytes


def free_memory_bytes() -> int:
    """Return what may still be allocated: by the container's limit where it has one, and by the machine."""
    free_bytes = _available_bytes()
    for limit_file, usage_file in CGROUP_FILES:
        try:
            limit, usage = Path(limit_file).read_text().strip(), Path(usage_file).read_text().strip()
        except OSError:
            continue
        if limit.isdecimal() and usage.isdecimal():  # version 2 says "max" where there is none
            # Pages of files that can be dropped count as used: of the process itself, what is resident does.
            free_bytes = min(free_bytes, max(int(limit) - int(usage), int(limit) - resident_bytes()))
    return free_bytes


def resident_bytes(process: int | Literal["self"] = "self") -> int:
    """Return what a process has in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
