"""Read a request's body into audio bytes and options, within limits on bytes, parts and time.

A body has no place in the service while it arrives, so it is held to a least rate, and all bodies that are
arriving share one allowance of memory.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from litestar.types import HTTPRequestEvent, Receive
from multipart import MultipartError, MultipartParser, MultipartPart, parse_options_header
from sagemaker_inference import content_types

from serve.audio.base64_text import decode_base64
from serve.audio.samples import Samples
from serve.config.settings import Settings
from serve.errors import Overloaded, PayloadTooLarge, RequestError, UnsupportedMediaType, UnsupportedOption
from serve.http.door.encoding import decoder_of
from serve.http.door.json_text import read_object
from serve.http.errors import BodyTimeout, ClientGone
from serve.options import KNOWN_OPTIONS

AUDIO_FIELD = "audio"
"""Field of a JSON body that holds the recording in base64."""

FILE_FIELD = "file"
"""Field of a form that holds the recording; any other field may hold it if that is the form's only file."""

FORM = "multipart/form-data"

LIST_MARK = "[]"
"""Ends the name of a field of a form that may come several times, as in `timestamp_granularities[]`."""

MAX_FORM_PARTS = 256
MAX_FORM_FIELD_BYTES = 16 * 1024
MAX_FORM_TEXT_BYTES = 64 * 1024

BodyKind = Literal["raw", "form", "json"]

_BYTES_OF_ANY_KIND = frozenset(
    ("octet-stream", "x-octet-stream", "binary", "x-binary", "unknown", "x-unknown", "force-download")
)
"""Subtypes sent by programs that do not know the type, such as S3's `binary/octet-stream`."""

_CONTAINERS = frozenset(("application/ogg", "application/x-ogg", "application/mp4", "application/x-matroska"))

CHARSETS = frozenset(
    ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252", "cp1252")
)
"""Encodings of a form's fields that are read."""

LEAST_BYTES_PER_S = 256
"""Least average rate at which a body must arrive; 4.75 kbit/s telephone speech comes faster."""

GRACE_S = 10.0
"""Time before the rate counts."""

SMALL_BYTES = 1 << 20
"""Bodies up to this size may also use the part of the allowance that is kept for them."""

KEPT_FOR_SMALL = 0.25
"""That part."""


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """Limits on the size and the arrival of a body."""

    max_body_bytes: int
    timeout_s: float
    idle_timeout_s: float


class ArrivingBytes:
    """The allowance of all bodies that are arriving. Used on the event loop only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.n_bytes = 0

    def take(self, n_bytes: int, body_bytes: int) -> None:
        """Take memory for the next bytes of a body that has so many by now.

        Raises:
            Overloaded: Other bodies have taken it.
        """
        limit = self._limit_bytes if body_bytes <= SMALL_BYTES else self._limit_bytes * (1 - KEPT_FOR_SMALL)
        if self.n_bytes + n_bytes > limit:
            raise Overloaded(2)
        self.n_bytes += n_bytes


def body_limits(settings: Settings) -> BodyLimits:
    """Return the limits of a body that holds a recording."""
    return BodyLimits(
        max_body_bytes=settings.max_body_bytes,
        timeout_s=settings.body_timeout_s,
        idle_timeout_s=settings.body_idle_timeout_s,
    )


@dataclass(frozen=True, kw_only=True)
class ParsedBody:
    """The recording and the options of a body."""

    audio: bytes | Samples
    options: Mapping[str, Any]
    typed: bool
    """Whether option values have JSON's types; otherwise they are strings."""


def body_kind(content_type: str | None) -> BodyKind:
    """Return how to read a body of this content type; None counts as raw bytes.

    Raises:
        UnsupportedMediaType: Bodies of this type are not supported.
    """
    media_type = (content_type or content_types.OCTET_STREAM).partition(";")[0].strip().lower()
    if media_type == content_types.JSON:
        return "json"
    if media_type == FORM:
        return "form"
    main_type, _, subtype = media_type.partition("/")
    if main_type in ("", "audio", "video") or subtype in _BYTES_OF_ANY_KIND or media_type in _CONTAINERS:
        return "raw"
    raise UnsupportedMediaType(
        f"content type '{media_type[:80]}' is not read; send audio/*, video/*, application/octet-stream,"
        " multipart/form-data or application/json"
    )


