"""Recognise files that file managers leave behind in directories and archives."""

from __future__ import annotations

from pathlib import PurePath

_NAMES = frozenset((".ds_store", "thumbs.db", "desktop.ini", "__macosx"))


def is_junk(path: PurePath | str) -> bool:
    """Tell whether a file is a file manager's metadata, such as `._speech.wav`, or below `__MACOSX`."""
    parts = PurePath(path).parts
    if not parts:
        return False
    name = parts[-1].lower()
    return name.startswith("._") or name in _NAMES or "__MACOSX" in parts
