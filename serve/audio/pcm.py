"""Raw sound in pieces cut anywhere -> blocks of samples at 16 kHz, as they come.

    stream = PcmStream(PcmFormat(sample_rate=8_000, encoding="mulaw"))
    block = stream.push(piece)       # (n_samples,), perhaps none yet
    last = stream.flush()

Knows no container: what the bytes are is said beforehand. Blocks join without a seam, whatever the pieces.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import soundfile

from serve.audio.mixing import Layout, Mixer
from serve.audio.samples import FullScale, Resampler, Samples, without_wild_values

Encoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]

SAMPLE_BYTES: dict[Encoding, int] = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}


@dataclass(frozen=True, kw_only=True)
class PcmFormat:
    """What the bytes are."""

    sample_rate: int = 16_000
    """Hz."""
    encoding: Encoding = "pcm_s16le"
    n_channels: int = 1
    """Interleaved; they are mixed."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return SAMPLE_BYTES[self.encoding] * self.n_channels

    @property
    def bytes_per_s(self) -> int:
        """Bytes of one second."""
        return self.frame_bytes * self.sample_rate


class PcmStream:
    """One stream of raw sound."""

    def __init__(self, pcm_format: PcmFormat) -> None:
        self._format = pcm_format
        self._resampler = Resampler(pcm_format.sample_rate)
        self._rest = b""  # the beginning of a frame whose end is still to come
        self._mixer = Mixer(Layout(pcm_format.n_channels), pcm_format.sample_rate)
        self._full_scale = FullScale()

    def push(self, data: bytes) -> Samples:
        """Return the (n_samples,) that can be told once these bytes have come."""
        data = self._rest + data
        whole = len(data) - len(data) % self._format.frame_bytes
        self._rest = data[whole:]
        frames = _samples_of(data[:whole], self._format.encoding).reshape(-1, self._format.n_channels)
        return self._full_scale.push(self._resampler.push(self._mixer.push(frames)))

    def flush(self) -> Samples:
        """Return the last samples; a frame that was cut off is lost."""
        last = [self._resampler.push(self._mixer.flush()), self._resampler.flush()]
        return self._full_scale.push(np.concatenate(last))


def _samples_of(data: bytes, encoding: Encoding) -> Samples:
    if encoding == "pcm_s16le":
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32_768)
    if encoding == "pcm_f32le":
        values: Samples = np.frombuffer(data, "<f4").astype(np.float32)
        return without_wild_values(values)
    table: Samples = _companding_table(encoding)[np.frombuffer(data, np.uint8)]
    return table


@cache
def _companding_table(encoding: Literal["mulaw", "alaw"]) -> Samples:
    """Return the sample that each byte of G.711 stands for, as libsndfile reads it."""
    every_byte = io.BytesIO(bytes(range(256)))
    subtype = {"mulaw": "ULAW", "alaw": "ALAW"}[encoding]
    table: Samples
    table, _ = soundfile.read(
        every_byte, format="RAW", subtype=subtype, samplerate=8_000, channels=1, dtype="float32"
    )
    return table
