"""Decode a recording that is written as base64 text."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

import numpy as np

from serve.errors import RequestError

PIECE = 1 << 18
"""Letters rewritten at a time, between which other threads run."""

_DATA_URL = re.compile(rb"\s*data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)
_INVISIBLE = tuple(sign.encode() for sign in "\ufeff\u200b\u00a0")
"""A byte order mark and spaces that editors and web pages put in."""
_TO_PLAIN = bytes.maketrans(b"-_", b"+/")
_NO_DIGIT = 16
_HEX = np.array(
    [int(chr(byte), 16) if chr(byte) in "0123456789abcdefABCDEF" else _NO_DIGIT for byte in range(256)],
    np.uint8,
)
"""Byte -> the value of the hexadecimal digit that it writes."""


def decode_base64(text: str) -> bytes:
    """Decode base64 in either alphabet, with or without line breaks and padding, or as a `data:` URL.

    In such a URL, signs may be escaped with `%` (RFC 2397).

    Raises:
        RequestError: The text is not base64.
    """
    encoded = text.encode() if text.isascii() else b"".join(_visible(text))
    if (url := _DATA_URL.match(encoded)) is not None:
        encoded = b"".join(_unescaped(encoded, url.end()))
    encoded = encoded.translate(_TO_PLAIN, delete=b" \t\r\n\f\v")
    bare = encoded.rstrip(b"=")
    try:
        return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"the field 'audio' is not base64: {error}") from error


def _visible(text: str) -> Iterator[bytes]:
    """Yield a text in UTF-8, without invisible signs; `str.translate` looks each letter up in a table."""
    for start in range(0, len(text), PIECE):
        piece = text[start : start + PIECE].encode("utf-8", errors="replace")
        for sign in _INVISIBLE:
            piece = piece.replace(sign, b"")
        yield piece


def _unescaped(encoded: bytes, start: int) -> Iterator[bytes]:
    """Yield what follows from `start` on without escapes; `unquote_to_bytes` makes an object of each."""
    while start < len(encoded):
        end = start + PIECE
        if end < len(encoded) and (cut := encoded.rfind(b"%", end - 2, end)) >= 0:
            end = cut  # so that no escape is torn
        signs = np.frombuffer(encoded[start:end], np.uint8)
        at = np.flatnonzero(signs[:-2] == ord("%"))
        at = at[(_HEX[signs[at + 1]] < _NO_DIGIT) & (_HEX[signs[at + 2]] < _NO_DIGIT)]
        plain = signs.copy()
        plain[at] = _HEX[signs[at + 1]] << 4 | _HEX[signs[at + 2]]
        yield np.delete(plain, np.concatenate((at + 1, at + 2))).tobytes()
        start = end
