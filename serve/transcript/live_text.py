"""The text frames of a live stream: final text, partial text, or an error."""

from __future__ import annotations

import msgspec

from serve.transcript.events import LiveText
from serve.transcript.wire import SegmentBody, encode_json, segment_body


class LiveBody(SegmentBody, frozen=True, kw_only=True):
    """Text of a live stream. Times are seconds from the start of the stream."""

    is_final: bool = False


class _StreamError(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    error_code: str
    message: str


class _StreamErrorFrame(msgspec.Struct, frozen=True, kw_only=True):
    """SageMaker's format for errors of streams."""

    model_stream_error: _StreamError = msgspec.field(name="ModelStreamError")


def encode_live(text: LiveText) -> str:
    body = segment_body(LiveBody, text.segment)
    return encode_json(msgspec.structs.replace(body, is_final=text.is_final)).decode()


def encode_stream_error(code: str, message: str) -> str:
    error = _StreamError(error_code=code, message=message)
    return encode_json(_StreamErrorFrame(model_stream_error=error)).decode()
