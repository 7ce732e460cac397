"""Sound from this machine's microphone, as it is spoken, by the package of the extra `microphone`."""

from __future__ import annotations

import queue
from collections.abc import Iterator

from serve.audio.samples import SAMPLE_RATE
from serve.errors import ClientError


def listen(frame_s: float) -> Iterator[bytes]:
    """Yield 16-bit mono frames at 16 kHz, without an end.

    Raises:
        ClientError: sounddevice is not installed, or there is no microphone.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise ClientError("the microphone needs sounddevice: pip install 'shrota[microphone]'") from error
    except OSError as error:  # the package is here, and the library that it wraps is not
        raise ClientError(f"the microphone needs the library PortAudio: {error}") from error
    frames: queue.Queue[bytes] = queue.Queue()
    try:
        with sounddevice.RawInputStream(
            samplerate=SAMPLE_RATE,
            blocksize=round(frame_s * SAMPLE_RATE),
            channels=1,
            dtype="int16",
            callback=lambda data, *_: frames.put(bytes(data)),
        ):
            while True:
                yield frames.get()
    except sounddevice.PortAudioError as error:
        raise ClientError(f"no sound comes from the microphone: {error}") from error
