"""Channels become one, and what is said in any of them is heard."""

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.caged.ffmpeg import ffmpeg_binary
from serve.audio.decode import AudioLimits, decode_audio, open_audio
from serve.audio.mixing import HOP_S, Layout, Mixer, mix_channels
from serve.audio.recording import Recording
from serve.audio.samples import SAMPLE_RATE
from serve.audio.streams.pcm import PcmFormat, PcmStream

LIMITS = AudioLimits(max_audio_s=60.0)
STEREO = Layout(2)
FIVE_ONE = Layout(6, 0x3F)


def noise(duration_s: float = 2.0, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(duration_s * SAMPLE_RATE))).astype("f4")


def mixed(frames: np.ndarray, layout: Layout) -> np.ndarray:
    mixer = Mixer(layout, SAMPLE_RATE)
    return np.concatenate([mixer.push(frames), mixer.flush()])


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of two sounds, whichever way round they are."""
    n = min(len(one), len(other))
    return abs(float(np.corrcoef(one[:n], other[:n])[0, 1]))


def wav_of(frames: np.ndarray, sample_rate: int = SAMPLE_RATE, kind: str = "WAVEX") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, sample_rate, format=kind, subtype="PCM_16")
    return file.getvalue()


def test_one_channel_is_passed_on_as_it_is():
    sound = noise()
    assert np.array_equal(mixed(sound[:, None], Layout(1)), sound)


def test_a_pair_is_averaged():
    left, right = noise(seed=1), noise(seed=2)
    np.testing.assert_allclose(mixed(np.stack([left, right], 1), STEREO), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("gain", [-1.0, -0.8, -1.25])
def test_a_channel_turned_over_does_not_silence_the_other(gain):
    sound = noise()
    mixer = Mixer(STEREO, SAMPLE_RATE)

    heard = np.concatenate([mixer.push(np.stack([sound, gain * sound], 1)), mixer.flush()])

    assert likeness(heard, sound) > 0.999
    assert loudness(heard) == pytest.approx((1 + abs(gain)) / 2 * loudness(sound), rel=0.05)
    assert mixer.report is not None and len(mixer.report.turned) == 1


def test_a_channel_that_turns_over_on_the_way_is_heard_before_and_behind():
    sound = noise(6.0)
    right = sound.copy()
    right[2 * SAMPLE_RATE : 4 * SAMPLE_RATE] *= -1

    heard = mixed(np.stack([sound, right], 1), STEREO)

    for first_s in range(6):
        part = slice(first_s * SAMPLE_RATE, (first_s + 1) * SAMPLE_RATE)
        assert loudness(heard[part]) == pytest.approx(loudness(sound[part]), rel=0.05)
        assert likeness(heard[part], sound[part]) > 0.99


def test_a_turn_in_the_midst_of_a_sound_is_no_seam():
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    vowel = (0.3 * np.sin(2 * np.pi * 150 * time_s)).astype("f4")
    breath = 0.002 * noise(seed=3)
    left = np.concatenate([breath, vowel])
    right = np.concatenate([breath, -vowel])

    heard = mixed(np.stack([left, right], 1), STEREO)

    steepest = np.abs(np.diff(vowel)).max()
    assert np.abs(np.diff(heard)).max() < 1.5 * steepest


def test_what_only_one_speaker_says_stays_in_the_mix_of_a_turned_pair():
    both, right_only = noise(2.0, seed=1), noise(2.0, seed=2)
    left = np.concatenate([both, 0 * right_only])
    right = np.concatenate([-both, right_only])

    heard = mixed(np.stack([left, right], 1), STEREO)

    assert likeness(heard[2 * SAMPLE_RATE :], right_only) > 0.999


def test_unrelated_channels_and_one_that_is_silent_are_left_as_they_are():
    for right in (noise(seed=2), np.zeros_like(noise()), 0.5 * noise()):
        mixer = Mixer(STEREO, SAMPLE_RATE)
        mixer.push(np.stack([noise(), right], 1))
        assert mixer.report is None


def test_blocks_of_any_size_give_what_the_whole_gives():
    sound = noise(3.0)
    frames = np.stack([sound, -sound, noise(3.0, 5)], 1)
    mixer = Mixer(Layout(3), SAMPLE_RATE)
    cuts = np.sort(np.random.default_rng(0).integers(0, len(frames), 20))

    in_blocks = np.concatenate([*map(mixer.push, np.split(frames, cuts)), mixer.flush()])

    np.testing.assert_allclose(in_blocks, mixed(frames, Layout(3)), atol=1e-6)
    assert len(in_blocks) == len(frames)


@pytest.mark.parametrize(
    ("layout", "name", "leading", "left_out"),
    [
        (FIVE_ONE, "5.1", "FC", ["LFE"]),
        (Layout(6, 0x60F), "5.1", "FC", ["LFE"]),
        (Layout(8, 0x63F), "7.1", "FC", ["LFE"]),
        (Layout(5, 0x37), "5.0", "FC", []),
        (Layout(3, 0x7), "3.0", "FC", []),
        (Layout(3, 0xB), "2.1", "FL", ["LFE"]),
        (Layout(4, 0x33), "quad", "FL", []),
        (Layout(7, 0x70F), "6.1", "FC", ["LFE"]),
    ],
)
def test_the_centre_leads_then_the_front_and_the_subwoofer_is_left_out(layout, name, leading, left_out):
    weights = dict(zip(layout.speakers, layout.weights(), strict=True))

    assert layout.name == name
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights[leading] == max(weights.values())
    assert [speaker for speaker, weight in weights.items() if weight == 0] == left_out
    behind = [weight for speaker, weight in weights.items() if speaker[0] in "BS"]
    assert all(0 < weight < weights["FL"] for weight in behind)


def test_channels_of_which_nothing_is_known_are_averaged():
    for layout in (Layout(3), Layout(4), Layout(5, 0x3)):
        assert len(set(layout.weights().tolist())) == 1


def test_six_channels_of_which_nothing_is_known_lose_none():
    weights = Layout(6).weights()
    assert weights.argmax() == 2 and weights.min() > 0


def test_dialogue_in_the_centre_is_above_five_others_as_loud():
    voice = noise(seed=9)
    frames = np.stack([voice if channel == 2 else noise(seed=channel) for channel in range(6)], 1)

    heard = mixed(frames, FIVE_ONE)

    assert likeness(heard, voice) > 0.9  # an average of six has 0.41


@pytest.mark.parametrize("channel", [0, 1, 2, 4, 5])
def test_whoever_speaks_alone_in_surround_sound_is_heard_clearly(channel):
    frames = np.zeros((2 * SAMPLE_RATE, 6), np.float32)
    frames[:, channel] = noise()
    assert likeness(mixed(frames, FIVE_ONE), noise()) > 0.999


def test_a_front_pair_turned_against_itself_in_surround_sound_is_heard():
    frames = np.zeros((2 * SAMPLE_RATE, 6), np.float32)
    frames[:, 0], frames[:, 1] = noise(), -noise()
    assert likeness(mixed(frames, FIVE_ONE), noise()) > 0.999


CHILDREN = {  # what writes a layout down: name -> suffix, codec
    "m4a": ("m4a", "aac"),
    "mkv": ("mkv", "ac3"),
    "flac": ("flac", "flac"),
    "vorbis": ("ogg", "libvorbis"),
    "opus": ("opus", "libopus"),
    "wav": ("wav", "pcm_s16le"),
    "alac": ("m4a", "alac"),
}


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        *((kind, "5.1") for kind in CHILDREN),
        *((kind, "7.1") for kind in CHILDREN if kind not in ("mkv", "alac")),
    ],
)
def test_the_layout_that_a_file_names_is_found_whatever_its_own_order(kind, layout, tmp_path: Path):
    suffix, codec = CHILDREN[kind]
    centre, subwoofer = 2, 3
    time_s = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    frames = np.zeros((len(time_s), 6 if layout == "5.1" else 8), np.float32)
    frames[:, centre] = 0.3 * np.sin(2 * np.pi * 500 * time_s)
    frames[:, subwoofer] = 0.3 * np.sin(2 * np.pi * 60 * time_s)
    frames[:, 0] = 0.3 * np.sin(2 * np.pi * 1000 * time_s)
    (tmp_path / "a.wav").write_bytes(wav_of(frames))
    target = tmp_path / f"b.{suffix}"
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-guess_layout_max", "8", "-i"]
    options = ["-ar", "48000", "-af", f"aformat=channel_layouts={layout}", "-c:a", codec, "-b:a", "640k"]
    subprocess.run([*command, str(tmp_path / "a.wav"), *options, str(target)], check=True)

    with open_audio(target.read_bytes(), LIMITS) as recording:
        heard = np.concatenate(list(recording.blocks()), axis=1)[0]

    spectrum = np.abs(np.fft.rfft(heard[SAMPLE_RATE : 2 * SAMPLE_RATE]))
    assert int(spectrum.argmax()) == 500
    assert spectrum[60] < 0.05 * spectrum[500]
    assert spectrum[1000] == pytest.approx(spectrum[500] / 4, rel=0.25)
    assert recording.report is not None and recording.report.mix is not None
    assert recording.report.mix.layout == layout


@pytest.mark.parametrize(
    ("suffix", "options"), [("mp3", ("-b:a", "96k")), ("m4a", ("-c:a", "aac")), ("opus", ("-c:a", "libopus"))]
)
def test_a_pair_turned_against_itself_is_heard_through_lossy_codecs(suffix, options, tmp_path: Path):
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tone = (0.4 * np.sin(2 * np.pi * 440 * time_s)).astype("f4")
    (tmp_path / "a.wav").write_bytes(wav_of(np.stack([tone, -tone], 1), kind="WAV"))
    target = tmp_path / f"b.{suffix}"
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-i", str(tmp_path / "a.wav"), *options]
    subprocess.run([*command, str(target)], check=True)

    heard = decode_audio(target.read_bytes(), LIMITS)

    middle = heard[SAMPLE_RATE // 2 : SAMPLE_RATE]
    assert loudness(middle) == pytest.approx(loudness(tone), rel=0.2)


def test_what_was_done_is_told_once_it_was_done():
    silence = np.zeros((40 * SAMPLE_RATE, 2), np.float32)
    turned = np.stack([noise(), -noise()], 1)
    with open_audio(wav_of(np.concatenate([silence, turned])), LIMITS) as recording:
        assert recording.report is None
        for _ in recording.blocks():
            pass
    assert recording.report is not None and recording.report.mix is not None
    assert recording.report.mix.turned == (2,)


def test_channels_that_are_split_are_neither_mixed_nor_turned():
    frames = np.stack([noise(), -noise()], 1)
    with open_audio(wav_of(frames), LIMITS, split=True) as recording:
        heard = np.concatenate(list(recording.blocks()), axis=1)
    np.testing.assert_allclose(heard.T, frames, atol=1e-4)
    assert recording.report is None


def test_samples_of_several_channels_are_mixed_alike():
    recording = mix_channels(Recording.of(np.stack([noise(), -noise()])))
    heard = np.concatenate(list(recording.blocks()), axis=1)
    assert heard.shape == (1, 2 * SAMPLE_RATE)
    assert likeness(heard[0], noise()) > 0.999
    assert recording.report is not None and recording.duration_s == 2.0


def test_live_sound_of_two_channels_is_heard_though_they_cancel():
    pcm = PcmStream(PcmFormat(encoding="pcm_f32le", n_channels=2))
    data = np.stack([noise(), -noise()], 1).astype("<f4").tobytes()
    pieces = [pcm.push(data[first : first + 999]) for first in range(0, len(data), 999)]
    heard = np.concatenate([*pieces, pcm.flush()])
    assert len(heard) == 2 * SAMPLE_RATE
    assert likeness(heard, noise()) > 0.999
    assert sum(map(len, pieces)) >= len(heard) - HOP_S * SAMPLE_RATE
