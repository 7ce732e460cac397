"""Decode the `Content-Encoding` of a body while it arrives (RFC 9110, section 8.4): gzip or deflate.

A few kilobytes may decode to gigabytes, so the output comes in pieces of bounded length, and the caller can
stop at any of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Literal

from serve.errors import RequestError, UnsupportedMediaType

PIECE_BYTES = 1 << 20
"""Longest piece of output."""

Encoding = Literal["gzip", "deflate"]

_NAMES: dict[str, Encoding] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


class Decoder:
    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._stream: zlib._Decompress | None = None
        self._begun = b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded form of the body's next bytes; a piece may be empty.

        Raises:
            RequestError: The bytes are not validly encoded.
        """
        while data:
            if self._stream is None or (self._stream.eof and self._encoding == "gzip"):
                # gzip members may follow each other; some writers pad the last one with zeros.
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
        """Refuse a body that ended inside its encoding; an empty body is allowed.

        Raises:
            RequestError: The body is incomplete.
        """
        if self._begun or (self._stream is not None and not self._stream.eof):
            raise RequestError(f"the body ends in the middle of its {self._encoding} encoding")


def decoder_of(content_encoding: str | None) -> Decoder | None:
    """Return the decoder for a `Content-Encoding` header; None where there is no encoding.

    Raises:
        UnsupportedMediaType: The encoding is unknown, or there are several.
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
    """Return zlib's `wbits` for an encoding; deflate comes with or without zlib's header."""
    if encoding == "gzip":
        return 16 + zlib.MAX_WBITS
    has_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
