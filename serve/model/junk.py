"""Which files of a directory or an archive nobody put there on purpose: what file managers leave behind."""

from __future__ import annotations

from pathlib import PurePath

_NAMES = frozenset((".ds_store", "thumbs.db", "desktop.ini", "__macosx"))


def is_junk(path: PurePath | str) -> bool:
    """Tell whether a file is another program's note, such as macOS's `._speech.wav`.

    Args:
        path: Path whose last part is looked at, and whether a folder `__MACOSX` is above it.
    """
    parts = PurePath(path).parts
    if not parts:
        return False
    name = parts[-1].lower()
    return name.startswith("._") or name in _NAMES or "__MACOSX" in parts
