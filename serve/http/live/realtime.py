"""OpenAI's Realtime protocol, for transcription: /v1/realtime?intent=transcription, a WebSocket.

Both wordings of a session's settings are read: `session.update` with `audio.input`, and the older
`transcription_session.update`. A phrase is an item of the conversation; its committed words are deltas.
docs/live.md says what is honoured.
"""

from __future__ import annotations

import base64
import binascii
import math
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import websocket
from litestar.datastructures import State

from serve import errors
from serve.http.door.json_text import read_object
from serve.http.errors import OPENAI_CODES
from serve.http.live.stream import AnySocket, Stream
from serve.http.openai.models import adapter_of
from serve.service.live.settings import LEAST_PAUSE_S, MOST_PAUSE_S, LiveSettings, parse_live_settings
from serve.transcript.events import LiveDone, LiveEvent, LivePhrase, LiveWords

PATH = "/v1/realtime"
ITEM = "conversation.item.input_audio_transcription"
RATE = 24_000
FORMATS = {
    "audio/pcm": "pcm_s16le",
    "pcm16": "pcm_s16le",
    "audio/pcmu": "mulaw",
    "g711_ulaw": "mulaw",
    "audio/pcma": "alaw",
    "g711_alaw": "alaw",
}
TELEPHONE_RATE = 8_000


@websocket(PATH)
async def realtime(socket: AnySocket, state: State) -> None:
    """Transcribe speech while it is being spoken, in OpenAI's protocol."""
    await RealtimeStream(socket, state).attend()


class RealtimeStream(Stream):
    route = PATH

    def __init__(self, socket: AnySocket, state: State) -> None:
        super().__init__(socket, state)
        self._session_id, self._n_items = f"sess_{uuid.uuid4().hex}", 0
        self._session: dict[str, Any] = {"type": "transcription"}
        self._values: dict[str, Any] = {"sample_rate": RATE}
        self._has_started = False  # whether the item is known to the client
        self._previous: str | None = None

    async def read_settings(self) -> LiveSettings:
        """Take settings until the first sound."""
        query = dict(parse_qsl(self.socket.scope["query_string"].decode(errors="replace"))[:16])
        if query.get("intent", "transcription") != "transcription":
            raise errors.UnsupportedOption("intent", "only transcription is served here")
        if model := query.get("model", ""):
            self._values["adapter"] = adapter_of(self.service, model)
        await self._send(type="session.created", session=self._described())
        while True:
            frame = await self.next_frame("sound")
            message: dict[str, Any] = {}
            try:
                message = _message(frame)
                if message.get("type") not in ("session.update", "transcription_session.update"):
                    self.unread = frame
                    return parse_live_settings(self._values)
                await self._update(message)
            except errors.RequestError as error:
                await self._tell(error, message)
            else:
                kind = str(message["type"]).removesuffix("update") + "updated"
                await self._send(type=kind, session=self._described())

    async def take(self, frame: str | bytes) -> bool:
        """Take a client event; what is wrong with one is told, and the session goes on."""
        assert self.run is not None, "it is open"
        message: dict[str, Any] = {}
        try:
            message = _message(frame)
            match message.get("type"):
                case "input_audio_buffer.append":
                    await self.hear(_sound(message))
                case "input_audio_buffer.commit":
                    self.run.session.wish("finalise")
                case "input_audio_buffer.clear":
                    self.run.session.wish("clear")
                case "session.update" | "transcription_session.update":
                    raise errors.RequestError("settings cannot change once sound has come")
                case kind:
                    raise errors.RequestError(f"events of type '{str(kind)[:60]}' are not served here")
        except errors.RequestError as error:
            await self._tell(error, message)
        return True

    async def say(self, number: int, event: LiveEvent) -> None:
        """Send deltas for committed words, and the completed item for a phrase."""
        match event:
            case LiveWords():
                if event.phrase.text and not self._has_started:
                    self._has_started = True
                    start_ms = round(event.phrase.start_s * 1000)
                    await self._tell_item("input_audio_buffer.speech_started", audio_start_ms=start_ms)
                if event.committed:
                    is_first = len(event.committed) == len(event.phrase.words)
                    text = " ".join(word.text for word in event.committed)
                    await self._tell_item(
                        f"{ITEM}.delta", content_index=0, delta=text if is_first else f" {text}"
                    )
            case LivePhrase(segment=segment):
                end_ms = round(segment.end_s * 1000)
                await self._tell_item("input_audio_buffer.speech_stopped", audio_end_ms=end_ms)
                await self._complete(segment.text, segment.end_s - segment.start_s)
            case LiveDone(wish="clear"):
                self._has_started = False
                await self._send(type="input_audio_buffer.cleared")
            case LiveDone() if self._was_nothing:
                await self._complete("", 0.0)
        self._was_nothing = not isinstance(event, LivePhrase)

    _was_nothing = True
    """Whether the last event ended no phrase: a commit that ends none gets an empty item."""

    async def tell_error(self, code: str, message: str) -> None:
        """Send an error event."""
        await self._send(type="error", error=_error(code, message, None))

    async def _tell(self, error: errors.RequestError, message: Mapping[str, Any]) -> None:
        param = error.name if isinstance(error, errors.UnsupportedOption) else None
        body = _error(error.code, str(error), param)
        await self._send(type="error", error={**body, "event_id": message.get("event_id")})

    async def _complete(self, text: str, seconds: float) -> None:
        await self._tell_item("input_audio_buffer.committed", previous_item_id=self._previous)
        await self._tell_item(
            f"{ITEM}.completed",
            content_index=0,
            transcript=text,
            usage={"type": "duration", "seconds": round(seconds, 3)},
        )
        self._previous, self._has_started = self._item, False
        self._n_items += 1

    @property
    def _item(self) -> str:
        return f"item_{self._session_id[5:17]}_{self._n_items}"

    async def _tell_item(self, kind: str, **more: Any) -> None:
        await self._send(type=kind, item_id=self._item, **more)

    async def _send(self, **event: Any) -> None:
        event["event_id"] = f"event_{uuid.uuid4().hex[:20]}"
        await self.socket.send_text(msgspec.json.encode(event).decode())

    def _described(self) -> dict[str, Any]:
        return {"id": self._session_id, "object": "realtime.transcription_session", **self._session}

    async def _update(self, message: Mapping[str, Any]) -> None:
        """Take settings in either wording, all of them or none.

        Raises:
            RequestError: One is not served.
        """
        session = message.get("session")
        if not isinstance(session, dict):
            raise errors.RequestError("session must be an object")
        if session.get("type", "transcription") != "transcription":
            raise errors.UnsupportedOption("session.type", "only transcription is served here")
        if session.get("include"):
            raise errors.UnsupportedOption("session.include", "log-probabilities are not sent here")
        sound = _part(_part(session, "audio"), "input")
        older = {
            "format": session.get("input_audio_format"),
            "transcription": session.get("input_audio_transcription"),
            "turn_detection": session.get("turn_detection"),
        }
        sound = {**{name: each for name, each in older.items() if name_in(session, name)}, **sound}
        values = dict(self._values)
        if sound.get("format") is not None:
            values |= _format(sound["format"])
        if "turn_detection" in sound:
            values["pause_s"] = _pause_s(sound["turn_detection"])
        transcription = _part(sound, "transcription")
        for name in ("language", "prompt"):
            if transcription.get(name):
                values[name] = transcription[name]
        if model := str(transcription.get("model") or ""):
            values["adapter"] = adapter_of(self.service, model)
        settings = parse_live_settings(values)
        with self.service.admit(is_long=True) as place:
            await self.service.in_request_thread(partial(place.choose, settings.options))
        self._values = values
        self._session |= {name: each for name, each in session.items() if name in ("audio", *_OLDER.values())}


