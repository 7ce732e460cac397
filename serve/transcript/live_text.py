"""The text frames of live streams: our own protocol's, and those of SageMaker's stream."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from serve.transcript.events import LiveDone, LiveEvent, LivePhrase, LiveWords, Segment, Word
from serve.transcript.wire import PlacedWord, SegmentBody, encode_json, segment_body


class SessionFrame(msgspec.Struct, tag="session", frozen=True, kw_only=True):
    """First frame of a stream."""

    token: str
    """With it a client that lost its connection comes back."""
    received_bytes: int
    """Bytes of sound received so far; a client that comes back goes on behind them."""


class WordsFrame(msgspec.Struct, tag="words", frozen=True, kw_only=True):
    """Words of the open phrase."""

    seq: int
    committed: list[PlacedWord]
    """New final words."""
    partial: str
    """The text behind all committed words; it replaces the partial text before it."""
    lag_s: float


class PhraseFrame(msgspec.Struct, tag="phrase", frozen=True, kw_only=True):
    """A phrase that is over."""

    seq: int
    segment: SegmentBody
    lag_s: float


class FinalizedFrame(msgspec.Struct, tag="finalized", frozen=True, kw_only=True):
    """All words that were spoken before `finalize` are committed."""

    seq: int


class ErrorFrame(msgspec.Struct, tag="error", frozen=True, kw_only=True):
    """Last frame of a stream that broke off."""

    code: str
    message: str


class ClosedFrame(msgspec.Struct, tag="closed", frozen=True, kw_only=True):
    """Last frame of a stream that is complete."""


Frame = SessionFrame | WordsFrame | PhraseFrame | FinalizedFrame | ErrorFrame | ClosedFrame


def live_frame(seq: int, event: LiveEvent) -> WordsFrame | PhraseFrame | FinalizedFrame:
    """Return an event in our own protocol."""
    if isinstance(event, LiveDone):
        return FinalizedFrame(seq=seq)
    lag_s = round(event.lag_s, 3)
    if isinstance(event, LivePhrase):
        return PhraseFrame(seq=seq, segment=segment_body(SegmentBody, event.segment), lag_s=lag_s)
    return WordsFrame(
        seq=seq, committed=[placed(word) for word in event.committed], partial=event.partial, lag_s=lag_s
    )


def placed(word: Word) -> PlacedWord:
    """Return a word with its times, in seconds of the stream."""
    return PlacedWord(word=word.text, start=round(word.start_s, 3), end=round(word.end_s, 3))


def encode_frame(frame: Frame) -> str:
    return encode_json(frame).decode()


class LiveBody(SegmentBody, frozen=True, kw_only=True):
    """Text of SageMaker's stream. Times are seconds from the start of the stream."""

    is_final: bool = False


class _StreamError(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    error_code: str
    message: str


class _StreamErrorFrame(msgspec.Struct, frozen=True, kw_only=True):
    """SageMaker's format for errors of streams."""

    model_stream_error: _StreamError = msgspec.field(name="ModelStreamError")


def encode_live(event: LiveWords | LivePhrase, *, words: bool) -> str:
    """Return an event of SageMaker's stream: the open phrase so far, or a whole one."""
    is_final = isinstance(event, LivePhrase)
    segment: Segment = event.phrase if isinstance(event, LiveWords) else event.segment
    if not words or not is_final:
        segment = replace(segment, words=())
    body = segment_body(LiveBody, segment)
    return encode_json(msgspec.structs.replace(body, is_final=is_final)).decode()


def encode_stream_error(code: str, message: str) -> str:
    error = _StreamError(error_code=code, message=message)
    return encode_json(_StreamErrorFrame(model_stream_error=error)).decode()
