"""Decode a stream of raw PCM, in pieces cut anywhere, to blocks of samples at 16 kHz.

    stream = PcmStream(PcmFormat(sample_rate=8_000, encoding="mulaw"))
    block = stream.push(piece)       # (n_samples,), possibly empty
    last = stream.flush()

The format is given in advance; there is no container. Blocks join seamlessly, however the pieces are cut.
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
    sample_rate: int = 16_000
    """Hz."""
    encoding: Encoding = "pcm_s16le"
    n_channels: int = 1
    """Interleaved channels, which are mixed into one."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return SAMPLE_BYTES[self.encoding] * self.n_channels

    @property
    def bytes_per_s(self) -> int:
        return self.frame_bytes * self.sample_rate


class PcmStream:
    def __init__(self, pcm_format: PcmFormat) -> None:
        self._format = pcm_format
        self._resampler = Resampler(pcm_format.sample_rate)
        self._rest = b""  # an incomplete frame
        self._mixer = Mixer(Layout(pcm_format.n_channels), pcm_format.sample_rate)
        self._full_scale = FullScale()

    def push(self, data: bytes) -> Samples:
        """Return the samples (n_samples,) that are known after these bytes."""
        data = self._rest + data
        whole = len(data) - len(data) % self._format.frame_bytes
        self._rest = data[whole:]
        frames = _samples_of(data[:whole], self._format.encoding).reshape(-1, self._format.n_channels)
        return self._full_scale.push(self._resampler.push(self._mixer.push(frames)))

    def flush(self) -> Samples:
        """Return the last samples; an incomplete frame is dropped."""
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
    """Return the sample of each G.711 byte, (256,), as libsndfile decodes it."""
    every_byte = io.BytesIO(bytes(range(256)))
    subtype = {"mulaw": "ULAW", "alaw": "ALAW"}[encoding]
    table: Samples
    table, _ = soundfile.read(
        every_byte, format="RAW", subtype=subtype, samplerate=8_000, channels=1, dtype="float32"
    )
    return table
