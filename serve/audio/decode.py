"""Bytes of a recording -> samples at 16 kHz, within limits that hold whatever the container claims.

    with open_audio(data, AudioLimits()) as recording:      # block by block, as they are asked for
        for block in recording.blocks(): ...
    samples = decode_audio(data, AudioLimits())             # at once, mono

libsndfile reads WAV, FLAC, Ogg and MP3 in this process, an ffmpeg child everything else. Both give blocks
of frames, and the limits are checked after every block. This is the definition of "audio" for serving and
training alike. Knows neither file names nor content types, and nothing of speech.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import soundfile

from serve.audio.container import FLAC, MP3, OGG, WAV, Container, sniff_container
from serve.audio.ffmpeg import ChildLimits, open_with_ffmpeg
from serve.audio.framing import check_whole, has_hidden_size, has_several_streams
from serve.audio.mpeg import find_mpeg_frames
from serve.audio.recording import Recording
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.errors import AudioTooLong, ConfigError, EmptyAudio, UndecodableAudio

BLOCK_S = 10.0  # decoded at a time
HEAD_S = 30.0  # decoded before a recording is accepted, so that the faults of a short one show at once
SAMPLE_BYTES = 4  # float32
MAX_DENOMINATOR = 1_000  # of a resampling ratio: exact for usual rates, within a millionth for odd ones
FLAC_UNKNOWN_FRAMES = 1 << 36  # FLAC counts in 36 bits; libsndfile answers more where the total is unknown
LOUDEST = 32_768.0  # full scale of int16 data stored as float; nothing honest is louder


@dataclass(frozen=True, kw_only=True)
class AudioLimits:
    """How much one recording may cost."""

    max_audio_s: float = 14_400.0
    """Longest accepted recording."""
    max_decoded_bytes: int = 8 << 30
    """Most float32 bytes decoded, all channels counted, before resampling."""
    max_channels: int = 16
    min_sample_rate: int = 4_000
    """Hz. Lower claims are forged, or hold no speech."""
    max_sample_rate: int = 192_000
    """Hz."""
    ffmpeg_timeout_s: float = 120.0
    """Wall time, and processor time, of an ffmpeg child."""
    ffmpeg_memory_bytes: int = 1 << 30
    """Address space of an ffmpeg child, of which its libraries take about 300 MB."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing could meet.

        Raises:
            ConfigError: a limit is not positive, or the sample rates exclude one another.
        """
        faults = [f"{name} must be positive" for name, value in vars(self).items() if value <= 0]
        if self.min_sample_rate > self.max_sample_rate:
            faults.append("min_sample_rate is above max_sample_rate")
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True)
class _Source:
    """An opened recording."""

    sample_rate: int  # Hz
    n_channels: int
    n_frames: int | None  # as announced; None where nothing is, or where it cannot be trusted
    blocks: Iterator[Samples]  # each (n_frames, n_channels)


def decode_audio(data: bytes, limits: AudioLimits) -> Samples:
    """Decode a recording at once; see `open_audio`.

    Returns:
        (n_samples,) float32 at 16 kHz, channels averaged, values within -1 to 1.

    Raises:
        EmptyAudio, UndecodableAudio, AudioTooLong: as `open_audio` and its blocks do.
    """
    with open_audio(data, limits) as recording:
        samples: Samples = np.concatenate(list(recording.blocks()), axis=1)[0]
    return samples


@contextmanager
def open_audio(data: bytes, limits: AudioLimits, *, split: bool = False) -> Iterator[Recording]:
    """Decode a recording of any format that we read, block by block, as the blocks are asked for.

    Its framing is looked at as a whole and its first 30 s are decoded before it is accepted, so most faults
    show before the first block; those that lie later are raised by the block that meets them.

    Args:
        data: the whole file; told by its first bytes.
        limits: what decoding may cost.
        split: keep the channels apart instead of averaging them.

    Yields:
        A recording of one channel, or of all where they are split. Values lie within -1 to 1.

    Raises:
        EmptyAudio: there are no bytes, or no samples in them.
        UndecodableAudio: it is not audio that we read, or it is damaged or cut off.
        AudioTooLong: it lasts longer, or decodes to more bytes, than the limits allow.
    """
    if not data:
        raise EmptyAudio("the body is empty; send a recording")
    container = sniff_container(data)
    if container is None:
        raise UndecodableAudio(
            "the body is not a recording in a format we read, such as WAV, MP3, FLAC, Ogg, M4A or WebM"
        )
    with _open(data, container, limits) as source:
        del data  # a decoder that needs the body holds it
        _check_claims(source, limits)
        blocks = _resampled(source, limits, split=split)
        head = list(_head(blocks))
        duration_s = None if source.n_frames is None else source.n_frames / source.sample_rate
        n_samples = sum(block.shape[1] for block in head)
        if n_samples < HEAD_S * SAMPLE_RATE:  # that is all
            duration_s = n_samples / SAMPLE_RATE
        if not n_samples:
            raise EmptyAudio("the recording holds no samples")
        yield Recording(
            _within_full_scale(itertools.chain([np.concatenate(head, axis=1)], blocks)),
            n_channels=source.n_channels if split else 1,
            duration_s=duration_s,
        )


@contextmanager
def _open(data: bytes, container: Container, limits: AudioLimits) -> Iterator[_Source]:
    file = _open_in_process(data, container, limits)
    if file is not None:
        with file:
            # The length of an MP3 is a guess of libsndfile's; FLAC may announce none.
            is_exact = container is not MP3 and file.frames < FLAC_UNKNOWN_FRAMES
            n_frames = file.frames if is_exact else None
            del data
            yield _Source(file.samplerate, file.channels, n_frames, _read_blocks(file, container))
        return
    child_limits = ChildLimits(timeout_s=limits.ffmpeg_timeout_s, memory_bytes=limits.ffmpeg_memory_bytes)
    with open_with_ffmpeg(data, container, child_limits) as (sample_rate, n_channels, blocks):
        del data
        yield _Source(sample_rate, n_channels, None, blocks)


def _open_in_process(data: bytes, container: Container, limits: AudioLimits) -> soundfile.SoundFile | None:
    """Open with libsndfile; None where it cannot read the body, or not to its end."""
    fewest_samples = 0
    if container is MP3:
        frames = find_mpeg_frames(data, limits.max_audio_s)
        if not frames.is_intact:
            return None  # it copes, but writes about it to our standard error
        fewest_samples = frames.fewest_samples
        data = data[frames.start : frames.end]  # it need not read tags
    check_whole(data, container)
    if not container.in_libsndfile:
        return None
    if (container is OGG and has_several_streams(data)) or (container is WAV and has_hidden_size(data)):
        return None  # it would stop too early
    try:
        file = _ForwardOnly(_Body(data))
    except soundfile.SoundFileError:
        return None  # a codec that it lacks, such as Speex in Ogg
    if file.frames < fewest_samples:  # it guesses the length of an MP3 that announces none, and stops there
        file.close()
        return None
    return file


class _Body(io.BytesIO):
    """Stays where it is when damage makes libsndfile seek to before the start."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class _ForwardOnly(soundfile.SoundFile):  # type: ignore[misc]
    """Reads front to back: soundfile seeks after every read, which costs time and disturbs MP3."""

    def seekable(self) -> bool:
        return False


