"""MP3s that are whole, and MP3s that are not."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.ffmpeg import ffmpeg_binary
from serve.audio.mpeg import find_mpeg_frames
from serve.audio.samples import SAMPLE_RATE
from serve.errors import AudioTooLong, UndecodableAudio

LIMITS = AudioLimits(max_audio_s=60.0)
Encode = Callable[..., bytes]


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    def run(*options: str) -> bytes:
        source, target = tmp_path / "a.wav", tmp_path / "a.mp3"
        soundfile.write(source, np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE), SAMPLE_RATE)
        command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-y", "-i", str(source), *options, str(target)]
        subprocess.run(command, check=True)
        return target.read_bytes()

    return run


KINDS = {
    "with a count": (),
    "without a count": ("-write_xing", "0"),
    "of varying bit rate": ("-q:a", "4"),
    "of varying bit rate, without a count": ("-q:a", "4", "-write_xing", "0"),
    "at 44.1 kHz": ("-ar", "44100"),
    "at 8 kHz": ("-ar", "8000"),
    "without tags": ("-id3v2_version", "0"),
    "without a bit reservoir": ("-reservoir", "0"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_mp3_passes_and_one_cut_anywhere_is_refused(kind: str, encode: Encode) -> None:
    whole = encode(*KINDS[kind])
    assert len(decode_audio(whole, LIMITS)) == pytest.approx(2 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)

    for n_bytes in (10, 200, len(whole) // 2, int(len(whole) * 0.99), len(whole) - 3, len(whole) - 1):
        with pytest.raises(UndecodableAudio):
            decode_audio(whole[:n_bytes], LIMITS)


def test_the_frames_are_found_between_the_tags(encode: Encode) -> None:
    mp3 = encode("-metadata", "title=गोष्ट", "-write_id3v1", "1")

    frames = find_mpeg_frames(mp3, max_audio_s=60.0)

    assert mp3[frames.start : frames.start + 2] == b"\xff\xf3"
    assert mp3[frames.end :].startswith(b"TAG")
    assert frames.is_intact
    assert 1.7 * SAMPLE_RATE < frames.fewest_samples <= 2 * SAMPLE_RATE


def test_a_tag_at_either_end_of_an_mp3_is_no_damage(encode: Encode) -> None:
    mp3 = encode("-metadata", "title=गोष्ट", "-write_id3v1", "1")
    assert mp3.startswith(b"ID3") and mp3[-128:].startswith(b"TAG")
    ape = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0)

    for tagged in (mp3, mp3 + ape, mp3[:-128] + ape, mp3 + bytes(1000)):
        assert len(decode_audio(tagged, LIMITS)) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)


def test_an_mp3_cut_between_two_frames_is_told_by_its_count(encode: Encode) -> None:
    mp3 = encode("-b:a", "32k")  # at 16 kHz: frames of exactly 144 bytes
    last_two = len(mp3) - 2 * 144
    assert mp3[last_two : last_two + 2] == mp3[last_two + 144 : last_two + 146] == b"\xff\xf3"

    with pytest.raises(UndecodableAudio, match="cut off"):
        decode_audio(mp3[:last_two], LIMITS)


def test_an_mp3_with_damage_in_its_midst_is_heard_on_both_sides(encode: Encode) -> None:
    mp3 = bytearray(encode("-write_xing", "0"))
    mp3[len(mp3) // 2 : len(mp3) // 2 + 300] = bytes(300)

    samples = decode_audio(bytes(mp3), LIMITS)

    assert 1.5 * SAMPLE_RATE < len(samples) < 2.2 * SAMPLE_RATE


def test_a_long_mp3_is_refused_by_counting_frames_alone(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    mp3 = encode("-write_xing", "0", "-id3v2_version", "0")
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_: pytest.fail("a decoder was opened"))

    with pytest.raises(AudioTooLong):
        decode_audio(mp3 * 100, LIMITS)
