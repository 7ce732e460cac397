"""Recordings that end before they say, and recordings that only look as if they did."""

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.caged.ffmpeg import ffmpeg_binary
from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import SAMPLE_RATE
from serve.errors import EmptyAudio, UndecodableAudio

LIMITS = AudioLimits(max_audio_s=60.0)
Encode = Callable[..., bytes]


def wav_bytes(duration_s: float = 2.0) -> bytes:
    samples = np.random.default_rng(0).normal(0, 0.1, int(duration_s * SAMPLE_RATE))
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    def run(name: str, *options: str, to_pipe: bool = False) -> bytes:
        target = f"pipe:{name}" if to_pipe else str(tmp_path / name)
        output = ["-f", Path(name).suffix[1:], "pipe:1"] if to_pipe else ["-y", target]
        command = [ffmpeg_binary(), "-v", "error", "-f", "wav", "-i", "pipe:0", *options, *output]
        answer = subprocess.run(command, input=wav_bytes(), capture_output=True, check=True).stdout
        return answer if to_pipe else (tmp_path / name).read_bytes()

    return run


KINDS = {
    "flac": ("a.flac",),
    "ogg vorbis": ("a.ogg", "-c:a", "libvorbis"),
    "ogg opus": ("a.opus",),
    "m4a": ("a.m4a",),
    "m4a with its index first": ("a.m4a", "-movflags", "+faststart"),
    "webm": ("a.webm",),
}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_that_broke_off_is_refused(kind: str, share: float, encode: Encode) -> None:
    whole = encode(*KINDS[kind])
    assert len(decode_audio(whole, LIMITS)) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)

    with pytest.raises(UndecodableAudio):
        decode_audio(whole[: int(len(whole) * share)], LIMITS)


@pytest.mark.parametrize("n_missing", [400, 10_000, 60_000])
def test_a_wav_that_holds_less_than_it_announces_is_refused(n_missing: int) -> None:
    with pytest.raises(UndecodableAudio, match="cut off"):
        decode_audio(wav_bytes()[:-n_missing], LIMITS)


def test_a_wav_whose_recorder_counted_its_own_header_is_taken() -> None:
    assert len(decode_audio(wav_bytes()[:-44], LIMITS)) == 2 * SAMPLE_RATE - 22


def announcing(announced: int, riff: int | None = None) -> bytes:
    """Return a WAV of two seconds with other sizes in its header."""
    wav = bytearray(wav_bytes())
    at = wav.index(b"data") + 4
    wav[at : at + 4] = struct.pack("<I", announced)
    if riff is not None:
        wav[4:8] = struct.pack("<I", riff)
    return bytes(wav)


STREAMED = [0, 0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF - 44, 0xFFFF_FFFF]
PLACEHOLDERS = [2_000_000_000, 1_000_000_000, 0x4000_0000, 0x3FFF_FFFF, 0x1000_0000 - 36, 200_000_000 - 44]


@pytest.mark.parametrize("announced", [*STREAMED, *PLACEHOLDERS])
def test_a_wav_that_was_streamed_is_taken_to_its_end(announced: int) -> None:
    for riff in (announced, min(announced + 36, 0xFFFF_FFFF), 0, 0xFFFF_FFFF):
        assert len(decode_audio(announcing(announced, riff), LIMITS)) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("announced", [70_000, 1_000_000, 123_456_790, 0x4000_0000 + 5_000])
def test_a_wav_that_announces_more_than_was_sent_and_no_round_number_is_refused(announced: int) -> None:
    with pytest.raises(UndecodableAudio, match="cut off"):
        decode_audio(announcing(announced, announced + 36), LIMITS)


@pytest.mark.parametrize("announced", [70_000, 1_000_000, 123_456_790])
def test_a_wav_that_is_as_long_as_its_header_says_is_whole_though_its_samples_are_miscounted(
    announced: int,
) -> None:
    assert len(decode_audio(announcing(announced), LIMITS)) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("riff", [0, 36, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_whose_own_size_alone_is_wrong_is_held_to_that_of_its_samples(riff: int) -> None:
    wav = announcing(2 * 2 * SAMPLE_RATE, riff)
    assert len(decode_audio(wav, LIMITS)) == 2 * SAMPLE_RATE
    with pytest.raises(UndecodableAudio, match="cut off"):
        decode_audio(wav[:-10_000], LIMITS)


@pytest.mark.parametrize("options", [("-f", "w64"), ("-f", "wav", "-rf64", "always")])
def test_wide_wavs_are_read_from_files_and_from_pipes(options: tuple[str, ...], tmp_path: Path) -> None:
    command = [ffmpeg_binary(), "-v", "error", "-y", "-f", "wav", "-i", "pipe:0", *options]
    piped = subprocess.run([*command, "pipe:1"], input=wav_bytes(), capture_output=True, check=True).stdout
    subprocess.run([*command, str(tmp_path / "a")], input=wav_bytes(), check=True)
    whole = (tmp_path / "a").read_bytes()

    for body in (whole, piped):
        assert len(decode_audio(body, LIMITS)) == 2 * SAMPLE_RATE
    with pytest.raises(UndecodableAudio, match="cut off"):
        decode_audio(whole[:-10_000], LIMITS)


def test_a_wav_of_no_samples_is_empty_whatever_notes_follow() -> None:
    empty = wav_bytes(0.0)
    notes = b"LIST" + struct.pack("<I", 12) + b"INFOICMT\0\0\0\0"

    for body in (empty, empty + notes):
        with pytest.raises(EmptyAudio):
            decode_audio(body, LIMITS)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.webm", "a.ogg"])
def test_what_a_program_writes_to_a_pipe_is_taken(name: str, encode: Encode) -> None:
    samples = decode_audio(encode(name, to_pipe=True), LIMITS)

    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


def test_a_long_wav_with_64_bit_sizes_is_held_to_them() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.full(2 * SAMPLE_RATE, 0.1), SAMPLE_RATE, format="RF64", subtype="PCM_16")

    assert len(decode_audio(file.getvalue(), LIMITS)) == 2 * SAMPLE_RATE
    with pytest.raises(UndecodableAudio, match="cut off"):
        decode_audio(file.getvalue()[:-10_000], LIMITS)
