"""Deepgram's protocol of live speech: /v1/listen, a WebSocket.

Binary frames are sound, in the encoding that the address names, or else WebM or Ogg. Text frames of clients
are `KeepAlive`, `Finalize` and `CloseStream`; those of the service are `Results`, `SpeechStarted`,
`UtteranceEnd`, `Metadata` and `Error`. docs/live.md says what is honoured.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import websocket
from litestar.datastructures import State

from serve import errors
from serve.http.door.json_text import read_object
from serve.http.live.stream import AnySocket, Stream
from serve.options import DETECT
from serve.service.live.settings import LEAST_PAUSE_S, MOST_PAUSE_S, LiveSettings, parse_live_settings
from serve.transcript.events import LiveDone, LiveEvent, LivePhrase, LiveWords, Word

PATH = "/v1/listen"
ENCODINGS = {"linear16": "pcm_s16le", "linear32": "pcm_f32le", "mulaw": "mulaw", "alaw": "alaw"}
CONTAINED = ("opus", "ogg-opus", "webm")
PASSED_OVER = frozenset(
    (
        *("model", "version", "tier", "punctuate", "smart_format", "numerals", "measurements", "dictation"),
        *("filler_words", "profanity_filter", "no_delay", "mip_opt_out", "tag", "extra"),
    )
)
"""Options that make no difference here: the text is as the model writes it."""

TERMS = ("keyterm", "keywords")
BOOST = re.compile(r":-?\d+(\.\d+)?$")
"""What keywords may end in: how likely they are."""

MULTILINGUAL = "multi"

MAX_DIGITS = 9
"""Digits of a pause that are read."""


@websocket(PATH)
async def listen(socket: AnySocket, state: State) -> None:
    """Transcribe speech while it is being spoken, in Deepgram's protocol."""
    await ListenStream(socket, state).attend()


class ListenStream(Stream):
    route = PATH

    def __init__(self, socket: AnySocket, state: State) -> None:
        super().__init__(socket, state)
        self._id = str(uuid.uuid4())
        self._created = datetime.now(UTC)
        self._shows_partial = self._tells_starts = self._tells_ends = False
        self._is_open = False  # whether a phrase is
        self._until_s = 0.0  # end of the last word sent

    async def read_settings(self) -> LiveSettings:
        """Return the settings that the address names."""
        pairs = self.query()
        values: dict[str, Any] = dict(pairs)
        if terms := likely_words(pairs):
            values["hotwords"] = ", ".join(terms)
        self._shows_partial = _switch(values, "interim_results")
        self._tells_starts = _switch(values, "vad_events")
        self._tells_ends = values.pop("utterance_end_ms", "") != ""
        return parse_live_settings(translated(values))

    async def take(self, frame: str | bytes) -> bool:
        """Take sound, or a message."""
        assert self.run is not None, "it is open"
        if isinstance(frame, bytes):
            if frame:
                await self.hear(frame)
            return True
        match read_object(frame).get("type"):
            case "KeepAlive":
                return True
            case "Finalize":
                self.run.session.wish("finalise")
                return True
            case "CloseStream":
                return False
        raise errors.RequestError("the type of a message is KeepAlive, Finalize or CloseStream")

    async def say(self, number: int, event: LiveEvent) -> None:
        """Send results: committed words are final, and the end of a phrase is the final of its speech."""
        match event:
            case LiveWords():
                if not self._is_open and event.phrase.text:
                    self._is_open = True
                    if self._tells_starts:
                        start = round(event.phrase.start_s, 3)
                        await self._send(type="SpeechStarted", channel=[0], timestamp=start)
                if event.committed:
                    await self._results(event.committed, is_final=True)
                if event.partial and self._shows_partial:
                    words = _guessed(event.partial, self._until_s, event.phrase.end_s)
                    await self._results(words, is_final=False)
            case LivePhrase():
                self._is_open = False
                await self._results((), is_final=True, speech_final=True)
                if self._tells_ends:
                    await self._send(type="UtteranceEnd", channel=[0, 1], last_word_end=self._until_s)
            case LiveDone():
                await self._results((), is_final=True, speech_final=True, from_finalize=True)

    async def bye(self) -> None:
        """Send the metadata, the last message."""
        assert self.run is not None, "it is open"
        await self._send(
            type="Metadata",
            transaction_key="deprecated",
            request_id=self._id,
            sha256="",
            created=self._created.isoformat().replace("+00:00", "Z"),
            duration=round(self.run.session.heard_s, 3),
            channels=1,
        )

    async def tell_error(self, code: str, message: str) -> None:
        """Send an error."""
        await self._send(type="Error", variant=code, description=message, message=message)

    async def _results(self, words: Sequence[Word], *, is_final: bool, **more: bool) -> None:
        start_s = words[0].start_s if words else self._until_s
        end_s = words[-1].end_s if words else self._until_s
        if is_final:
            self._until_s = round(end_s, 3)
        probability = sum(word.probability for word in words) / len(words) if words else 0.0
        alternative = {
            "transcript": " ".join(word.text for word in words),
            "confidence": round(probability, 4),
            "words": [
                {
                    "word": word.text,
                    "start": round(word.start_s, 3),
                    "end": round(word.end_s, 3),
                    "confidence": round(word.probability, 4),
                    "punctuated_word": word.text,
                }
                for word in words
            ],
        }
        await self._send(
            type="Results",
            channel_index=[0, 1],
            duration=round(end_s - start_s, 3),
            start=round(start_s, 3),
            is_final=is_final,
            **{"speech_final": False, "from_finalize": False, **more},
            channel={"alternatives": [alternative]},
            metadata={
                "request_id": self._id,
                "model_info": {"name": "shrota", "version": "1", "arch": "whisper"},
                "model_uuid": self._id,
            },
        )

    async def _send(self, **message: Any) -> None:
        await self.socket.send_text(msgspec.json.encode(message).decode())


