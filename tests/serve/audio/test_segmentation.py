"""Where speech is found, and how spans become windows."""

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation import (
    PAD_SAMPLES,
    RUN_SAMPLES,
    Span,
    Window,
    WindowLimits,
    WindowPacker,
    find_speech,
    iter_windows,
)

LIMITS = WindowLimits(max_window_s=10.0, max_packed_s=10.0, max_first_window_s=10.0, max_gap_s=2.0)


def speech_like(duration_s: float, seed: int = 0) -> np.ndarray:
    """Make a buzz with moving formants, in syllables: what Silero takes for speech, without a synthesiser."""
    rng = np.random.default_rng(seed)
    n_samples = int(duration_s * SAMPLE_RATE)
    time_s = np.arange(n_samples) / SAMPLE_RATE
    pitch_hz = 120 + 15 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = np.cumsum(pitch_hz) / SAMPLE_RATE
    syllable = np.clip(1.4 * np.sin(np.pi * 4.0 * time_s) ** 2, 0, 1)
    voice = np.zeros(n_samples)
    for harmonic in range(1, 30):
        hz = harmonic * 120
        first = 500 + 250 * np.sin(2 * np.pi * 2.0 * time_s)
        second = 1500 + 500 * np.sin(2 * np.pi * 1.3 * time_s)
        weight = sum(np.exp(-(((hz - formant) / 180) ** 2)) for formant in (first, second, 2600))
        voice += (weight + 0.02) / np.sqrt(harmonic) * np.sin(2 * np.pi * harmonic * phase)
    voice = voice * syllable + rng.normal(0, 0.003, n_samples)
    return (0.3 * voice / np.abs(voice).max()).astype("f4")


def silence(duration_s: float) -> np.ndarray:
    return np.zeros(int(duration_s * SAMPLE_RATE), np.float32)


def seconds(*spans: tuple[float, float]) -> list[Span]:
    return [Span(int(start * SAMPLE_RATE), int(end * SAMPLE_RATE)) for start, end in spans]


def pack_windows(spans: list[Span], limits: WindowLimits) -> list[Window]:
    packer = WindowPacker(limits)
    return [window for span in spans for window in packer.push(span)] + list(packer.flush())


def pack(spans: list[Span], **limits: float) -> list[tuple[float, float]]:
    windows = pack_windows(spans, replace(LIMITS, **limits))
    return [(window.start / SAMPLE_RATE, window.end / SAMPLE_RATE) for window in windows]


def cut(samples: np.ndarray, limits: WindowLimits = LIMITS) -> list[Window]:
    return [window for window, _ in iter_windows([np.atleast_2d(samples)], limits)]


def test_speech_between_silences_is_found_where_it_is() -> None:
    samples = np.concatenate([silence(2), speech_like(3), silence(2), speech_like(2, seed=1), silence(1)])

    spans = find_speech(samples)

    heard = np.zeros(len(samples), bool)
    for span in spans:
        heard[span.start : span.end] = True
    assert heard[int(2.3 * SAMPLE_RATE) : int(4.7 * SAMPLE_RATE)].mean() > 0.95
    assert heard[int(7.3 * SAMPLE_RATE) : int(8.7 * SAMPLE_RATE)].mean() > 0.95
    assert not heard[: int(1.5 * SAMPLE_RATE)].any()
    assert not heard[int(5.6 * SAMPLE_RATE) : int(6.5 * SAMPLE_RATE)].any()


@pytest.mark.parametrize("gain", [0.001, 0.01, 1.0])
def test_quiet_speech_is_found_as_loud_speech_is(gain: float) -> None:
    samples = np.concatenate([silence(1), speech_like(3), silence(1)])
    loud = sum(span.end - span.start for span in find_speech(samples))

    quiet = sum(span.end - span.start for span in find_speech(samples * np.float32(gain)))

    assert quiet == pytest.approx(loud, rel=0.2)