def _read_blocks(file: soundfile.SoundFile, container: Container) -> Iterator[Samples]:
    block_frames = max(1, int(BLOCK_S * file.samplerate / file.channels))
    n_frames = 0
    while True:
        try:
            block: Samples = file.read(block_frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise UndecodableAudio(f"the {container.name} recording is damaged or cut off") from error
        if not len(block):
            break
        n_frames += len(block)
        yield block
    if container is FLAC and n_frames < file.frames < FLAC_UNKNOWN_FRAMES:
        raise UndecodableAudio("the FLAC recording is cut off: it announces more than was sent")


def _check_claims(source: _Source, limits: AudioLimits) -> None:
    if not limits.min_sample_rate <= source.sample_rate <= limits.max_sample_rate:
        raise UndecodableAudio(
            f"the sample rate is {source.sample_rate} Hz; "
            f"{limits.min_sample_rate} to {limits.max_sample_rate} Hz are read"
        )
    if not 1 <= source.n_channels <= limits.max_channels:
        raise UndecodableAudio(
            f"the recording has {source.n_channels} channels; at most {limits.max_channels} are read"
        )


def _resampled(source: _Source, limits: AudioLimits, *, split: bool) -> Iterator[Samples]:
    """Mix and resample block by block, each (n_channels, n_samples); give up at the first over a limit."""
    bytes_per_s = source.sample_rate * source.n_channels * SAMPLE_BYTES
    limit_s = min(limits.max_audio_s, limits.max_decoded_bytes / bytes_per_s)
    if source.n_frames is not None and source.n_frames > limit_s * source.sample_rate:
        raise AudioTooLong(source.n_frames / source.sample_rate, limit_s)
    resamplers = [Resampler(source.sample_rate) for _ in range(source.n_channels if split else 1)]
    n_frames = 0
    for block in source.blocks:
        n_frames += len(block)
        if n_frames > limit_s * source.sample_rate:
            raise AudioTooLong(n_frames / source.sample_rate, limit_s)
        # Values that no recording holds (NaN, infinity, beyond int16) count as silence.
        finite = np.where(np.abs(block) <= LOUDEST, block, np.float32(0))
        channels = finite.T if split else finite.mean(axis=1, dtype=np.float32)[None]
        yield np.stack(
            [resampler.push(channel) for resampler, channel in zip(resamplers, channels, strict=True)]
        )
    yield np.stack([resampler.flush() for resampler in resamplers])


def _head(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """Take blocks until the head is whole, or the recording ends."""
    n_samples = 0
    while n_samples < HEAD_S * SAMPLE_RATE and (block := next(blocks, None)) is not None:
        n_samples += block.shape[1]
        yield block


def _within_full_scale(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """Scale by the highest peak so far: floats may exceed full scale, and some hold int16's."""
    peak = 1.0
    for block in blocks:
        if block.size:
            peak = max(peak, float(block.max()), -float(block.min()))
            yield block / np.float32(peak) if peak > 1.0 else block


class Resampler:
    """Resamples a stream to 16 kHz; blocks of any size give the samples that the whole would give."""

    def __init__(self, sample_rate: int) -> None:
        # A ratio with large terms, as of a forged 44,099 Hz, would need a filter of gigabytes.
        ratio = Fraction(SAMPLE_RATE, sample_rate).limit_denominator(MAX_DENOMINATOR)
        self._step_in, self._step_out = ratio.denominator, ratio.numerator
        self._pending = np.zeros(0, dtype=np.float32)
        self._n_history = 0  # samples of _pending that were answered already

    @cached_property
    def _margin(self) -> int:
        """Input samples that influence an output sample on either side, in whole steps."""
        # torchaudio's default filter: 6 zero crossings, roll-off 0.99.
        half_width = math.ceil(6 * self._step_in / (min(self._step_in, self._step_out) * 0.99))
        return (half_width // self._step_in + 2) * self._step_in

    def push(self, samples: Samples) -> Samples:
        """Return the samples that can be told once these (n_samples,) have come."""
        if self._step_in == self._step_out:
            return samples
        self._pending = np.concatenate([self._pending, samples])
        ready = (len(self._pending) - self._n_history - self._margin) // self._step_in * self._step_in
        if ready <= 0:
            return np.zeros(0, dtype=np.float32)
        answer = self._resample(self._pending[: self._n_history + ready + self._margin], ready)
        keep_from = max(0, self._n_history + ready - self._margin)
        self._n_history += ready - keep_from
        self._pending = self._pending[keep_from:]
        return answer

    def flush(self) -> Samples:
        """Return the last samples of the stream."""
        if self._step_in == self._step_out:
            return np.zeros(0, dtype=np.float32)
        remaining = len(self._pending) - self._n_history
        return self._resample(self._pending, remaining) if remaining else np.zeros(0, dtype=np.float32)

    def _resample(self, samples: Samples, n_wanted: int) -> Samples:
        """Resample, and keep the answer to the `n_wanted` samples after the history."""
        # Imported here: it takes seconds, and a service may need torch for nothing else.
        import torch
        import torchaudio.functional

        resampled = torchaudio.functional.resample(
            torch.from_numpy(samples.copy()), self._step_in, self._step_out
        )
        first = self._n_history * self._step_out // self._step_in
        last = first + math.ceil(n_wanted * self._step_out / self._step_in)
        answer: Samples = resampled[first:last].numpy()
        return answer


def load_resampler() -> None:
    """Import what resampling needs, before somebody waits for it."""
    import torchaudio.functional  # noqa: F401
