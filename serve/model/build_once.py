"""Build a directory of a cache once, under a lock, however many processes want it."""

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
    """Make `target` unless it is there; return whether it was made now.

    Args:
        target: Directory; an incomplete older one is replaced.
        is_whole: Whether `target` can be used as it is; asked once the lock is held.
        build: Makes the directory it is given; temporary files may lie beside it.
        failure: Makes the error for a lock that is never released.

    Raises:
        StartupError: `failure`, when another process holds the lock for too long.
        OSError: The disk refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{target}.lock", timeout=LOCK_TIMEOUT_S):
            if is_whole():  # another process made it while we waited
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
