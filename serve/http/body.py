"""The body of a request -> audio bytes and options, within limits on bytes, parts and time."""

from __future__ import annotations

import asyncio
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from litestar.types import Receive
from multipart import MultipartError, MultipartParser, parse_options_header
from sagemaker_inference import content_types

from serve.audio.samples import Samples
from serve.errors import PayloadTooLarge, RequestError, UnsupportedMediaType
from serve.http.errors import BodyTimeout, ClientGone

AUDIO_FIELD = "audio"
"""Of a JSON body: the recording in base64."""

FILE_FIELD = "file"
"""Of a form: the recording."""

MAX_FORM_PARTS = 32
MAX_FORM_FIELD_BYTES = 16 * 1024

BodyKind = Literal["raw", "form", "json"]


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """How much of a body is read, and for how long."""

    max_body_bytes: int
    timeout_s: float
    idle_timeout_s: float


@dataclass(frozen=True, kw_only=True)
class ParsedBody:
    """What a body holds."""

    audio: bytes | Samples
    options: Mapping[str, Any]
    typed: bool
    """Whether option values have JSON's types; otherwise they are text."""


def body_kind(content_type: str | None) -> BodyKind:
    """Say how a body of this content type is read; none at all counts as raw bytes.

    Raises:
        UnsupportedMediaType: It is not read.
    """
    media_type = (content_type or content_types.OCTET_STREAM).partition(";")[0].strip().lower()
    if media_type == content_types.JSON:
        return "json"
    if media_type == "multipart/form-data":
        return "form"
    if media_type in ("", content_types.OCTET_STREAM, "application/ogg"):
        return "raw"
    if media_type.startswith(("audio/", "video/")):
        return "raw"
    raise UnsupportedMediaType(
        f"content type '{media_type[:80]}' is not read; send audio/*, video/*, application/octet-stream,"
        " multipart/form-data or application/json"
    )


async def read_body(receive: Receive, content_length: str | None, limits: BodyLimits) -> bytes:
    """Read a whole body, counting what arrives whatever was announced.

    Raises:
        PayloadTooLarge: It is longer than the limit.
        BodyTimeout: It took too long, or paused for too long.
        ClientGone: The client left.
    """
    if (
        content_length is not None
        and content_length.isdigit()
        and int(content_length) > limits.max_body_bytes
    ):
        raise PayloadTooLarge(limits.max_body_bytes)
    body = bytearray()
    deadline = asyncio.get_running_loop().time() + limits.timeout_s
    while True:
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.0, min(left_s, limits.idle_timeout_s))):
                message = await receive()
        except TimeoutError as error:
            raise BodyTimeout("the body did not arrive in time") from error
        if message["type"] != "http.request":
            raise ClientGone
        body += message["body"]
        if len(body) > limits.max_body_bytes:
            raise PayloadTooLarge(limits.max_body_bytes)
        if not message["more_body"]:
            return bytes(body)


def parse_body(body: bytes, kind: BodyKind, content_type: str | None) -> ParsedBody:
    """Take the recording and the options out of a body.

    Raises:
        RequestError: The body is malformed, or holds no recording.
    """
    if kind == "raw":
        return ParsedBody(audio=body, options={}, typed=False)
    return _parse_json(body) if kind == "json" else _parse_form(body, content_type or "")


def _parse_json(body: bytes) -> ParsedBody:
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not a JSON object: {error}") from error
    encoded = fields.pop(AUDIO_FIELD, None)
    if not isinstance(encoded, str):
        raise RequestError(f"the body has no field '{AUDIO_FIELD}' with a recording in base64")
    try:
        audio = binascii.a2b_base64(encoded, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"the field '{AUDIO_FIELD}' is not base64: {error}") from error
    return ParsedBody(audio=audio, options=fields, typed=True)


def _parse_form(body: bytes, content_type: str) -> ParsedBody:
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get("boundary")
    if not boundary:
        raise RequestError("the content type names no boundary between the parts of the form")
    audio: bytes | None = None
    options: dict[str, Any] = {}
    # The whole body is in memory already and its size is checked, so parts need no files on disk.
    memory = {"spool_limit": len(body) + 1, "memory_limit": 2 * len(body) + 1, "disk_limit": 0}
    parser = MultipartParser(io.BytesIO(body), boundary, part_limit=MAX_FORM_PARTS, **memory)
    try:
        for part in parser:
            if part.name == FILE_FIELD:
                if audio is not None:
                    raise RequestError(f"the form has more than one field '{FILE_FIELD}'")
                audio = part.raw
            elif part.size > MAX_FORM_FIELD_BYTES:
                raise RequestError(f"the field '{part.name[:60]}' of the form is too long")
            else:
                options[part.name] = part.value
    except (MultipartError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not a form: {error}") from error
    if audio is None:
        raise RequestError(f"the form has no field '{FILE_FIELD}' with a recording")
    return ParsedBody(audio=audio, options=options, typed=False)
