"""Sound lies where the container's clock puts it: at its start, and behind gaps."""

import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.caged.ffmpeg import ffmpeg_binary
from serve.audio.clock import MAX_SILENCE_S, Clock, Reading
from serve.audio.decode import AudioLimits, open_audio
from serve.audio.recording import ClockReport
from serve.audio.samples import SAMPLE_RATE
from serve.errors import AudioTooLong

LIMITS = AudioLimits(max_audio_s=600.0)
RATE = 1_000  # Hz, in tests of the clock alone
Film = Callable[..., bytes]

CONTAINERS = {  # what is written into it: pictures, sound
    "mp4": ("mpeg4", "aac"),
    "mov": ("mpeg4", "aac"),
    "mkv": ("mpeg4", "libvorbis"),
    "webm": ("libvpx", "libopus"),
    "ts": ("mpeg2video", "aac"),
}
MUXERS = {"mkv": "matroska", "ts": "mpegts"}


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """Write two seconds of a tone, or what is asked for, beside pictures that begin at 0."""

    def write(
        suffix: str, *options: str, late_s: float = 0.0, sound_s: float = 2.0, pictures: bool = True
    ) -> bytes:
        time_s = np.arange(round(sound_s * 48_000)) / 48_000
        soundfile.write(tmp_path / "a.wav", 0.4 * np.sin(2 * np.pi * 440 * time_s), 48_000)
        video, audio = CONTAINERS[suffix]
        duration_s = min(late_s + sound_s, 20)
        seen = [
            "-f",
            "lavfi",
            "-i",
            f"testsrc=size=32x32:rate=5:duration={duration_s}",
            "-map",
            "1:v",
            "-c:v",
            video,
        ]
        command = [
            *(ffmpeg_binary(), "-v", "error", "-nostdin", "-y", "-itsoffset", str(late_s)),
            *(
                "-i",
                str(tmp_path / "a.wav"),
                *(seen if pictures else []),
                "-map",
                "0:a",
                "-c:a",
                audio,
                *options,
            ),
        ]
        subprocess.run([*command, str(tmp_path / f"film.{suffix}")], check=True)
        return (tmp_path / f"film.{suffix}").read_bytes()

    return write


def heard(body: bytes, limits: AudioLimits = LIMITS) -> tuple[np.ndarray, ClockReport | None]:
    with open_audio(body, limits) as recording:
        samples = np.concatenate(list(recording.blocks()), axis=1)[0]
    assert recording.duration_s == len(samples) / SAMPLE_RATE
    return samples, None if recording.report is None else recording.report.clock