NOISE = np.random.default_rng(0).normal(0, 1, 5 * SAMPLE_RATE).astype("f4")
TIME_S = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        silence(5),
        NOISE * np.float32(1e-4),
        NOISE * np.float32(0.1),
        (0.5 * np.sin(2 * np.pi * 440 * TIME_S)).astype("f4"),
        (1e-3 * np.sin(2 * np.pi * 50 * TIME_S)).astype("f4"),
    ],
    ids=["no samples", "one sample", "silence", "hiss", "loud noise", "a tone", "mains hum"],
)
def test_nothing_is_found_where_nobody_speaks(samples: np.ndarray) -> None:
    assert find_speech(samples) == []


def test_spans_do_not_overlap_and_lie_inside_the_recording() -> None:
    sentences = [piece for seed in range(8) for piece in (speech_like(1.3, seed), silence(0.3))]
    samples = np.concatenate(sentences)[:-7_777]

    spans = find_speech(samples)

    edges = [edge for span in spans for edge in (span.start, span.end)]
    assert len(spans) > 1
    assert edges == sorted(edges)
    assert edges[0] >= 0 and edges[-1] <= len(samples)


def test_a_recording_longer_than_one_run_of_the_detector_is_heard_to_its_end() -> None:
    samples = np.concatenate([silence(31.5), speech_like(3), silence(40), speech_like(2)])

    spans = find_speech(samples)

    assert spans[0].start == pytest.approx(31.5 * SAMPLE_RATE, abs=0.4 * SAMPLE_RATE)
    assert spans[-1].end == len(samples)


