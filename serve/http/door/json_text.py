"""Decode a client's JSON, once a count of its brackets and commas shows that it is small.

    fields = read_object(body)                     # a dict; long strings, such as base64, may be in it
    settings = read_object(frame, SettingsStruct)

A hundred megabytes of small lists take gigabytes as Python objects, and deep nesting exhausts the stack. What
requests hold is one long string and a few short values, so everything else is counted first, in C.
"""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

from serve.errors import RequestError

T = TypeVar("T")

MAX_BRACKETS = 256
"""Lists and objects in a body, which bounds its depth, too."""

MAX_SEPARATORS = 16_384
"""Commas and colons in a body, those within texts included."""

PIECE_BYTES = 1 << 20
"""Bytes counted at a time, between which other threads run."""

BOM = b"\xef\xbb\xbf"
"""Byte order mark, which some programs write before any text, even JSON."""


@overload
def read_object(text: bytes | str) -> dict[str, Any]: ...
@overload
def read_object(text: bytes | str, kind: type[T]) -> T: ...
def read_object(text: bytes | str, kind: Any = dict[str, Any]) -> Any:
    """Decode a JSON object.

    Args:
        kind: What to decode it to.

    Raises:
        RequestError: It is no JSON, has too many parts, holds text that is not Unicode, or does not fit.
    """
    data = text.encode("utf-8", errors="replace") if isinstance(text, str) else text.removeprefix(BOM)
    _check_parts(data)
    try:
        decoded = msgspec.json.decode(data, type=kind)
        _check_text(decoded)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:  # ValueError: no Unicode, huge numbers
        raise RequestError(f"the JSON object cannot be read: {str(error)[:200]}") from error
    return decoded


def _check_parts(data: bytes) -> None:
    n_brackets = n_separators = 0
    for at in range(0, len(data), PIECE_BYTES):
        piece = data[at : at + PIECE_BYTES]
        n_brackets += piece.count(b"[") + piece.count(b"{")
        n_separators += piece.count(b",") + piece.count(b":")
        if n_brackets > MAX_BRACKETS or n_separators > MAX_SEPARATORS:
            raise RequestError(
                f"the JSON object has too many parts: at most {MAX_BRACKETS} lists and objects, and"
                f" {MAX_SEPARATORS} commas and colons, are read"
            )


def _check_text(value: object) -> None:
    """Refuse lone surrogates, which no answer and no log could repeat."""
    if isinstance(value, str):
        if not value.isascii():
            value.encode()  # raises UnicodeEncodeError, a ValueError
    elif isinstance(value, dict):
        for each in (*value, *value.values()):
            _check_text(each)
    elif isinstance(value, list):
        for each in value:
            _check_text(each)
