"""Real codecs made on the fly: what decodes, what is refused, and how soon."""

import io
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional

from serve.audio.decode import BLOCK_S, HEAD_S, AudioLimits, decode_audio, open_audio
from serve.audio.samples import SAMPLE_RATE, Resampler
from serve.errors import AudioError, AudioTooLong, ConfigError, EmptyAudio, UndecodableAudio

LIMITS = AudioLimits(max_audio_s=600.0, ffmpeg_timeout_s=60.0)
TONE_HZ = 440.0
Encode = Callable[..., bytes]


def tone(duration_s: float, sample_rate: int = 44_100, hz: float = TONE_HZ) -> np.ndarray:
    time_s = np.arange(int(duration_s * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hz * time_s)).astype("f4")


def wav_bytes(samples: np.ndarray, sample_rate: int = 44_100, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype=subtype)
    return file.getvalue()


def dominant_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)


def encoder_binary(codec: str) -> str:
    """Return an ffmpeg with this encoder; the one on the PATH and the one in the wheel differ."""
    for binary in filter(None, (shutil.which("ffmpeg"), imageio_ffmpeg.get_ffmpeg_exe())):
        command = [binary, "-v", "quiet", "-encoders"]
        listing = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        if re.search(rf"\s{codec}\s", listing):
            return str(binary)
    pytest.skip(f"no ffmpeg here encodes {codec}")


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    def run(name: str, codec: str, *options: str, source: bytes | None = None) -> bytes:
        target = tmp_path / name
        command = [encoder_binary(codec), "-v", "error", "-y", "-nostdin", "-i", str(tmp_path / "source.wav")]
        (tmp_path / "source.wav").write_bytes(wav_bytes(tone(2.0)) if source is None else source)
        subprocess.run([*command, "-c:a", codec, *options, str(target)], check=True)
        return target.read_bytes()

    return run


CODECS = {
    "wav": ("wav", "pcm_s16le"),
    "wav of 24 bits": ("wav", "pcm_s24le"),
    "wav of floats": ("wav", "pcm_f32le"),
    "telephone wav": ("wav", "pcm_mulaw", "-ar", "8000"),
    "wav with gsm": ("wav", "libgsm_ms", "-ar", "8000", "-ac", "1"),
    "wav with adpcm": ("wav", "adpcm_ima_wav"),
    "flac": ("flac", "flac"),
    "ogg vorbis": ("ogg", "libvorbis"),
    "ogg opus": ("ogg", "libopus"),
    "ogg speex": ("ogg", "libspeex", "-ar", "16000"),
    "mp3": ("mp3", "libmp3lame"),
    "mp3 of varying bit rate": ("mp3", "libmp3lame", "-q:a", "4"),
    "mp3 at 22 kHz": ("mp3", "libmp3lame", "-ar", "22050"),
    "mp3 without a count": ("mp3", "libmp3lame", "-write_xing", "0"),
    "mp2": ("mp2", "mp2"),
    "aiff": ("aiff", "pcm_s16be"),
    "au": ("au", "pcm_s16be"),
    "caf": ("caf", "pcm_s16le"),
    "m4a": ("m4a", "aac"),
    "m4a with its index first": ("m4a", "aac", "-movflags", "+faststart"),
    "fragmented mp4": ("mp4", "aac", "-movflags", "+frag_keyframe+empty_moov"),
    "alac": ("m4a", "alac"),
    "mov": ("mov", "pcm_s16le"),
    "3gp": ("3gp", "aac"),
    "webm opus": ("webm", "libopus"),
    "live webm": ("webm", "libopus", "-live", "1"),
    "mkv": ("mkv", "libvorbis"),
    "aac": ("aac", "aac"),
    "amr": ("amr", "libopencore_amrnb", "-ar", "8000", "-ac", "1"),
    "3gp amr": ("3gp", "libopencore_amrnb", "-ar", "8000", "-ac", "1"),
    "wma": ("wma", "wmav2"),
    "mpeg-ts": ("ts", "aac"),
    "avi": ("avi", "libmp3lame"),
    "wave64": ("w64", "pcm_s16le"),
}