def translated(values: Mapping[str, str]) -> dict[str, Any]:
    """Return Deepgram's options as the settings of a live stream; unknown ones keep their names.

    Raises:
        UnsupportedOption: An option has a value that is not served.
    """
    rest = {name: value for name, value in values.items() if name not in PASSED_OVER.union(TERMS)}
    found: dict[str, Any] = {}
    encoding = rest.pop("encoding", CONTAINED[0])
    if encoding not in ENCODINGS and encoding not in CONTAINED:
        known = ", ".join((*ENCODINGS, *CONTAINED))
        raise errors.UnsupportedOption("encoding", f"must be one of {known}, or absent for WebM and Ogg")
    found["encoding"] = ENCODINGS.get(encoding, "container")
    language = rest.pop("language", "")
    if language:
        found["language"] = DETECT if language == MULTILINGUAL else language.partition("-")[0].lower()
    if (endpointing := rest.pop("endpointing", "")) not in ("", "true"):
        found["pause_s"] = _pause_s(endpointing)
    for name in ("multichannel", "diarize"):
        if rest.pop(name, "false") != "false":
            raise errors.UnsupportedOption(name, "is not served here; only false is")
    return {**rest, **found}


def likely_words(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the words that an address says are likely; it repeats the name for each."""
    terms = (BOOST.sub("", value) if name == "keywords" else value for name, value in pairs if name in TERMS)
    return [term for term in terms if term.strip()]


def _pause_s(endpointing: str) -> float:
    if endpointing == "false":
        return math.inf
    most_ms = round(MOST_PAUSE_S * 1000)
    if not endpointing.isdecimal() or len(endpointing) > MAX_DIGITS or int(endpointing) > most_ms:
        raise errors.UnsupportedOption(
            "endpointing", f"must be false, or a pause of at most {most_ms} milliseconds"
        )
    return max(LEAST_PAUSE_S, int(endpointing) / 1000)


def _switch(values: dict[str, Any], name: str) -> bool:
    given = values.pop(name, "false")
    if given not in ("true", "false"):
        raise errors.UnsupportedOption(name, "must be true or false")
    return bool(given == "true")


def _guessed(text: str, start_s: float, end_s: float) -> list[Word]:
    """Return the words of a partial text, their times guessed."""
    words = text.split()
    step_s = max(0.0, end_s - start_s) / len(words)
    return [
        Word(text=word, start_s=start_s + n * step_s, end_s=start_s + (n + 1) * step_s, probability=0.5)
        for n, word in enumerate(words)
    ]
