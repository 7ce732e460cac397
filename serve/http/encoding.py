"""Undo the `Content-Encoding` of a body while it arrives (RFC 9110, section 8.4): gzip or deflate.

A few kilobytes may decode to gigabytes, so what comes out comes in pieces of bounded length, and whoever
takes them can stop.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Literal

from serve.errors import RequestError, UnsupportedMediaType

PIECE_BYTES = 1 << 20
"""Longest piece that is decoded at a time."""

Encoding = Literal["gzip", "deflate"]

_NAMES: dict[str, Encoding] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


class Decoder:
    """Undoes one encoding."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._stream: zlib._Decompress | None = None
        self._begun = b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of a body decode to; a piece may be empty.

        Raises:
            RequestError: They are not encoded as was said.
        """
        while data:
            if self._stream is None or (self._stream.eof and self._encoding == "gzip"):
                # Members of gzip may follow each other; after the last one, some writers fill up with zeros.
                data = data if self._stream is None else data.lstrip(b"\0")
                self._begun += data
                if len(self._begun) < 2:
                    return
                data, self._begun = self._begun, b""
                self._stream = zlib.decompressobj(_window_bits(self._encoding, data))
            elif self._stream.eof:
                return
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise RequestError(
                    f"the body is not encoded as {self._encoding}, which its Content-Encoding says: {error}"
                ) from error
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            yield piece

    def check_end(self) -> None:
        """Refuse a body that ended before its encoding did; an empty one is empty.

        Raises:
            RequestError: It did.
        """
        if self._begun or (self._stream is not None and not self._stream.eof):
            raise RequestError(f"the body ends in the middle of its {self._encoding} encoding")


def decoder_of(content_encoding: str | None) -> Decoder | None:
    """Return what undoes the encoding that a header names; None where there is none.

    Raises:
        UnsupportedMediaType: It is not known, or there are several, one over the other.
    """
    named = [name.strip().lower() for name in (content_encoding or "").split(",")]
    encodings = [name for name in named if name not in ("", "identity")]
    if not encodings:
        return None
    if len(encodings) > 1 or encodings[0] not in _NAMES:
        raise UnsupportedMediaType(
            f"content encoding '{', '.join(encodings)[:60]}' is not read; send gzip, deflate, or the bytes as"
            " they are"
        )
    return Decoder(_NAMES[encodings[0]])


def _window_bits(encoding: Encoding, data: bytes) -> int:
    """Return zlib's word for a format; what is called deflate comes with zlib's header, or without."""
    if encoding == "gzip":
        return 16 + zlib.MAX_WBITS
    has_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
