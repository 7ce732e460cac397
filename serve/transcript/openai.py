"""Answers in the words of OpenAI's audio API: `json`, `text`, `verbose_json`, and the events of a stream.

`srt` and `vtt` are `serve.transcript.formats`' own. Knows no options and no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from serve.transcript.events import End, Event, Failure, Segment
from serve.transcript.formats import Encoder, Format, named_format
from serve.transcript.lines import one_line
from serve.transcript.wire import UsageBody, encode_json, usage_body, verbose_body

FormatName = Literal["json", "text", "srt", "verbose_json", "vtt"]
ErrorKind = Literal["invalid_request_error", "rate_limit_error", "server_error"]
"""Whose fault an error is: the caller's, nobody's, the service's."""


class LogprobBody(msgspec.Struct, frozen=True, kw_only=True):
    """A token and the natural logarithm of its probability."""

    token: str
    """Text; a part of a letter is written as U+FFFD."""
    bytes: list[int]
    """UTF-8 of the token, which need not be whole letters."""
    logprob: float


class TextBody(msgspec.Struct, frozen=True, kw_only=True):
    """The `json` answer."""

    text: str
    logprobs: list[LogprobBody] | UnsetType = UNSET
    usage: UsageBody


class DeltaEvent(msgspec.Struct, tag_field="type", tag="transcript.text.delta", frozen=True, kw_only=True):
    """Text that was heard since the last event; all deltas together are the text of the last event."""

    delta: str
    logprobs: list[LogprobBody] | UnsetType = UNSET


class DoneEvent(msgspec.Struct, tag_field="type", tag="transcript.text.done", frozen=True, kw_only=True):
    """Last event of a stream that went well."""

    text: str
    logprobs: list[LogprobBody] | UnsetType = UNSET


class OpenAIErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, for machines and for people."""

    message: str
    type: ErrorKind
    """Whose fault it is."""
    param: str | None = None
    """Name of the option that is refused."""
    code: str


class OpenAIErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an answer with an error status, and the last event of a stream that broke off."""

    error: OpenAIErrorBody


class OpenAIJsonEncoder:
    """The text alone."""

    def __init__(self, *, logprobs: bool = False) -> None:
        """Say whether the probabilities of tokens are told."""
        self._logprobs = logprobs

    def encode(self, event: Event) -> bytes:
        """Return the whole text at the `End`, nothing before."""
        match event:
            case End(transcript=transcript):
                body = TextBody(
                    text=transcript.text,
                    logprobs=_logprobs(transcript.segments, told=self._logprobs),
                    usage=usage_body(transcript),
                )
                return encode_json(body) + b"\n"
        return b""


class OpenAIVerboseEncoder:
    """The text with the times of segments, of words, or of both."""

    def __init__(self, *, segments: bool, words: bool) -> None:
        self._segments, self._words = segments, words

    def encode(self, event: Event) -> bytes:
        """Return the whole transcript at the `End`, nothing before."""
        match event:
            case End(transcript=transcript):
                body = verbose_body(transcript)
                body = msgspec.structs.replace(
                    body,
                    segments=body.segments if self._segments else UNSET,
                    words=(body.words or []) if self._words else UNSET,
                )
                return encode_json(body) + b"\n"
        return b""


class OneLineEncoder:
    """The text as one line, which is what `json` holds."""

    def encode(self, event: Event) -> bytes:
        """Return the text at the `End`, nothing before."""
        match event:
            case End(transcript=transcript):
                return f"{one_line(transcript.text)}\n".encode()
        return b""


class OpenAIStreamEncoder:
    """Server-sent events: a delta for each segment, and the whole text at the end."""

    def __init__(self, *, logprobs: bool = False) -> None:
        """Say whether the probabilities of tokens are told."""
        self._logprobs = logprobs
        self._is_first = True

    def encode(self, event: Event) -> bytes:
        """Return the event as one server-sent event."""
        match event:
            case Segment(text=text) if text.strip():
                delta = text.strip() if self._is_first else f" {text.strip()}"
                self._is_first = False
                return _sent(DeltaEvent(delta=delta, logprobs=_logprobs([event], told=self._logprobs)))
            case End(transcript=transcript):
                logprobs = _logprobs(transcript.segments, told=self._logprobs)
                return _sent(DoneEvent(text=transcript.text, logprobs=logprobs))
            case Failure(code=code, message=message, is_callers=is_callers):
                kind: ErrorKind = "invalid_request_error" if is_callers else "server_error"
                return _sent(openai_error(code, message, kind))
        return b""


def openai_format(name: FormatName, *, segments: bool, words: bool, logprobs: bool) -> Format:
    """Return the format of an answer that is sent whole, so that whatever goes wrong has a status.

    Args:
        name: OpenAI's name of the format.
        segments: Whether `verbose_json` has the times of segments.
        words: Whether it has those of words.
        logprobs: Whether `json` has the probabilities of tokens.
    """

    def new_encoder() -> Encoder:
        if name == "json":
            return OpenAIJsonEncoder(logprobs=logprobs)
        if name == "verbose_json":
            return OpenAIVerboseEncoder(segments=segments, words=words)
        return OneLineEncoder() if name == "text" else usual.new_encoder()

    usual = named_format(name)
    return replace(usual, new_encoder=new_encoder, streams=False)


def openai_stream(*, logprobs: bool) -> Format:
    """Return the format of a streamed answer."""
    return replace(named_format("sse"), new_encoder=lambda: OpenAIStreamEncoder(logprobs=logprobs))


def openai_error(code: str, message: str, kind: ErrorKind, param: str | None = None) -> OpenAIErrorAnswer:
    """Return an error as OpenAI words it.

    Args:
        code: Stable and machine-readable.
        message: One sentence for people.
        kind: Whose fault it is.
        param: Name of the option that is refused.
    """
    return OpenAIErrorAnswer(error=OpenAIErrorBody(message=message, type=kind, param=param, code=code))


def _sent(body: msgspec.Struct) -> bytes:
    return b"data: %s\n\n" % encode_json(body)


def _logprobs(segments: Iterable[Segment], *, told: bool) -> list[LogprobBody] | UnsetType:
    """Return the probabilities of the tokens of segments, if they are told."""
    if not told:
        return UNSET
    return [
        LogprobBody(
            token=each.text.decode(errors="replace"), bytes=list(each.text), logprob=round(each.logprob, 4)
        )
        for segment in segments
        for each in segment.scored_tokens
    ]