_OLDER = {
    "format": "input_audio_format",
    "transcription": "input_audio_transcription",
    "turn_detection": "turn_detection",
}
"""What `audio.input` has -> how the older wording has it."""


def name_in(session: Mapping[str, Any], name: str) -> bool:
    """Tell whether a session in the older wording sets something."""
    return _OLDER[name] in session


def _part(whole: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = whole.get(name) or {}
    if not isinstance(part, dict):
        raise errors.RequestError(f"{name} must be an object")
    return part


def _format(given: object) -> dict[str, Any]:
    kind = given.get("type") if isinstance(given, dict) else given
    if not isinstance(kind, str) or kind not in FORMATS:
        raise errors.UnsupportedOption("format", f"must be one of {', '.join(FORMATS)}")
    encoding = FORMATS[kind]
    rate = RATE if encoding == "pcm_s16le" else TELEPHONE_RATE
    if isinstance(given, dict) and encoding == "pcm_s16le":
        rate = given.get("rate") or RATE
    return {"encoding": encoding, "sample_rate": rate}


def _pause_s(turn_detection: object) -> float:
    """Return the pause that ends an item; without a detector only the client ends one."""
    if turn_detection is None:
        return math.inf
    silence_ms = turn_detection.get("silence_duration_ms") if isinstance(turn_detection, dict) else None
    if not isinstance(silence_ms, int | float):
        return 1.0
    return max(LEAST_PAUSE_S * 1000, min(MOST_PAUSE_S * 1000, silence_ms)) / 1000


def _message(frame: str | bytes) -> dict[str, Any]:
    if isinstance(frame, bytes):
        raise errors.RequestError("sound comes as base64 in input_audio_buffer.append, not as binary frames")
    return read_object(frame)


def _sound(message: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(str(message.get("audio", "")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.RequestError("audio must be base64") from error


def _error(code: str, message: str, param: str | None) -> dict[str, Any]:
    code = OPENAI_CODES.get(code, code)
    return {"type": "invalid_request_error", "code": code, "message": message, "param": param}