def test_finding_speech_leaves_the_threads_of_torch_alone() -> None:
    program = (
        "import numpy, torch; torch.set_num_threads(2);"
        "from serve.audio.segmentation import find_speech;"
        "find_speech(numpy.zeros(16000, 'float32')); print(torch.get_num_threads())"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert answer.stdout.split() == ["2"]


def test_spans_that_fit_share_a_window_with_their_pause() -> None:
    assert pack(seconds((1, 3), (4, 6))) == [(1, 6)]


def test_a_long_pause_ends_a_window() -> None:
    assert pack(seconds((1, 3), (6, 7))) == [(1, 3), (6, 7)]


def test_a_full_window_is_cut_at_the_longest_pause_of_its_second_half() -> None:
    spans = seconds((0, 2), (3.9, 6), (7.5, 8), (8.2, 9), (9.1, 11))
    assert pack(spans) == [(0, 6), (7.5, 11)]


def test_the_first_window_is_short_so_that_text_comes_early() -> None:
    spans = seconds((0, 2), (2.2, 4), (4.2, 6), (6.2, 8))
    assert pack(spans, max_first_window_s=4.0) == [(0, 4), (4.2, 8)]


def test_windows_are_packed_no_fuller_than_is_fast_and_longer_speech_stays_whole() -> None:
    spans = seconds((0, 2), (2.2, 4), (4.2, 6), (6.2, 8), (8.4, 15))
    assert pack(spans, max_packed_s=6.0, max_window_s=10.0) == [(0, 6), (6.2, 8), (8.4, 15)]


def test_a_first_span_longer_than_the_first_window_is_not_torn() -> None:
    assert pack(seconds((0, 6), (6.5, 8)), max_first_window_s=4.0) == [(0, 6), (6.5, 8)]


def test_speech_without_a_pause_is_cut_at_its_quietest_point() -> None:
    samples = speech_like(14)
    samples[int(8.0 * SAMPLE_RATE) : int(8.1 * SAMPLE_RATE)] *= 0.001

    first, second = cut(samples)

    assert 8.0 <= first.end / SAMPLE_RATE <= 8.1
    assert first.is_torn and not first.overlap
    assert second.end == len(samples) and not second.is_torn
    assert second.overlap == first.end - second.start
    assert 1.5 <= second.overlap / SAMPLE_RATE <= 2.0


def test_the_overlap_before_a_forced_cut_begins_at_a_quiet_point_too() -> None:
    samples = speech_like(14)
    for quiet_s, gain in ((6.34, 0.02), (8.09, 0.0)):  # in the midst of syllables, too short for pauses
        samples[int(quiet_s * SAMPLE_RATE) : int((quiet_s + 0.09) * SAMPLE_RATE)] *= gain

    first, second = cut(samples)

    assert 8.09 <= first.end / SAMPLE_RATE <= 8.18
    assert 6.34 <= second.start / SAMPLE_RATE <= 6.43


def test_where_speech_pauses_windows_neither_overlap_nor_are_torn() -> None:
    samples = np.concatenate([piece for seed in range(6) for piece in (speech_like(4, seed), silence(0.6))])
    windows = cut(samples)
    assert len(windows) > 1
    assert not any(window.overlap or window.is_torn for window in windows)
    assert all(earlier.end <= later.start for earlier, later in pairwise(windows))


def hours_of(stretch: np.ndarray, read: list[int]) -> Iterator[np.ndarray]:
    """A recording that repeats a stretch of sound again and again, noting what was read of it."""
    for _ in range(1_000):
        read.append(len(stretch))
        yield stretch[None]


@pytest.mark.parametrize("behind_s", [0.5, 300.0], ids=["speech", "silence"])
def test_the_first_window_is_ready_before_what_follows_has_been_heard(behind_s: float) -> None:
    sentence = np.concatenate([speech_like(5), silence(behind_s)])
    read: list[int] = []

    window, samples = next(iter_windows(hours_of(sentence, read), LIMITS))

    assert window.start < SAMPLE_RATE and len(samples) == window.end - window.start
    assert sum(read) <= 2 * max(RUN_SAMPLES, len(sentence))


def test_a_window_is_ready_although_speech_goes_on_without_a_pause() -> None:
    read: list[int] = []
    next(iter_windows(hours_of(speech_like(5), read), LIMITS))
    assert sum(read) <= RUN_SAMPLES + 10 * SAMPLE_RATE


@pytest.mark.parametrize("kind", ["silence", "speech without a pause", "a sentence now and then"])
def test_memory_does_not_grow_with_the_recording(kind: str) -> None:
    stretch = {
        "silence": silence(10),
        "speech without a pause": speech_like(10),
        "a sentence now and then": np.concatenate([speech_like(3), silence(97)]),
    }[kind]

    def peak_bytes(duration_s: int) -> int:
        n_blocks = duration_s * SAMPLE_RATE // len(stretch)
        blocks = (stretch[None].copy() for _ in range(n_blocks))
        tracemalloc.start()
        for _ in iter_windows(blocks, LIMITS):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(900) < peak_bytes(300) + 10_000_000  # 600 s of samples take 38 MB


@st.composite
def recordings(draw: st.DrawFn) -> list[Span]:
    """Draw spans of speech: gaps of none to 5 s, lengths of a sample to 50 s."""
    gaps = st.one_of(st.just(0), st.integers(0, 5 * SAMPLE_RATE))
    lengths = st.one_of(st.integers(1, SAMPLE_RATE), st.integers(1, 50 * SAMPLE_RATE))
    spans, offset = [], 0
    for gap, length in draw(st.lists(st.tuples(gaps, lengths), max_size=25)):
        spans.append(Span(offset + gap, offset + gap + length))
        offset += gap + length
    return spans


@settings(derandomize=True, database=None)
@given(
    spans=recordings(),
    max_window_s=st.floats(0.5, 30.0),
    packed_share=st.floats(0.1, 1.0),
    first_share=st.floats(0.1, 1.0),
    max_gap_s=st.floats(0.0, 4.0),
)
def test_windows_hold_all_speech_in_order_within_their_limits(
    spans: list[Span], max_window_s: float, packed_share: float, first_share: float, max_gap_s: float
) -> None:
    max_samples = int(max_window_s * SAMPLE_RATE)
    pieces = [
        Span(start, min(start + max_samples, span.end))
        for span in spans
        for start in range(span.start, span.end, max_samples)
    ]

    windows = pack_windows(
        pieces,
        WindowLimits(
            max_window_s=max_window_s,
            max_packed_s=packed_share * max_window_s,
            max_first_window_s=first_share * max_window_s,
            max_gap_s=max_gap_s,
        ),
    )

    check_windows(windows, max_window_s, max_gap_s)
    if windows and len(windows[0].spans) > 1:
        assert windows[0].end - windows[0].start <= first_share * max_window_s * SAMPLE_RATE
    for window in windows:
        assert (
            len(window.spans) == 1 or window.end - window.start <= packed_share * max_window_s * SAMPLE_RATE
        )
    assert [piece for window in windows for piece in window.spans] == pieces


def check_windows(windows: list[Window], max_window_s: float, max_gap_s: float) -> None:
    for window in windows:
        assert 0 < window.end - window.start <= max_window_s * SAMPLE_RATE
        assert (window.start, window.end) == (window.spans[0].start, window.spans[-1].end)
        for earlier, later in pairwise(window.spans):
            assert 0 <= later.start - earlier.end <= max_gap_s * SAMPLE_RATE
    for earlier, later in pairwise(windows):
        assert earlier.start < later.start and earlier.end < later.end
        assert later.overlap == max(0, earlier.end - later.start)
        assert earlier.is_torn == bool(later.overlap)
        assert later.overlap <= min(2.0, max_window_s / 4) * SAMPLE_RATE
    if windows:
        assert not windows[0].overlap and not windows[-1].is_torn


@st.composite
def splices(draw: st.DrawFn) -> np.ndarray:
    """Draw a recording spliced of pieces of speech, noise and silence, cut anywhere."""
    pieces = []
    for kind, start, length_s in draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9_999), st.floats(0.01, 6.0)), max_size=8)
    ):
        n_samples = int(length_s * SAMPLE_RATE)
        pieces.append((BUZZ, BUZZ, NOISE, QUIET)[kind][start : start + n_samples])
    return np.concatenate([np.zeros(0, np.float32), *pieces])


