"""MP3s that are whole, and MP3s that are not."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.caged.ffmpeg import ffmpeg_binary
from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.mpeg import find_bare_stream, find_mpeg_frames
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


@pytest.mark.parametrize(
    "kind", ["with a count", "of varying bit rate, without a count", "at 44.1 kHz", "at 8 kHz"]
)
@pytest.mark.parametrize("n_lost", [1, 700, 1_233])
def test_an_mp3_that_begins_in_the_midst_of_a_frame_is_heard(kind: str, n_lost: int, encode: Encode) -> None:
    mp3 = encode("-id3v2_version", "0", *KINDS[kind])

    samples = decode_audio(mp3[n_lost:], LIMITS)

    lost = n_lost / len(mp3) * 2
    assert (2 - lost - 0.35) * SAMPLE_RATE < len(samples) < 2.2 * SAMPLE_RATE


STRAY = [b"\r\n", bytes(700), b"\xef\xbb\xbf", b"--boundary\r\nContent-Type: audio/mpeg\r\n\r\n", b"\xff" * 5]


@pytest.mark.parametrize("stray", STRAY)
def test_stray_bytes_before_an_mp3_or_its_tag_are_passed_over(stray: bytes, encode: Encode) -> None:
    for mp3 in (encode("-id3v2_version", "0"), encode("-metadata", "title=" + "गोष्ट" * 800)):
        assert len(decode_audio(stray + mp3, LIMITS)) == pytest.approx(
            2 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE
        )


def test_a_piece_from_the_midst_of_an_mp3_is_heard(encode: Encode) -> None:
    mp3 = encode("-write_xing", "0")
    samples = decode_audio(mp3[len(mp3) // 4 + 5 : len(mp3) * 3 // 4 + 9], LIMITS)
    assert 0.7 * SAMPLE_RATE < len(samples) < 1.2 * SAMPLE_RATE


def adts(tmp_path: Path, *options: str) -> bytes:
    source, target = tmp_path / "a.wav", tmp_path / "a.aac"
    soundfile.write(source, np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE), SAMPLE_RATE)
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-y", "-i", str(source), *options, str(target)]
    subprocess.run(command, check=True)
    return target.read_bytes()


@pytest.mark.parametrize("stray", [None, *STRAY, b"ID3\x04\x00\x00\x00\x00\x00\x05" + bytes(9)])
def test_aac_that_begins_in_the_midst_of_a_frame_or_behind_stray_bytes_is_heard(
    stray: bytes | None, tmp_path: Path
) -> None:
    aac = adts(tmp_path)
    body = aac[333:] if stray is None else stray + aac

    assert len(decode_audio(body, LIMITS)) == pytest.approx(2 * SAMPLE_RATE, abs=0.25 * SAMPLE_RATE)


def test_what_only_looks_like_frames_is_not_taken_for_sound(encode: Encode, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.bytes(100_000).replace(b"\xff", b"\xff\xfb\x90\x64")  # many headers, no two in a row
    for body in (noise, bytes(20_000) + encode("-id3v2_version", "0"), b"\x00" + adts(tmp_path)[:300]):
        assert find_bare_stream(body) is None


def test_a_long_mp3_is_refused_by_counting_frames_alone(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    mp3 = encode("-write_xing", "0", "-id3v2_version", "0")
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_: pytest.fail("a decoder was opened"))

    with pytest.raises(AudioTooLong):
        decode_audio(mp3 * 100, LIMITS)