async def read_body(
    receive: Receive, headers: Mapping[str, str], limits: BodyLimits, arriving: ArrivingBytes
) -> bytes:
    """Read and decode a whole body, within limits that do not rely on its declared length.

    Args:
        headers: The request's headers; `content-length` and `content-encoding` are used.
        limits: Apply to the body both as sent and as decoded.
        arriving: The allowance of all bodies; what is taken from it is given back at the end.

    Raises:
        UnsupportedMediaType: The content encoding is not supported.
        PayloadTooLarge: The body exceeds the size limit.
        RequestError: The body is not encoded as its headers say.
        BodyTimeout: The body did not arrive in time.
        Overloaded: Other bodies take all memory.
        ClientGone: The client left.
    """
    decoder = decoder_of(headers.get("content-encoding"))
    announced = headers.get("content-length")
    if announced is not None and announced.isdecimal() and int(announced[:20]) > limits.max_body_bytes:
        raise PayloadTooLarge(limits.max_body_bytes)
    # BytesIO gives its bytes away without a copy, which would keep the event loop for a tenth of a second.
    body, n_received, n_taken = io.BytesIO(), 0, 0
    started = asyncio.get_running_loop().time()
    try:
        while True:
            message = await _next_message(receive, limits, started, n_received)
            n_received += len(message["body"])
            for piece in [message["body"]] if decoder is None else decoder.pieces(message["body"]):
                n_bytes = n_taken + len(piece)
                if n_bytes > limits.max_body_bytes:
                    raise PayloadTooLarge(limits.max_body_bytes)
                arriving.take(len(piece), n_bytes)
                n_taken = n_bytes
                body.write(piece)
                if decoder is not None:  # a small body may decode to a large one: let other requests run
                    await asyncio.sleep(0)
                    if asyncio.get_running_loop().time() > started + limits.timeout_s:
                        raise BodyTimeout("the body could not be decoded in time")
            if n_received > limits.max_body_bytes:
                raise PayloadTooLarge(limits.max_body_bytes)
            if not message["more_body"]:
                if decoder is not None:
                    decoder.check_end()
                return body.getvalue()
    finally:
        arriving.n_bytes -= n_taken


async def _next_message(
    receive: Receive, limits: BodyLimits, started: float, n_received: int
) -> HTTPRequestEvent:
    """Return the next part of a body.

    Raises:
        BodyTimeout: It did not arrive in time.
        ClientGone: The client left.
    """
    passed_s = asyncio.get_running_loop().time() - started
    allowed_s = min(limits.timeout_s, GRACE_S + n_received / LEAST_BYTES_PER_S)
    try:
        async with asyncio.timeout(max(0.0, min(allowed_s - passed_s, limits.idle_timeout_s))):
            message = await receive()
    except TimeoutError as error:
        raise BodyTimeout("the body did not arrive in time") from error
    if message["type"] != "http.request":
        raise ClientGone
    return message


def parse_body(body: bytes, kind: BodyKind, content_type: str | None) -> ParsedBody:
    """Split a body into the recording and the options.

    Raises:
        RequestError: The body is malformed, or holds no recording.
    """
    if kind == "raw":
        return ParsedBody(audio=body, options={}, typed=False)
    return _parse_json(body) if kind == "json" else _parse_form(body, content_type or "")


def _parse_json(body: bytes) -> ParsedBody:
    fields = read_object(body)
    encoded = fields.pop(AUDIO_FIELD, None)
    if not isinstance(encoded, str):
        raise RequestError(f"the body has no field '{AUDIO_FIELD}' with a recording in base64")
    return ParsedBody(audio=decode_base64(encoded), options=fields, typed=True)


def _parse_form(body: bytes, content_type: str) -> ParsedBody:
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get("boundary")
    if not boundary:
        raise RequestError("the content type names no boundary between the parts of the form")
    # The whole body is in memory and its size is checked, so parts need no files on disk.
    memory = {"spool_limit": len(body) + 1, "memory_limit": 2 * len(body) + 1, "disk_limit": 0}
    parser = MultipartParser(io.BytesIO(body), boundary, part_limit=MAX_FORM_PARTS, **memory)
    try:
        parts = [part for part in parser if part.filename != "" or part.size]  # drop empty file fields
        recording = _recording_of(parts)
        options: dict[str, Any] = {}
        for part in parts:
            if part is recording:
                continue
            if _is_file(part):
                raise UnsupportedOption(
                    part.name[:60], f"is a file beside the recording in the field '{recording.name[:60]}'"
                )
            if part.name.endswith(LIST_MARK):
                options.setdefault(part.name, []).append(_text_of(part))
            else:
                options[part.name] = _text_of(part)
    except (MultipartError, ValueError) as error:  # ValueError: no text in its encoding
        raise RequestError(f"the body is not a form: {str(error)[:200]}") from error
    return ParsedBody(audio=recording.raw, options=options, typed=False)


def _text_of(part: MultipartPart) -> str:
    """Return the text of a field.

    Raises:
        RequestError: It is in an encoding that is not read.
        UnicodeDecodeError: It is no text in its encoding.
    """
    if part.charset.lower() not in CHARSETS:
        raise RequestError(f"charset '{part.charset[:40]}' is not read; send UTF-8")
    if part.size > MAX_FORM_TEXT_BYTES:
        raise UnsupportedOption(part.name[:60], f"is longer than {MAX_FORM_TEXT_BYTES >> 10} KiB")
    text: str = part.value
    return text


def _recording_of(parts: list[MultipartPart]) -> MultipartPart:
    """Return the part of a form that holds the recording.

    Raises:
        RequestError: No part does, or several might.
    """
    named = [part for part in parts if part.name == FILE_FIELD]
    found = named or [part for part in parts if _is_file(part)]
    if not found:
        raise RequestError(f"the form has no file; send the recording as the field '{FILE_FIELD}'")
    if len(found) > 1:
        names = ", ".join(f"'{part.name[:60]}'" for part in found[:5])
        raise RequestError(
            f"the form has {len(found)} files, in the fields {names}; send one recording, as the field"
            f" '{FILE_FIELD}'"
        )
    return found[0]


def _is_file(part: MultipartPart) -> bool:
    """Tell whether a part of a form is a file, by its headers or its size."""
    if part.filename is not None or not (part.content_type or "text/plain").startswith("text/"):
        return True
    return part.size > MAX_FORM_FIELD_BYTES and part.name not in KNOWN_OPTIONS
