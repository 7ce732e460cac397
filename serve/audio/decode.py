"""Decode a recording's bytes to samples at 16 kHz, within limits that do not trust the container.

    with open_audio(data, AudioLimits()) as recording:      # block by block, on demand
        for block in recording.blocks(): ...
    samples = decode_audio(data, AudioLimits())             # at once, mono

libsndfile reads WAV, FLAC, Ogg and MP3, and ffmpeg everything else, both in confined processes of their own
(`serve.audio.caged`). They yield blocks of frames, with silence inserted by the container's clock, and limits
are checked after every block. Serving and training share this definition of "audio". Knows no file names, no
content types, and no speech.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from serve.audio.caged.ffmpeg import ChildLimits, open_with_ffmpeg
from serve.audio.caged.sndfile import SndFile, open_with_sndfile
from serve.audio.clock import Clock
from serve.audio.container import AAC, FLAC, MP3, MP4, OGG, WAV, Container, sniff_container
from serve.audio.framing import (
    check_whole,
    flac_speaker_mask,
    has_hidden_size,
    mp4_sound_s,
    read_wav_header,
    walk_ogg,
    with_size_filled_in,
)
from serve.audio.mixing import Layout, Mixer, check_split
from serve.audio.mpeg import find_bare_stream, find_mpeg_frames
from serve.audio.recording import Recording, SoundReport, Track
from serve.audio.samples import SAMPLE_RATE, FullScale, Resampler, Samples, without_wild_values
from serve.audio.tracks import wanted_tracks
from serve.errors import AudioTooLong, ConfigError, EmptyAudio, UndecodableAudio

BLOCK_S = 10.0  # decoded at a time
HEAD_S = 30.0  # decoded before a recording is accepted, so that errors in short ones are raised at once
SAMPLE_BYTES = 4  # float32
FLAC_UNKNOWN_FRAMES = 1 << 36  # FLAC counts in 36 bits; libsndfile returns more where the total is unknown


@dataclass(frozen=True, kw_only=True)
class AudioLimits:
    """What decoding one recording may cost."""

    max_audio_s: float = 14_400.0
    """Longest recording accepted."""
    max_decoded_bytes: int = 8 << 30
    """Most float32 bytes decoded over all channels, before resampling."""
    max_channels: int = 16
    min_sample_rate: int = 4_000
    """Lowest sample rate, in Hz. Lower ones are forged, or hold no speech."""
    max_sample_rate: int = 192_000
    """Highest sample rate, in Hz."""
    ffmpeg_timeout_s: float = 120.0
    """Limit on wall time, and on processor time, of an ffmpeg child."""
    ffmpeg_memory_bytes: int = 1 << 30
    """Limit on an ffmpeg child's address space; its libraries take about 300 MB of it."""

    def __post_init__(self) -> None:
        """Refuse contradictory limits.

        Raises:
            ConfigError: A limit is not positive, or the sample rates exclude each other.
        """
        faults = [f"{name} must be positive" for name, value in vars(self).items() if value <= 0]
        if self.min_sample_rate > self.max_sample_rate:
            faults.append("min_sample_rate is above max_sample_rate")
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True)
class _Source:
    """An opened recording, before resampling."""

    sample_rate: int  # Hz
    layout: Layout
    n_frames: int | None  # as declared; None where it is not, or cannot be trusted
    blocks: Iterator[Samples]  # each (n_frames, n_channels)
    clock: Clock | None = None
    track: Track | None = None


def decode_audio(data: bytes, limits: AudioLimits, *, track: str | None = None) -> Samples:
    """Decode a recording at once; see `open_audio`.

    Returns:
        (n_samples,) float32 at 16 kHz, channels mixed, values within -1 to 1.

    Raises:
        EmptyAudio, UndecodableAudio, AudioTooLong, UnsupportedOption: See `open_audio`.
    """
    with open_audio(data, limits, track=track) as recording:
        samples: Samples = np.concatenate(list(recording.blocks()), axis=1)[0]
    return samples


