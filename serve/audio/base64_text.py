"""Decode a recording that is written as base64 text."""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from serve.errors import RequestError

_DATA_URL = re.compile(rb"\s*data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u00a0"))
"""A byte order mark and spaces that editors and web pages put in."""
_TO_PLAIN = bytes.maketrans(b"-_", b"+/")


def decode_base64(text: str) -> bytes:
    """Decode base64 in either alphabet, with or without line breaks and padding, or as a `data:` URL.

    In such a URL, signs may be escaped with `%` (RFC 2397).

    Raises:
        RequestError: The text is not base64.
    """
    if not text.isascii():
        text = text.translate(_INVISIBLE)
    encoded = text.encode("utf-8", errors="replace")
    if (url := _DATA_URL.match(encoded)) is not None:
        encoded = unquote_to_bytes(encoded[url.end() :])
    encoded = encoded.translate(_TO_PLAIN, delete=b" \t\r\n\f\v")
    bare = encoded.rstrip(b"=")
    try:
        return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"the field 'audio' is not base64: {error}") from error
