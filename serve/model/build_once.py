"""Build a directory of a cache once, under a lock that works across processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from serve.errors import StartupError
from serve.model.durable_write import put_in_place

LOCK_TIMEOUT_S = 900


def build_once(
    target: Path,
    is_whole: Callable[[], bool],
    build: Callable[[Path], None],
    failure: Callable[[str], StartupError],
) -> bool:
    """Build `target` unless it is complete; return whether it was built now.

    Args:
        target: Directory; an incomplete older one is replaced.
        is_whole: Tells whether `target` is complete; called once the lock is held.
        build: Creates the directory it is given; temporary files may lie beside it.
        failure: Makes the error for a lock that is never released.

    Raises:
        StartupError: Made by `failure`, if another process holds the lock for too long.
        OSError: The directory cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{target}.lock", timeout=LOCK_TIMEOUT_S):
            if is_whole():  # another process built it in the meantime
                return False
            with TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
                building = Path(scratch) / "building"
                build(building)
                put_in_place(building, target)
    except Timeout as error:
        raise failure(
            f"another process holds {target}.lock for {LOCK_TIMEOUT_S} s: remove it if none is running"
        ) from error
    return True