@pytest.mark.parametrize("kind", CODECS)
def test_a_tone_keeps_its_length_and_frequency_in(kind: str, encode: Encode) -> None:
    suffix, codec, *options = CODECS[kind]

    samples = decode_audio(encode(f"tone.{suffix}", codec, *options), LIMITS)

    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(2.0 * SAMPLE_RATE, abs=0.13 * SAMPLE_RATE)  # codecs pad whole frames
    assert dominant_hz(samples) == pytest.approx(TONE_HZ, abs=1.0)
    assert np.abs(samples[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_lossless_audio_keeps_its_exact_length_at_every_rate(sample_rate: int) -> None:
    samples = decode_audio(wav_bytes(tone(25.0, sample_rate), sample_rate), LIMITS)

    assert len(samples) == 25 * SAMPLE_RATE
    assert dominant_hz(samples) == pytest.approx(TONE_HZ, abs=0.1)


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_resampling_in_blocks_gives_what_resampling_the_whole_gives(sample_rate: int) -> None:
    rng = np.random.default_rng(sample_rate)
    samples = rng.uniform(-1, 1, 3 * sample_rate + 17).astype("f4")
    cuts = np.sort(rng.integers(0, len(samples), 12))
    resampler = Resampler(sample_rate)

    in_blocks = np.concatenate([*map(resampler.push, np.split(samples, cuts)), resampler.flush()])

    whole = torchaudio.functional.resample(torch.from_numpy(samples), sample_rate, SAMPLE_RATE).numpy()
    assert in_blocks.shape == whole.shape
    np.testing.assert_allclose(in_blocks, whole, atol=1e-5)


@pytest.mark.parametrize("sample_rate", [44_099, 47_999, 5_003])
def test_an_odd_sample_rate_needs_no_giant_filter_and_keeps_the_pitch(sample_rate: int) -> None:
    samples = decode_audio(wav_bytes(tone(2.0, sample_rate), sample_rate), LIMITS)

    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=2)
    assert dominant_hz(samples) == pytest.approx(TONE_HZ, abs=1.0)


def test_two_channels_are_averaged() -> None:
    left, right = tone(1.0, SAMPLE_RATE), 0.5 * tone(1.0, SAMPLE_RATE, 880.0)
    stereo = wav_bytes(np.stack([left, right], axis=1), SAMPLE_RATE, "FLOAT")

    np.testing.assert_allclose(decode_audio(stereo, LIMITS), (left + right) / 2, atol=1e-6)


def test_the_sound_of_a_video_is_heard_and_its_pictures_are_not_needed(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    sources = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=10", "-f", "lavfi", "-i", "sine=frequency=440"]
    command = [encoder_binary("aac"), "-v", "error", "-nostdin", *sources, "-t", "2", "-c:v", "mpeg4"]
    subprocess.run([*command, "-c:a", "aac", str(video)], check=True)

    samples = decode_audio(video.read_bytes(), LIMITS)

    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    assert dominant_hz(samples) == pytest.approx(440.0, abs=1.0)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "silent.mp4"
    source = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=10"]
    command = [encoder_binary("aac"), "-v", "error", "-nostdin", *source, "-t", "1", "-c:v", "mpeg4"]
    subprocess.run([*command, str(video)], check=True)

    with pytest.raises(UndecodableAudio, match="no audio track"):
        decode_audio(video.read_bytes(), LIMITS)


def test_without_an_ffmpeg_on_the_path_the_one_in_the_wheel_is_used(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = encode("tone.m4a", "aac")
    monkeypatch.setenv("PATH", "/nonexistent")

    assert dominant_hz(decode_audio(recording, LIMITS)) == pytest.approx(TONE_HZ, abs=1.0)


@pytest.mark.parametrize(
    "body",
    [
        b"Shrota hears Marathi.\n" * 40,
        "नमस्कार\n".encode("utf-16"),
        b"\x00" * 4096,
        b"{}",
        b"RIFF",
        b"RIFF\x24\x00\x00\x00WAVE",
        b"ID3\x04\x00\x00\x00\x00\x00\x00",
        b"\xff\xfb\x90\x00",
        b"OggS",
        b"fLaC",
        b"\x00\x00\x00\x18ftypM4A ",
        b"\x1a\x45\xdf\xa3",
        b"#!AMR\n",
        b"the freely chosen words of a letter",
        np.random.default_rng(0).bytes(50_000),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_recording_is_refused_with_a_sentence(body: bytes) -> None:
    with pytest.raises((UndecodableAudio, EmptyAudio)) as refused:
        decode_audio(body, LIMITS)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        b'<?xml version="1.0"?><MPD><Period><BaseURL>file:///etc/passwd</BaseURL></Period></MPD>',
    ],
    ids=["HLS", "concat", "SDP", "DASH"],
)
def test_a_playlist_is_refused_before_any_decoder_sees_it(
    playlist: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.audio.caged.ffmpeg.ffmpeg_binary", lambda: pytest.fail("a child was started"))

    with pytest.raises(UndecodableAudio):
        decode_audio(playlist, LIMITS)


def test_an_empty_body_and_a_recording_of_no_samples_are_empty() -> None:
    for body in (b"", wav_bytes(np.zeros(0, np.float32))):
        with pytest.raises(EmptyAudio):
            decode_audio(body, LIMITS)


def hours_of_silence() -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", samplerate=SAMPLE_RATE, channels=1, format="FLAC") as flac:
        for _ in range(120):
            flac.write(np.zeros(60 * SAMPLE_RATE, np.int16))
    return file.getvalue()


def without_its_length(flac: bytes) -> bytes:
    """Zero the total of samples in STREAMINFO: the last 36 of 64 bits at offset 18."""
    fields = int.from_bytes(flac[18:26], "big") >> 36 << 36
    return flac[:18] + fields.to_bytes(8, "big") + flac[26:]


def test_hours_that_a_recording_announces_are_refused_before_they_are_decoded() -> None:
    body = hours_of_silence()
    assert len(body) < 2_000_000

    with pytest.raises(AudioTooLong, match=r"at least 7200\.0 s; the limit is 30 s"):
        decode_audio(body, AudioLimits(max_audio_s=30.0))


def test_hours_that_a_recording_does_not_announce_are_given_up_at_the_limit() -> None:
    with pytest.raises(AudioTooLong) as refused:
        decode_audio(without_its_length(hours_of_silence()), AudioLimits(max_audio_s=30.0))

    decoded_s = float(re.search(r"at least ([\d.]+) s", str(refused.value))[1])
    assert decoded_s <= 30.0 + BLOCK_S


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libopus"), ("m4a", "aac"), ("mp3", "libmp3lame")])
def test_a_long_recording_is_refused_whoever_decodes_it(suffix: str, codec: str, encode: Encode) -> None:
    source = wav_bytes(np.zeros(90 * SAMPLE_RATE, np.float32), SAMPLE_RATE)

    with pytest.raises(AudioTooLong, match="limit is 60 s"):
        decode_audio(encode(f"long.{suffix}", codec, source=source), AudioLimits(max_audio_s=60.0))


def test_many_channels_meet_the_limit_on_bytes_before_the_one_on_seconds() -> None:
    eight_channels = wav_bytes(np.zeros((20 * SAMPLE_RATE, 8), np.float32), SAMPLE_RATE)
    one_megabyte = AudioLimits(max_decoded_bytes=1 << 20)

    with pytest.raises(AudioTooLong, match="limit is 2 s"):
        decode_audio(eight_channels, one_megabyte)


@pytest.mark.parametrize("sample_rate", [0, 1, 3_999, 192_001, 2**31 - 1, 2**32 - 1])
def test_a_forged_sample_rate_is_refused(sample_rate: int) -> None:
    forged = bytearray(wav_bytes(tone(1.0)))
    forged[24:28] = struct.pack("<I", sample_rate)

    with pytest.raises(AudioError):
        decode_audio(bytes(forged), LIMITS)


@pytest.mark.parametrize("n_channels", [0, 17, 1024, 65_535])
def test_a_forged_number_of_channels_is_refused(n_channels: int) -> None:
    forged = bytearray(wav_bytes(tone(1.0)))
    forged[22:24] = struct.pack("<H", n_channels)

    with pytest.raises(AudioError):
        decode_audio(bytes(forged), LIMITS)


def test_values_that_are_no_numbers_count_as_silence() -> None:
    samples = tone(1.0, SAMPLE_RATE)
    samples[1000], samples[2000], samples[3000], samples[4000] = np.nan, np.inf, -np.inf, 1e30

    decoded = decode_audio(wav_bytes(samples, SAMPLE_RATE, "FLOAT"), LIMITS)

    assert np.isfinite(decoded).all()
    assert decoded[[1000, 2000, 3000, 4000]].tolist() == [0.0] * 4
    assert decoded[500] == pytest.approx(samples[500])


def test_floats_on_the_scale_of_integers_are_brought_to_full_scale() -> None:
    decoded = decode_audio(wav_bytes(20_000 * tone(1.0, SAMPLE_RATE), SAMPLE_RATE, "FLOAT"), LIMITS)

    assert np.abs(decoded).max() == pytest.approx(1.0)
    assert dominant_hz(decoded) == pytest.approx(TONE_HZ, abs=1.0)


def test_an_mp3_of_varying_bit_rate_that_announces_no_length_is_heard_to_its_end(encode: Encode) -> None:
    # Silence first: a reader that guesses the length from the first frames stops too early, or runs too long.
    speech_like = np.concatenate([np.zeros(5 * 44_100, np.float32), tone(10.0)])
    options = ("-q:a", "2", "-write_xing", "0")

    samples = decode_audio(encode("vbr.mp3", "libmp3lame", *options, source=wav_bytes(speech_like)), LIMITS)

    assert len(samples) == pytest.approx(15 * SAMPLE_RATE, abs=0.13 * SAMPLE_RATE)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp3", "libmp3lame"), ("ogg", "libvorbis"), ("ogg", "libopus")]
)
def test_recordings_that_were_joined_end_to_end_are_heard_to_the_end(
    suffix: str, codec: str, encode: Encode
) -> None:
    one = encode(f"one.{suffix}", codec)

    assert len(decode_audio(one + one, LIMITS)) == pytest.approx(4 * SAMPLE_RATE, abs=0.2 * SAMPLE_RATE)


def test_damage_anywhere_gives_samples_or_a_sentence_but_never_another_error(encode: Encode) -> None:
    rng = np.random.default_rng(7)
    for suffix, codec, n_trials in (
        ("wav", "pcm_s16le", 15),
        ("flac", "flac", 15),
        ("ogg", "libvorbis", 15),
        ("mp3", "libmp3lame", 15),
        ("m4a", "aac", 4),
        ("webm", "libopus", 4),
    ):
        whole = encode(f"whole.{suffix}", codec)
        for _ in range(n_trials):
            damaged = bytearray(whole)
            reach = len(damaged) if rng.random() < 0.5 else 512  # half of it goes to the headers
            for position in rng.integers(0, reach, rng.integers(1, 9)):
                damaged[position] = rng.integers(0, 256)
            try:
                samples = decode_audio(bytes(damaged), AudioLimits(max_audio_s=60.0, ffmpeg_timeout_s=20.0))
            except AudioError:
                continue
            assert np.isfinite(samples).all() and 0 < len(samples) <= 60 * SAMPLE_RATE


def test_limits_that_nothing_could_meet_are_refused_together() -> None:
    with pytest.raises(ConfigError) as refused:
        AudioLimits(max_audio_s=0, max_channels=-1, min_sample_rate=48_000, max_sample_rate=8_000)
    assert len(refused.value.faults) == 3


def stereo_telephone(duration_s: float) -> bytes:
    """Two lines as a switch records them: mu-law at 8 kHz, 440 Hz on one channel, 880 on the other."""
    lines = np.stack([tone(duration_s, 8_000), tone(duration_s, 8_000, 880.0)], axis=1)
    return wav_bytes(lines, 8_000, "ULAW")


@pytest.mark.parametrize("duration_s", [3.0, 100.0])
def test_channels_that_are_split_stay_apart(duration_s: float) -> None:
    with open_audio(stereo_telephone(duration_s), LIMITS, split=True) as recording:
        assert (recording.n_channels, recording.duration_s) == (2, duration_s)
        samples = np.concatenate(list(recording.blocks()), axis=1)

    assert samples.shape == (2, duration_s * SAMPLE_RATE)
    assert [dominant_hz(channel) for channel in samples] == pytest.approx([440.0, 880.0], abs=1.0)


def test_split_channels_come_from_a_child_too(encode: Encode) -> None:
    with open_audio(encode("call.m4a", "aac", source=stereo_telephone(3.0)), LIMITS, split=True) as recording:
        samples = np.concatenate(list(recording.blocks()), axis=1)

    assert [dominant_hz(channel) for channel in samples] == pytest.approx([440.0, 880.0], abs=1.0)


def test_a_mono_recording_that_is_split_has_one_channel() -> None:
    with open_audio(wav_bytes(tone(1.0)), LIMITS, split=True) as recording:
        (block,) = recording.blocks()
    assert recording.n_channels == len(block) == 1


@pytest.mark.parametrize(
    ("suffix", "codec", "announces"),
    [("wav", "pcm_s16le", True), ("flac", "flac", True), ("mp3", "libmp3lame", False), ("m4a", "aac", False)],
)
def test_a_long_recording_is_accepted_before_it_is_decoded(
    suffix: str, codec: str, announces: bool, encode: Encode
) -> None:
    body = encode(f"long.{suffix}", codec, source=wav_bytes(tone(200.0, SAMPLE_RATE), SAMPLE_RATE))

    with open_audio(body, LIMITS) as recording:
        assert recording.duration_s == (200.0 if announces else None)
        blocks = recording.blocks()
        head_s = next(blocks).shape[1] / SAMPLE_RATE
        assert HEAD_S <= head_s < 2 * HEAD_S
        n_samples = sum(block.shape[1] for block in blocks)

    assert head_s + n_samples / SAMPLE_RATE == pytest.approx(200.0, abs=0.2) == recording.duration_s


def test_a_short_recording_has_its_exact_length_when_it_is_accepted(encode: Encode) -> None:
    with open_audio(encode("short.mp3", "libmp3lame"), LIMITS) as recording:
        announced_s = recording.duration_s
        list(recording.blocks())
    assert announced_s == recording.duration_s == pytest.approx(2.0, abs=0.13)


def test_damage_behind_the_head_is_met_by_the_block_that_holds_it() -> None:
    with soundfile.SoundFile(file := io.BytesIO(), "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as flac:
        flac.write(np.random.default_rng(0).normal(0, 0.1, 120 * SAMPLE_RATE))
    body = file.getvalue()[: len(file.getvalue()) * 3 // 4]  # FLAC's framing does not tell

    with open_audio(body, LIMITS) as recording:
        blocks = recording.blocks()
        next(blocks)
        with pytest.raises(UndecodableAudio, match="cut off"):
            list(blocks)


def test_a_child_that_is_not_asked_for_more_is_not_taken_for_slow(encode: Encode) -> None:
    body = encode("long.m4a", "aac", source=wav_bytes(tone(200.0, SAMPLE_RATE), SAMPLE_RATE))

    with open_audio(body, AudioLimits(ffmpeg_timeout_s=2.0)) as recording:
        blocks = recording.blocks()
        next(blocks)
        time.sleep(2.5)
        assert sum(block.shape[1] for block in blocks) > 100 * SAMPLE_RATE


def test_later_blocks_of_a_recording_on_the_scale_of_integers_are_scaled_like_the_first() -> None:
    body = wav_bytes(20_000 * tone(100.0, SAMPLE_RATE), SAMPLE_RATE, "FLOAT")

    with open_audio(body, LIMITS) as recording:
        assert [float(block.max()) for block in recording.blocks()] == pytest.approx([1.0] * 8, abs=1e-3)
