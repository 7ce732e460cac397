"""Send speech over a WebSocket at the pace of speech, and print the text as it comes.

Two protocols: that of `serve.http.live.plain`, whose words are printed once they are committed, and that of
SageMaker's streams (`serve.http.sagemaker.bidirectional`), whose phrases are. Partial text is shown on
terminals only, on the line of its final text. In our own protocol a lost connection is opened again, and goes
on where it broke.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlencode

import numpy as np

from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import SAMPLE_RATE
from serve.errors import AudioError, ClientError

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

LIVE_PATH = "/live"
BIDIRECTIONAL_PATH = "/invocations-bidirectional-stream"
MICROPHONE = Path("-")
FRAME_S = 0.1
COME_BACK_S = 25.0
"""Time to open a lost connection again; the service keeps the session a little longer."""

_LONGEST_S = 1_800.0  # SageMaker closes the stream after half an hour


def speak(
    recording: Path, url: str, options: dict[str, str], pace: float, timeout_s: float, out: TextIO
) -> None:
    """Send a recording in SageMaker's protocol, and print the text as it comes.

    Args:
        recording: File in any supported format.
        url: `http://HOST:PORT` of the service.
        options: Transcription options, sent with the settings.
        pace: Speed relative to real time; 0 sends everything at once.
        timeout_s: Longest wait for the next text.
        out: Stream to print to.

    Raises:
        ClientError: The recording cannot be decoded, or the service refuses it or breaks off.
    """
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException
    from websockets.sync.client import connect

    frames = paced(_pcm(recording), pace)
    address = _address(url, BIDIRECTIONAL_PATH)
    try:
        # Pongs queue behind the sound, so sending faster than the engine transcribes delays them.
        with connect(address, ping_timeout=None) as connection:
            settings = {"sample_rate": SAMPLE_RATE, "encoding": "pcm_s16le", **options}
            with suppress(ConnectionClosed):  # the reason of a refusal is read below
                connection.send(json.dumps(settings))
            threading.Thread(target=_send, args=(connection, frames, "end"), daemon=True).start()
            for frame in _received(connection, timeout_s):
                _print_phrase(frame, out)
    except InvalidHandshake as error:
        raise ClientError(f"{address} opens no bidirectional stream: {error}") from error
    except (OSError, WebSocketException) as error:
        raise ClientError(f"{address}: {error}") from error


def speak_live(
    recording: Path, url: str, options: dict[str, str], pace: float, timeout_s: float, out: TextIO
) -> None:
    """Send a recording, or what the microphone hears, and print each word once it is committed.

    Args:
        recording: File in any supported format; `MICROPHONE` for the microphone.
        url: `http://HOST:PORT` of the service.
        options: Transcription options, sent in the address.
        pace: Speed relative to real time; 0 sends everything at once.
        timeout_s: Longest wait for the next text.
        out: Stream to print to.

    Raises:
        ClientError: There is no sound, or the service refuses it or breaks off.
    """
    if recording == MICROPHONE:
        from serve.remote.microphone import listen

        frames = listen(FRAME_S)
    else:
        frames = paced(_pcm(recording), pace)
    query = {"format": "pcm_s16le", "rate": str(SAMPLE_RATE), **options}
    _Conversation(_address(url, LIVE_PATH), query, frames, timeout_s, out).hold()


class _Conversation:
    """One live session, over as many connections as it takes."""

    def __init__(
        self, address: str, query: dict[str, str], frames: Iterator[bytes], timeout_s: float, out: TextIO
    ) -> None:
        self._address, self._query, self._timeout_s, self._out = address, query, timeout_s, out
        self._spoken = bytearray()  # all sound so far: the service may have lost the last of it
        self._is_over = False
        self._changed = threading.Condition()
        self._token, self._after = "", 0
        self._line = ""  # committed words on the terminal's line
        self._speaking = threading.Thread(target=self._gather, args=(frames,), daemon=True)
        self._fault: ClientError | None = None

    def hold(self) -> None:
        """Speak and print until the service has said everything."""
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException
        from websockets.sync.client import connect

        self._speaking.start()
        lost: float | None = None
        while True:
            query = {"token": self._token, "after": str(self._after)} if self._token else self._query
            try:
                with connect(f"{self._address}?{urlencode(query)}", ping_timeout=None) as connection:
                    lost = None
                    if self._attend(connection):
                        return
            except InvalidHandshake as error:
                raise ClientError(f"{self._address} opens no live stream: {error}") from error
            except (ConnectionClosed, OSError, WebSocketException) as error:
                lost = lost or time.monotonic()
                if not self._token or time.monotonic() - lost > COME_BACK_S:
                    raise ClientError(f"{self._address}: {error}") from error
                time.sleep(0.5)

    def _attend(self, connection: ClientConnection) -> bool:
        """Use one connection; return whether all was said. Ctrl-C ends the sound, and then the wait."""
        while True:
            try:
                return self._print_all(connection)
            except KeyboardInterrupt:
                if self._is_over:
                    raise
                self._end_sound()

    def _print_all(self, connection: ClientConnection) -> bool:
        for frame in _received(connection, self._timeout_s):
            match frame.get("type"):
                case "session":
                    self._token, offset = frame["token"], int(frame["received_bytes"])
                    threading.Thread(target=self._send_from, args=(connection, offset), daemon=True).start()
                case "words":
                    self._print_words(frame)
                case "phrase":
                    print(file=self._out, flush=True)
                    self._line = ""
                case "error":
                    raise ClientError(f"{frame.get('code')}: {frame.get('message')}")
                case "closed":
                    if self._fault is not None:
                        raise self._fault
                    return True
            self._after = frame.get("seq", self._after)
        return False

    def _gather(self, frames: Iterator[bytes]) -> None:
        """Collect the sound as it is spoken."""
        try:
            for frame in frames:
                with self._changed:
                    if self._is_over:
                        return
                    self._spoken += frame
                    self._changed.notify_all()
        except ClientError as error:
            self._fault = error
        finally:
            self._end_sound()

    def _end_sound(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _send_from(self, connection: ClientConnection, offset: int) -> None:
        from websockets.exceptions import ConnectionClosed

        frame_bytes = 10 * 2 * round(FRAME_S * SAMPLE_RATE)
        try:
            while True:
                with self._changed:
                    while len(self._spoken) == offset and not self._is_over:
                        self._changed.wait(1.0)
                    piece = bytes(self._spoken[offset : offset + frame_bytes])
                if not piece:
                    break
                connection.send(piece)
                offset += len(piece)
            connection.send(json.dumps({"type": "close"}))
        except ConnectionClosed:
            return

    def _print_words(self, frame: dict[str, Any]) -> None:
        new = [word["word"] for word in frame["committed"]]
        is_terminal = self._out.isatty()
        if new:
            text = " ".join(new)
            text = f" {text}" if self._line else text
            if is_terminal:
                print("\r\x1b[K" + self._line, end="", file=self._out)
            self._line += text
            print(text, end="", file=self._out, flush=True)
        if is_terminal:
            partial = f"\x1b[2m {frame['partial']}\x1b[0m" if frame["partial"] else ""
            print(f"\r\x1b[K{self._line}{partial}", end="", file=self._out, flush=True)


def paced(pcm: bytes, pace: float) -> Iterator[bytes]:
    """Yield frames of PCM at a pace relative to real time; 0 yields them at once."""
    frame_bytes = 2 * round(FRAME_S * SAMPLE_RATE)
    started = time.monotonic()
    for number, offset in enumerate(range(0, len(pcm), frame_bytes)):
        if pace:
            time.sleep(max(0.0, started + number * FRAME_S / pace - time.monotonic()))
        yield pcm[offset : offset + frame_bytes]


def _pcm(recording: Path) -> bytes:
    try:
        samples = decode_audio(recording.read_bytes(), AudioLimits(max_audio_s=_LONGEST_S))
    except AudioError as error:
        raise ClientError(str(error)) from error
    return (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()


def _address(url: str, path: str) -> str:
    return f"ws{url.removeprefix('http').rstrip('/')}{path}"


def _send(connection: ClientConnection, frames: Iterator[bytes], end: str) -> None:
    """Send frames, then the end; stop when the connection closes."""
    from websockets.exceptions import ConnectionClosed

    try:
        for frame in frames:
            connection.send(frame)
        connection.send(json.dumps({"type": end}))
    except ConnectionClosed:
        return


def _received(connection: ClientConnection, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Yield frames until the service closes the stream."""
    from websockets.exceptions import ConnectionClosedOK

    while True:
        try:
            yield json.loads(connection.recv(timeout=timeout_s))
        except ConnectionClosedOK:
            return
        except TimeoutError as error:
            raise ClientError(f"nothing was received for {timeout_s:.0f} s") from error


def _print_phrase(frame: dict[str, Any], out: TextIO) -> None:
    if failure := frame.get("ModelStreamError"):
        raise ClientError(f"{failure.get('ErrorCode')}: {failure.get('Message')}")
    line_start = "\r\x1b[K" if out.isatty() else ""
    if frame.get("is_final"):
        print(f"{line_start}{frame['text']}", file=out, flush=True)
    elif line_start:
        print(f"{line_start}{frame['text']}", end="", file=out, flush=True)
