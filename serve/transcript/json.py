"""Formats that are one JSON document, sent at the end: `json` and OpenAI's `verbose_json`."""

from __future__ import annotations

from serve.transcript.events import End, Event, Failure
from serve.transcript.wire import encode_error, encode_json, transcript_body, verbose_body


class JsonEncoder:
    """The whole transcript with all its fields."""

    def encode(self, event: Event) -> bytes:
        match event:
            case End(transcript=transcript, processing_s=processing_s):
                return encode_json(transcript_body(transcript, processing_s)) + b"\n"
            case Failure(code=code, message=message):
                return encode_error(code, message)
        return b""


class VerboseJsonEncoder:
    """The whole transcript with only the fields of OpenAI's transcription API."""

    def encode(self, event: Event) -> bytes:
        match event:
            case End(transcript=transcript):
                return encode_json(verbose_body(transcript)) + b"\n"
            case Failure(code=code, message=message):
                return encode_error(code, message)
        return b""