@contextmanager
def open_audio(
    data: bytes,
    limits: AudioLimits,
    *,
    split: bool = False,
    track: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Recording]:
    """Open a recording of any supported format, and decode it block by block on demand.

    Before a recording is accepted, its framing is checked as a whole and its first 30 s are decoded. So most
    errors are raised before the first block; later ones are raised by the block where they occur.

    Args:
        split: Keep the channels apart instead of mixing them.
        track: Audio track by number from 1, or by language; None takes the default one.
        check: Called every few milliseconds; raises once nobody waits for the recording any more.

    Yields:
        A recording with one channel, or with `split` all channels; values within -1 to 1.

    Raises:
        EmptyAudio: There are no bytes, or no samples in them.
        UndecodableAudio: The format is not supported, or the file is damaged or truncated.
        AudioTooLong: The duration or the decoded size exceeds a limit.
        UnsupportedOption: There is no such track, or too many channels to split.
        Exception: What `check` raises.
    """
    if not data:
        raise EmptyAudio("the body is empty; send a recording")
    container = sniff_container(data)
    if container in (None, MP3, AAC) and (found := find_bare_stream(data)) is not None:
        container, start = found
        data = data[start:] if container is AAC else data
    if container is None:
        raise UndecodableAudio(
            "the body is not a recording in a format we read, such as WAV, MP3, FLAC, Ogg, M4A or WebM"
        )
    data = with_size_filled_in(data, container)
    with _open(data, container, limits, track, check) as source:
        del data  # a decoder that needs the bytes keeps its own reference
        _check_claims(source, limits, split)
        mixers = [] if split else [Mixer(source.layout, source.sample_rate)]
        blocks = _resampled(source, limits, mixers)
        head = list(_head(blocks))
        duration_s = None if source.n_frames is None else source.n_frames / source.sample_rate
        n_samples = sum(block.shape[1] for block in head)
        if n_samples < HEAD_S * SAMPLE_RATE:  # the head is the whole recording
            duration_s = n_samples / SAMPLE_RATE
        if not n_samples:
            raise EmptyAudio("the recording holds no samples")
        full_scale = FullScale()
        whole = itertools.chain([np.concatenate(head, axis=1)], blocks)
        yield Recording(
            (full_scale.push(block) for block in whole if block.size),
            n_channels=source.layout.n_channels if split else 1,
            duration_s=duration_s,
            report=lambda: _report(source, mixers),
        )


def _report(source: _Source, mixers: Sequence[Mixer]) -> SoundReport | None:
    report = SoundReport(
        track=source.track,
        mix=mixers[0].report if mixers else None,
        clock=None if source.clock is None else source.clock.report,
    )
    return None if report == SoundReport() else report


@contextmanager
def _open(
    data: bytes, container: Container, limits: AudioLimits, track: str | None, check: Callable[[], None]
) -> Iterator[_Source]:
    child_limits = ChildLimits(
        timeout_s=limits.ffmpeg_timeout_s,
        memory_bytes=limits.ffmpeg_memory_bytes,
        max_audio_s=limits.max_audio_s,
    )
    with ExitStack() as stack:
        if (found := _for_libsndfile(data, container, limits, check)) is not None:
            file = stack.enter_context(open_with_sndfile(found[0], child_limits, BLOCK_S, check))
            # None: an unsupported codec, such as Speex in Ogg. Where an MP3 declares no length, libsndfile
            # stops at a guessed one. Vorbis and Opus order surround channels differently.
            is_read = file is not None and file.n_frames >= found[1]
            if file is not None and is_read and not (container is OGG and file.n_channels > 2):
                yield _source(data, container, file, track)
                return
            stack.close()
        del found
        output = stack.enter_context(
            open_with_ffmpeg(data, container, child_limits, track=track, check=check)
        )
        del data
        yield _Source(
            output.sample_rate, output.layout, None, output.blocks, clock=output.clock, track=output.track
        )


def _source(data: bytes, container: Container, file: SndFile, track: str | None) -> _Source:
    heard = None if track is None else wanted_tracks([Track(number=1)], track)[0]
    # libsndfile guesses the length of an MP3; FLAC may declare none.
    is_exact = container is not MP3 and file.n_frames < FLAC_UNKNOWN_FRAMES
    layout = Layout(file.n_channels, _speaker_mask(data, container, file.n_channels))
    blocks = _whole_flac(file) if container is FLAC else file.blocks
    return _Source(file.sample_rate, layout, file.n_frames if is_exact else None, blocks, track=heard)