def stretches(samples: np.ndarray) -> list[tuple[float, float]]:
    """Return when sound begins and ends, in seconds; dips of less than 0.3 s are no end."""
    loud = np.flatnonzero(np.abs(samples) > 0.05)
    cuts = np.flatnonzero(np.diff(loud) > 0.3 * SAMPLE_RATE)
    starts, ends = [loud[0], *loud[cuts + 1]], [*loud[cuts], loud[-1]]
    return [(start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("late_s", [0.7, 5.0, 13.0])
def test_a_track_that_begins_late_is_heard_late_in(suffix: str, late_s: float, film: Film) -> None:
    samples, report = heard(film(suffix, late_s=late_s))

    ((start_s, end_s),) = stretches(samples)
    assert (start_s, end_s) == pytest.approx((late_s, late_s + 2.0), abs=0.09)
    assert len(samples) / SAMPLE_RATE == pytest.approx(late_s + 2.0, abs=0.1)
    assert report is not None and report.starts_at_s == pytest.approx(late_s, abs=0.09)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
def test_a_late_track_without_pictures_is_heard_late_as_well(suffix: str, film: Film) -> None:
    samples, _ = heard(film(suffix, late_s=4.0, pictures=False))
    assert stretches(samples)[0][0] == pytest.approx(4.0, abs=0.09)


def test_a_transport_stream_of_sound_alone_begins_with_its_sound(film: Film) -> None:
    samples, report = heard(film("ts", late_s=4.0, pictures=False))
    assert stretches(samples)[0][0] < 0.1
    assert report is None


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize(("first_s", "last_s"), [(3.0, 11.0), (1.0, 1.6), (2.0, 17.0)])
def test_a_gap_stays_a_gap_in(suffix: str, first_s: float, last_s: float, film: Film) -> None:
    gap = f"aselect='not(between(t,{first_s},{last_s}))'"

    samples, report = heard(film(suffix, "-af", gap, sound_s=20.0))

    before, behind = stretches(samples)
    assert before == pytest.approx((0.0, first_s), abs=0.1)
    assert behind == pytest.approx((last_s, 20.0), abs=0.1)
    assert len(samples) / SAMPLE_RATE == pytest.approx(20.0, abs=0.1)
    assert report is not None and report.gaps_s == pytest.approx(last_s - first_s, abs=0.1)
    assert report.starts_at_s == 0.0


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_track_that_is_whole_is_not_touched_in(suffix: str, film: Film) -> None:
    samples, report = heard(film(suffix, sound_s=35.0))

    assert stretches(samples) == [pytest.approx((0.0, 35.0), abs=0.05)]
    assert report is None


@pytest.mark.parametrize(
    "options", [(), ("-movflags", "+frag_keyframe+empty_moov"), ("-movflags", "+faststart")]
)
def test_every_kind_of_mp4_keeps_its_clock(options: tuple[str, ...], film: Film) -> None:
    samples, _ = heard(film("mp4", *options, late_s=3.0))
    assert stretches(samples)[0][0] == pytest.approx(3.0, abs=0.09)


def test_an_edit_list_that_leaves_out_the_beginning_is_followed(film: Film, tmp_path: Path) -> None:
    whole = film("mp4", "-af", "volume=0.01:enable='lt(t,1.5)'", sound_s=4.0, pictures=False)
    (tmp_path / "whole.mp4").write_bytes(whole)
    cut = tmp_path / "cut.mp4"
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-ss", "1", "-i", str(tmp_path / "whole.mp4")]
    subprocess.run([*command, "-c", "copy", str(cut)], check=True)

    samples, _ = heard(cut.read_bytes())

    assert stretches(samples)[0][0] == pytest.approx(0.5, abs=0.09)
    assert len(samples) / SAMPLE_RATE == pytest.approx(3.0, abs=0.1)


def test_transport_streams_that_were_joined_are_heard_to_the_end(film: Film) -> None:
    samples, _ = heard(film("ts") + film("ts", sound_s=3.0))
    assert len(samples) / SAMPLE_RATE == pytest.approx(5.0, abs=0.2)
    assert sum(end_s - start_s for start_s, end_s in stretches(samples)) == pytest.approx(5.0, abs=0.2)


def test_a_transport_stream_whose_clock_comes_round_to_zero_is_whole(film: Film) -> None:
    samples, report = heard(film("ts", "-output_ts_offset", str(2**33 / 90_000 - 3), sound_s=6.0))
    assert stretches(samples) == [pytest.approx((0.0, 6.0), abs=0.1)]
    assert report is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_start_that_lies_days_ahead_is_passed_over_and_told(suffix: str, film: Film) -> None:
    samples, report = heard(film(suffix, late_s=250_000.0, pictures=False))

    assert len(samples) / SAMPLE_RATE == pytest.approx(2.0, abs=0.1)
    assert report == ClockReport(leap_s=pytest.approx(250_000.0, abs=1.0))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_gap_of_hours_is_passed_over_and_told(suffix: str, film: Film) -> None:
    leap = "asetpts='PTS+gt(T,1)*7200/TB'"

    samples, report = heard(film(suffix, "-af", leap, pictures=False))

    assert len(samples) / SAMPLE_RATE == pytest.approx(2.0, abs=0.1)
    assert report is not None and report.leap_s == pytest.approx(7_200.0, abs=1.0)


def test_silence_counts_for_the_longest_recording(film: Film) -> None:
    with pytest.raises(AudioTooLong, match="limit is 60 s"):
        heard(film("mkv", late_s=100.0, pictures=False), AudioLimits(max_audio_s=60.0))


def placed(
    readings: list[Reading], n_samples: int = 5 * RATE, start_s: float = 0.0
) -> tuple[np.ndarray, Clock]:
    clock = Clock(RATE, start_s, deque(readings))
    sound = np.arange(1, n_samples + 1, dtype=np.float32)[:, None]
    blocks = clock.place(iter(np.array_split(sound, 7)))
    return np.concatenate(list(blocks))[:, 0], clock


def test_silence_is_put_at_the_very_sample() -> None:
    sound, clock = placed([Reading(0, 500), Reading(2_000, 1_500)])

    assert not sound[:500].any() and sound[500] == 1
    assert sound[2_499] == 2_000 and not sound[2_500:3_500].any() and sound[3_500] == 2_001
    assert len(sound) == 6_500
    assert clock.report == ClockReport(starts_at_s=0.5, gaps_s=1.0)


def test_sound_before_the_zero_of_the_clock_is_left_out_whatever_the_blocks() -> None:
    sound, clock = placed([Reading(0, -1_300)])

    assert sound[0] == 1_301 and len(sound) == 3_700
    assert clock.report is None


def test_jitter_and_a_clock_that_runs_slow_move_nothing() -> None:
    sound, clock = placed([Reading(1_000, 60), Reading(2_000, -300), Reading(3_000, -20)])

    assert np.array_equal(sound, np.arange(1, 5_001))
    assert clock.report is None


def test_a_gap_makes_up_for_a_clock_that_ran_slow() -> None:
    sound, _ = placed([Reading(1_000, -300), Reading(2_000, 700)])
    assert len(sound) == 5_700


def test_a_clock_that_begins_anew_is_followed_from_there() -> None:
    """Recordings that were joined: nothing is lost, and gaps of the second are kept."""
    sound, clock = placed([Reading(2_500, -2_500), Reading(4_000, -2_000)])

    assert len(sound) == 5_500
    assert not sound[4_000:4_500].any() and sound[4_500] == 4_001
    assert clock.report == ClockReport(gaps_s=0.5)


def test_a_reading_behind_the_last_sample_adds_nothing() -> None:
    sound, _ = placed([Reading(5_000, 9_000)])
    assert len(sound) == 5_000


def test_the_longest_silence_is_a_bound_for_each_leap() -> None:
    longest = round(MAX_SILENCE_S * RATE)
    sound, clock = placed([Reading(1_000, longest), Reading(2_000, 3 * longest + 1)])

    assert len(sound) == 5_000 + longest
    assert clock.report == ClockReport(
        gaps_s=MAX_SILENCE_S, leap_s=pytest.approx(2 * MAX_SILENCE_S, abs=0.01)
    )
