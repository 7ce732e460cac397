"""Send a recording over a WebSocket at the pace of speech, and print the text as it comes.

The protocol is that of `serve.http.bidirectional`. Partial text is shown on terminals only, on the line of
its final text.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import SAMPLE_RATE
from serve.errors import AudioError, ClientError

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PATH = "/invocations-bidirectional-stream"
FRAME_S = 0.1
_LONGEST_S = 1_800.0  # SageMaker closes the stream after half an hour


def speak(
    recording: Path, url: str, options: dict[str, str], pace: float, timeout_s: float, out: TextIO
) -> None:
    """Send a recording and print the text as it comes.

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

    try:
        samples = decode_audio(recording.read_bytes(), AudioLimits(max_audio_s=_LONGEST_S))
    except AudioError as error:
        raise ClientError(str(error)) from error
    pcm = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
    address = f"ws{url.removeprefix('http').rstrip('/')}{PATH}"
    try:
        # Pongs queue behind the sound, so sending faster than the engine transcribes delays them.
        with connect(address, ping_timeout=None) as connection:
            settings = {"sample_rate": SAMPLE_RATE, "encoding": "pcm_s16le", **options}
            with suppress(ConnectionClosed):  # the reason of a refusal is read below
                connection.send(json.dumps(settings))
            threading.Thread(target=_send, args=(connection, pcm, pace), daemon=True).start()
            _print_texts(connection, timeout_s, out)
    except InvalidHandshake as error:
        raise ClientError(f"{address} opens no bidirectional stream: {error}") from error
    except (OSError, WebSocketException) as error:
        raise ClientError(f"{address}: {error}") from error


def _send(connection: ClientConnection, pcm: bytes, pace: float) -> None:
    """Send frames of PCM at the given pace, then the end; stop when the connection closes."""
    from websockets.exceptions import ConnectionClosed

    frame_bytes = 2 * round(FRAME_S * SAMPLE_RATE)
    started = time.monotonic()
    try:
        for number, offset in enumerate(range(0, len(pcm), frame_bytes)):
            if pace:
                time.sleep(max(0.0, started + number * FRAME_S / pace - time.monotonic()))
            connection.send(pcm[offset : offset + frame_bytes])
        connection.send(json.dumps({"type": "end"}))
    except ConnectionClosed:
        return


def _print_texts(connection: ClientConnection, timeout_s: float, out: TextIO) -> None:
    from websockets.exceptions import ConnectionClosedOK

    while True:
        try:
            frame = json.loads(connection.recv(timeout=timeout_s))
        except ConnectionClosedOK:
            return
        except TimeoutError as error:
            raise ClientError(f"nothing was received for {timeout_s:.0f} s") from error
        _print_text(frame, out)


def _print_text(frame: dict[str, Any], out: TextIO) -> None:
    if failure := frame.get("ModelStreamError"):
        raise ClientError(f"{failure.get('ErrorCode')}: {failure.get('Message')}")
    line_start = "\r\x1b[K" if out.isatty() else ""
    if frame.get("is_final"):
        print(f"{line_start}{frame['text']}", file=out, flush=True)
    elif line_start:
        print(f"{line_start}{frame['text']}", end="", file=out, flush=True)
