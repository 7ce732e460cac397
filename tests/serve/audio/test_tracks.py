"""Which of several audio tracks is heard."""

import io
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.caged.ffmpeg import ffmpeg_binary
from serve.audio.decode import AudioLimits, open_audio
from serve.audio.recording import Track
from serve.audio.samples import SAMPLE_RATE
from serve.audio.tracks import read_listing, wanted_tracks
from serve.errors import UndecodableAudio, UnsupportedOption

LIMITS = AudioLimits(max_audio_s=60.0)
Film = Callable[..., bytes]
LISTING = """Input #0, matroska,webm, from 'pipe:0':
  Metadata:
    title           : Stream #0:9(fra): Audio: forged (default)
                    :   Stream #0:8: Audio: forged as well
  Duration: 00:00:10.02, start: 1.400000, bitrate: 93 kb/s
  Stream #0:0[0x100]: Video: mpeg4 (Simple Profile), yuv420p, 64x64
  Stream #0:2[0x102](hin): Audio: aac (LC) ([15][0][0][0] / 0x000F), 44100 Hz, mono, fltp
  Stream #0:1(mar): Audio: opus, 48000 Hz, 5.1, fltp (default)
      title           : comments
  Stream #0:3(und): Audio: none, 48000 Hz
Stream mapping:
  Stream #0:1 -> #0:0 (opus (native) -> pcm_f32le (native))
Output #0, wav, to 'pipe:1':
  Stream #0:0(mar): Audio: pcm_f32le, 48000 Hz, 5.1, flt (default)
"""


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """Write one track for each pitch (Hz; 0 is silence)."""

    def write(
        suffix: str, pitches: Sequence[float], *options: str, codec: str = "aac", quiet_s: float = 0
    ) -> bytes:
        inputs: list[str] = []
        maps: list[str] = []
        for number, hz in enumerate(pitches):
            time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
            tone = np.append(np.zeros(round(quiet_s * SAMPLE_RATE)), 0.4 * np.sin(2 * np.pi * hz * time_s))
            soundfile.write(tmp_path / f"{number}.wav", tone, SAMPLE_RATE)
            inputs += ["-i", str(tmp_path / f"{number}.wav")]
            maps += ["-map", f"{number}:a"]
        command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-y", *inputs, *maps, "-c:a", codec, *options]
        subprocess.run([*command, str(tmp_path / f"film.{suffix}")], check=True)
        return (tmp_path / f"film.{suffix}").read_bytes()

    return write


def heard(body: bytes, track: str | None = None) -> tuple[float, Track | None]:
    """Return the pitch, and what the report says."""
    with open_audio(body, LIMITS, track=track) as recording:
        samples = np.concatenate(list(recording.blocks()), axis=1)[0]
    spectrum = np.abs(np.fft.rfft(samples))
    return float(spectrum.argmax()) * SAMPLE_RATE / len(samples), recording.report and recording.report.track


LANGUAGES = ("-metadata:s:a:0", "language=hin", "-metadata:s:a:1", "language=mar")


def test_a_listing_is_read_and_titles_are_not_taken_for_tracks() -> None:
    listing = read_listing(LISTING)

    assert listing.start_s == 1.4
    assert listing.tracks == (
        Track(number=1, language="mar", is_default=True, n_tracks=3),
        Track(number=2, language="hin", n_tracks=3),
        Track(number=3, n_tracks=3),
    )
    assert read_listing("pipe:0: Invalid data found when processing input\n").tracks == ()


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [(None, [1, 2, 3]), ("2", [2]), ("mr", [1]), ("mar", [1]), ("MR-in", [1]), ("hi", [2]), ("3", [3])],
)
def test_a_track_is_named_by_number_or_by_language(wanted: str | None, numbers: list[int]) -> None:
    assert [track.number for track in wanted_tracks(read_listing(LISTING).tracks, wanted)] == numbers


@pytest.mark.parametrize("wanted", ["0", "4", "fr", "-1", "٧", "comments"])
def test_a_track_that_is_not_there_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(
        UnsupportedOption, match=r"1 \(mar, default\), 2 \(hin\), 3 \(no language\)"
    ) as refused:
        wanted_tracks(read_listing(LISTING).tracks, wanted)
    assert refused.value.name == "track"


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libvorbis"), ("mp4", "aac"), ("ts", "aac")])
def test_a_track_is_chosen_and_named_in(suffix: str, codec: str, film: Film) -> None:
    body = film(suffix, [440, 880], *LANGUAGES, codec=codec)

    hz, track = heard(body)
    assert hz == pytest.approx(440, abs=2) and track is not None and track.number == 1
    for wanted in ("2", "mr"):
        hz, track = heard(body, wanted)
        assert hz == pytest.approx(880, abs=2)
        assert track is not None and (track.number, track.language, track.n_tracks) == (2, "mar", 2)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_track_that_is_marked_as_default_is_heard(suffix: str, film: Film) -> None:
    body = film(suffix, [440, 880], "-disposition:a:0", "0", "-disposition:a:1", "default")

    hz, track = heard(body)

    assert hz == pytest.approx(880, abs=2)
    assert track is not None and track.number == 2 and track.is_default


def test_a_silent_track_is_passed_over_for_the_first_with_sound(film: Film) -> None:
    hz, track = heard(film("mkv", [0, 0, 660], codec="flac"))
    assert hz == pytest.approx(660, abs=2) and track is not None and track.number == 3


def test_a_default_track_whose_sound_comes_late_is_not_silent(film: Film) -> None:
    hz, track = heard(film("mkv", [440, 880], codec="flac", quiet_s=35.0))
    assert hz == pytest.approx(440, abs=2) and track is not None and track.number == 1


def test_where_all_tracks_are_silent_the_first_is_heard(film: Film) -> None:
    _, track = heard(film("mkv", [0, 0], codec="flac"))
    assert track is not None and track.number == 1


def test_a_silent_track_is_heard_where_it_is_asked_for(film: Film) -> None:
    with open_audio(film("mkv", [0, 660], codec="flac"), LIMITS, track="1") as recording:
        assert not any(block.any() for block in recording.blocks())


def test_a_recording_of_one_track_says_nothing_of_it_unless_asked(film: Film) -> None:
    body = film("m4a", [440])
    assert heard(body)[1] is None
    assert heard(body, "1")[1] == Track(number=1, is_default=True)
    with pytest.raises(UnsupportedOption, match="not one of the recording's audio tracks"):
        heard(body, "2")


def test_a_recording_without_tracks_has_one() -> None:
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.ones(SAMPLE_RATE), SAMPLE_RATE, format="WAV")

    assert heard(file.getvalue(), "1")[1] == Track(number=1)
    for wanted in ("2", "mr"):
        with pytest.raises(UnsupportedOption):
            heard(file.getvalue(), wanted)


def test_what_cannot_be_read_is_refused_as_such_whatever_track_is_wanted() -> None:
    with pytest.raises(UndecodableAudio):
        heard(b"\x1a\x45\xdf\xa3" + bytes(64), "2")
