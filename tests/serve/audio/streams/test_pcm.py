"""Raw sound: any cut, any rate, any encoding gives the samples that the whole would give."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.audio.samples import Resampler
from serve.audio.streams.pcm import PcmFormat, PcmStream


def tone(sample_rate, duration_s=1.0):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(duration_s * sample_rate)) / sample_rate)


def stream(pcm_format, pieces):
    pcm = PcmStream(pcm_format)
    return np.concatenate([*(pcm.push(piece) for piece in pieces), pcm.flush()])


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 40_000), max_size=12),
    rate=st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000]),
    channels=st.sampled_from([1, 2]),
)
def test_pieces_cut_anywhere_give_the_samples_of_the_whole(cuts, rate, channels):
    mono = (tone(rate, 0.2) * 32_767).astype("<i2")
    data = np.repeat(mono, channels).tobytes()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[first:last] for first, last in itertools.pairwise(edges)]
    pcm_format = PcmFormat(sample_rate=rate, n_channels=channels)
    resampler = Resampler(rate)
    whole = np.concatenate([resampler.push(mono.astype(np.float32) / 32_768), resampler.flush()])
    np.testing.assert_allclose(stream(pcm_format, pieces), whole, atol=2e-5)


@pytest.mark.parametrize(
    ("encoding", "tolerance"), [("pcm_s16le", 1e-4), ("pcm_f32le", 1e-6), ("mulaw", 0.02), ("alaw", 0.02)]
)
def test_each_encoding_is_read(encoding, tolerance):
    import io

    import soundfile

    samples = tone(16_000)
    subtype = {"pcm_s16le": "PCM_16", "pcm_f32le": "FLOAT", "mulaw": "ULAW", "alaw": "ALAW"}[encoding]
    out = io.BytesIO()
    soundfile.write(out, samples, 16_000, format="RAW", subtype=subtype, endian="LITTLE")
    heard = stream(PcmFormat(encoding=encoding), [out.getvalue()])
    np.testing.assert_allclose(heard, samples, atol=tolerance)


def test_values_that_no_recording_holds_are_silence_and_loud_ones_are_scaled():
    wild = np.array([np.nan, np.inf, -np.inf, 1e30, 4.0, -2.0], "<f4")
    heard = stream(PcmFormat(encoding="pcm_f32le"), [wild.tobytes()])
    np.testing.assert_array_equal(heard, [0, 0, 0, 0, 1.0, -0.5])


def test_a_frame_that_is_cut_off_at_the_end_is_lost():
    assert len(stream(PcmFormat(n_channels=2), [b"\x00" * 10])) == 2