BUZZ = speech_like(13)
QUIET = silence(13)


@settings(derandomize=True, database=None)
@given(
    samples=splices(),
    max_window_s=st.sampled_from([2.0, 10.0, 30.0]),
    max_gap_s=st.floats(0.0, 2.0),
    n_cuts=st.integers(0, 5),
)
def test_a_recording_in_any_blocks_gives_its_speech_in_windows_within_its_limits(
    samples: np.ndarray, max_window_s: float, max_gap_s: float, n_cuts: int
) -> None:
    limits = WindowLimits(
        max_window_s=max_window_s,
        max_packed_s=max_window_s,
        max_first_window_s=max_window_s,
        max_gap_s=max_gap_s,
    )
    blocks = np.array_split(samples[None], n_cuts + 1, axis=1)

    found = list(iter_windows(blocks, limits))

    windows = [window for window, _ in found]
    check_windows(windows, max_window_s, max_gap_s)
    assert all(window.start >= 0 and window.end <= len(samples) for window in windows)
    assert all(np.array_equal(samples[window.start : window.end], heard) for window, heard in found)
    spans = joined([span for window in windows for span in window.spans])
    assert spans == joined(find_speech(samples))
    assert all(0.0 <= window.speech_prob <= 1.0 for window in windows)


def test_channels_give_their_own_windows_in_order_of_their_start() -> None:
    rng = np.random.default_rng(5)
    channels = [
        np.concatenate(
            [piece for seed in range(10) for piece in (speech_like(2, seed), silence(rng.uniform(0.1, 6)))]
        )[: 45 * SAMPLE_RATE]
        for _ in range(4)
    ]
    shortest = min(map(len, channels))
    recording = np.stack([channel[:shortest] for channel in channels])

    windows = cut(recording)

    assert [window.start for window in windows] == sorted(window.start for window in windows)
    for number, channel in enumerate(recording):
        own = [replace(window, channel=0) for window in windows if window.channel == number]
        assert own == cut(channel)


def test_neighbours_meet_in_the_middle_of_a_short_pause_and_keep_their_padding_at_a_long_one() -> None:
    for pause_s in (0.3, 2.0):
        first, second = find_speech(
            np.concatenate([silence(1), speech_like(2), silence(pause_s), speech_like(2)])
        )
        if pause_s < 2 * PAD_SAMPLES / SAMPLE_RATE:
            assert first.end == second.start
        else:
            assert second.start - first.end > (pause_s - 0.6) * SAMPLE_RATE


def joined(spans: list[Span]) -> list[Span]:
    """Join spans that touch or overlap, so that cuts inside speech do not count."""
    whole: list[Span] = []
    for span in spans:
        if whole and whole[-1].end == span.start + span.overlap:
            whole[-1] = Span(whole[-1].start, span.end)
        else:
            whole.append(Span(span.start, span.end))
    return whole