def _speaker_mask(data: bytes, container: Container, n_channels: int) -> int:
    """Return the WAVEFORMATEXTENSIBLE speaker mask, from the file or the format's standard; 0 if unknown."""
    if n_channels <= 2:
        return 0
    if container is WAV and (header := read_wav_header(data)) is not None:
        return header.speaker_mask
    if container is FLAC:
        return flac_speaker_mask(data, n_channels)
    return 0


def _for_libsndfile(
    data: bytes, container: Container, limits: AudioLimits, check: Callable[[], None]
) -> tuple[bytes, int] | None:
    """Return the bytes for libsndfile, and the fewest samples in them; None where ffmpeg must read them."""
    fewest_samples = 0
    if container is MP3:
        frames = find_mpeg_frames(data, limits.max_audio_s, check)
        if not frames.is_intact:
            return None
        fewest_samples = frames.fewest_samples
        data = data[frames.start : frames.end]  # without tags
    check_whole(data, container)
    if container is MP4:
        _check_stated(mp4_sound_s(data), limits)
    if not container.in_libsndfile:
        return None
    if container is OGG:
        pages = walk_ogg(data, check)
        _check_stated(pages.stated_s, limits)
        if pages.n_streams > 1 or not pages.is_intact:
            return None  # libsndfile would stop too early, or search for hours
    if container is WAV and has_hidden_size(data):
        return None  # libsndfile would stop too early
    return data, fewest_samples


def _check_stated(stated_s: float, limits: AudioLimits) -> None:
    if stated_s > limits.max_audio_s:
        raise AudioTooLong(stated_s, limits.max_audio_s)


def _whole_flac(file: SndFile) -> Iterator[Samples]:
    """Yield the blocks of a FLAC, whose decoder does not tell that it is cut off."""
    n_frames = 0
    for block in file.blocks:
        n_frames += len(block)
        yield block
    if n_frames < file.n_frames < FLAC_UNKNOWN_FRAMES:
        raise UndecodableAudio("the FLAC recording is cut off: it announces more than was sent")


def _check_claims(source: _Source, limits: AudioLimits, split: bool) -> None:
    if not limits.min_sample_rate <= source.sample_rate <= limits.max_sample_rate:
        raise UndecodableAudio(
            f"the sample rate is {source.sample_rate} Hz; "
            f"{limits.min_sample_rate} to {limits.max_sample_rate} Hz are read"
        )
    if not 1 <= source.layout.n_channels <= limits.max_channels:
        raise UndecodableAudio(
            f"the recording has {source.layout.n_channels} channels; at most {limits.max_channels} are read"
        )
    if split:
        check_split(source.layout.n_channels)


def _resampled(source: _Source, limits: AudioLimits, mixers: Sequence[Mixer]) -> Iterator[Samples]:
    """Mix and resample block by block, each (n_channels, n_samples); raise once a limit is exceeded."""
    n_channels = source.layout.n_channels
    bytes_per_s = source.sample_rate * n_channels * SAMPLE_BYTES
    limit_s = min(limits.max_audio_s, limits.max_decoded_bytes / bytes_per_s)
    if source.n_frames is not None and source.n_frames > limit_s * source.sample_rate:
        raise AudioTooLong(source.n_frames / source.sample_rate, limit_s)
    resamplers = [Resampler(source.sample_rate) for _ in range(len(mixers) or n_channels)]

    def resampled(channels: Iterable[Samples]) -> Samples:
        pushed = zip(resamplers, channels, strict=True)
        return np.stack([resampler.push(channel) for resampler, channel in pushed])

    n_frames = 0
    for block in source.blocks:
        n_frames += len(block)
        if n_frames > limit_s * source.sample_rate:
            raise AudioTooLong(n_frames / source.sample_rate, limit_s)
        finite = without_wild_values(block)
        yield resampled([mixer.push(finite) for mixer in mixers] or finite.T)
    if mixers:
        yield resampled([mixer.flush() for mixer in mixers])
    yield np.stack([resampler.flush() for resampler in resamplers])


def _head(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """Yield blocks until `HEAD_S` is reached, or the recording ends."""
    n_samples = 0
    while n_samples < HEAD_S * SAMPLE_RATE and (block := next(blocks, None)) is not None:
        n_samples += block.shape[1]
        yield block
