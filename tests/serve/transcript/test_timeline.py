"""Where segments and words lie in the recording."""

import random
from itertools import pairwise

import pytest

from serve.audio.samples import SAMPLE_RATE
from serve.audio.segmentation import Span, Window
from serve.engine import Hypothesis, TimedText
from serve.transcript.timeline import Timeline


def window(start_s: float, end_s: float, channel: int = 0, *, is_torn: bool = False) -> Window:
    start, end = int(start_s * SAMPLE_RATE), int(end_s * SAMPLE_RATE)
    return Window(start, end, (Span(start, end, is_torn=is_torn),), channel)


def timed(
    text: str, start_s: float, end_s: float, probability: float | None = 0.5, tokens: tuple[int, ...] = ()
) -> TimedText:
    return TimedText(text=text, start_s=start_s, end_s=end_s, probability=probability, tokens=tokens)


def heard(text: str, sentences: tuple[TimedText, ...] = (), words: tuple[TimedText, ...] = ()) -> Hypothesis:
    return Hypothesis(
        tokens=(1, 2),
        text=text,
        language="mr",
        language_prob=0.9,
        avg_logprob=-0.5,
        no_speech_prob=0.1,
        temperature=0.2,
        compression_ratio=1.5,
        sentences=sentences,
        words=words,
    )


def place(*decoded: tuple[Window, Hypothesis], split: bool = False):
    timeline = Timeline(split=split)
    placed = [segment for window, hypothesis in decoded for segment in timeline.place(window, hypothesis)]
    placed += timeline.rest()
    assert placed == timeline.segments
    return placed


def test_a_window_without_timed_sentences_is_one_segment_as_long_as_its_speech() -> None:
    (segment,) = place((window(3, 8), heard("नमस्कार जग")))
    assert (segment.start_s, segment.end_s, segment.text, segment.channel) == (3.0, 8.0, "नमस्कार जग", None)
    assert (segment.language_prob, segment.tokens) == (0.9, (1, 2))
    assert (segment.temperature, segment.compression_ratio) == (0.2, 1.5)


def test_timed_sentences_are_a_segment_each() -> None:
    sentences = (timed(" एक.", 0.2, 1.0, tokens=(1,)), timed(" दोन.", 1.5, 3.0, tokens=(2,)))
    first, second = place((window(10, 14), heard("एक. दोन.", sentences)))
    assert (first.start_s, first.end_s, first.text) == (10.2, 11.0, "एक.")
    assert (second.start_s, second.end_s, second.text) == (11.5, 13.0, "दोन.")
    assert [first.id, second.id] == [0, 1]
    assert [first.tokens, second.tokens] == [(1,), (2,)]


def test_times_in_the_silence_behind_a_window_are_moved_into_it() -> None:
    first, second = place((window(10, 14), heard("a b", (timed("a", 0, 5), timed("b", 5, 6)))))
    assert (first.end_s, second.start_s, second.end_s) == (14.0, 14.0, 14.0)


def test_words_belong_to_the_sentence_that_they_are_part_of() -> None:
    words = tuple(
        timed(f" {text}", n / 2, n / 2 + 0.4) for n, text in enumerate(["एक", "दोन.", "तीन,", "चार."])
    )
    sentences = (timed("एक दोन.", 0.0, 0.9), timed("तीन, चार.", 1.0, 2.0))
    first, second = place((window(10, 14), heard("एक दोन. तीन, चार.", sentences, words)))
    assert [word.text for word in first.words] == ["एक", "दोन."]
    assert [word.text for word in second.words] == ["तीन,", "चार."]
    assert second.words[0].start_s == 11.0


def test_a_word_without_a_probability_has_that_of_its_window() -> None:
    (segment,) = place((window(0, 4), heard("एक", words=(timed("एक", 0, 1, probability=None),))))
    assert segment.words[0].probability == pytest.approx(0.6065, abs=1e-3)


def test_segments_of_channels_come_in_order_of_their_start() -> None:
    agent = heard("a b", (timed("a", 0, 1), timed("b", 5, 6)))
    segments = place(
        (window(0, 8, 0), agent), (window(3, 4, 1), heard("c")), (window(9, 10, 1), heard("d")), split=True
    )
    assert [(segment.text, segment.channel, segment.id) for segment in segments] == [
        ("a", 0, 0),
        ("c", 1, 1),
        ("b", 0, 2),
        ("d", 1, 3),
    ]


def a_word_a_second(text: str) -> Hypothesis:
    words = tuple(timed(f" {word}", n, n + 1) for n, word in enumerate(text.split()))
    return heard(text, words=words)


BEFORE_CUT = a_word_a_second("एक दोन तीन चार")
BEHIND_CUT = a_word_a_second("तीन चार पाच")


def test_a_text_that_a_forced_cut_ends_waits_for_the_next_and_is_joined_with_it() -> None:
    timeline = Timeline()
    assert list(timeline.place(window(10, 14, is_torn=True), BEFORE_CUT)) == []
    first, second = timeline.place(window(12, 15), BEHIND_CUT)
    assert f"{first.text} {second.text}" == "एक दोन तीन चार पाच"
    assert (first.id, first.start_s, second.id, second.end_s) == (0, 10.0, 1, 15.0)
    assert 12.0 <= first.end_s == second.start_s <= 14.0
    for segment in (first, second):
        assert " ".join(word.text for word in segment.words) == segment.text
        times = [time_s for word in segment.words for time_s in (word.start_s, word.end_s)]
        assert [segment.start_s, *times, segment.end_s] == sorted([segment.start_s, *times, segment.end_s])


def test_a_text_waits_no_longer_than_for_the_window_behind_the_cut() -> None:
    for later in (None, BEHIND_CUT):
        timeline = Timeline()
        list(timeline.place(window(10, 14, is_torn=True), BEFORE_CUT))
        placed = list(timeline.place(window(12, 15) if later is None else window(14.5, 17.5), later))
        assert [segment.text for segment in placed] == ["एक दोन तीन चार", "तीन चार पाच"][: 1 + bool(later)]
    timeline = Timeline()
    list(timeline.place(window(10, 14, is_torn=True), BEFORE_CUT))
    assert [segment.text for segment in timeline.rest()] == ["एक दोन तीन चार"]


def test_words_by_which_texts_are_joined_are_left_out_where_nobody_asked_for_them() -> None:
    timeline = Timeline(words=False)
    list(timeline.place(window(10, 14, is_torn=True), BEFORE_CUT))
    placed = list(timeline.place(window(12, 15), BEHIND_CUT))
    assert " ".join(segment.text for segment in placed) == "एक दोन तीन चार पाच"
    assert not any(segment.words for segment in placed), "nobody asked for them"


def test_other_channels_wait_for_what_waits_at_a_forced_cut() -> None:
    segments = place(
        (window(0, 4, 0, is_torn=True), BEFORE_CUT),
        (window(1, 1.5, 1), heard("x")),
        (window(2, 5, 0), BEHIND_CUT),
        (window(4.8, 6, 1), heard("y")),
        split=True,
    )
    assert [(segment.channel, segment.text) for segment in segments if segment.channel == 1] == [
        (1, "x"),
        (1, "y"),
    ]
    assert " ".join(each.text for each in segments if each.channel == 0) == "एक दोन तीन चार पाच"
    starts = [segment.start_s for segment in segments]
    assert starts == sorted(starts)


def test_segments_of_many_forced_cuts_ascend_and_never_overlap() -> None:
    rng = random.Random(1)
    for _ in range(300):
        decoded, start_s = [], 0.0
        for n in range(rng.randint(2, 6)):
            end_s = start_s + rng.uniform(4, 14)
            texts = [f"{rng.choice('कखगघ')}{rng.choice('तथदध')}" for _ in range(rng.randint(1, 30))]
            words = tuple(timed(text, rng.uniform(-1, 15), rng.uniform(-1, 15)) for text in texts)
            said = heard(" ".join(texts), words=words if rng.random() < 0.7 else ())
            decoded.append((window(start_s, end_s, is_torn=n < 5), said))
            start_s = end_s - rng.uniform(1.5, 2.0)
        times = [each for segment in place(*decoded) for each in (segment.start_s, segment.end_s)]
        assert times == sorted(times)


def test_whatever_times_a_model_writes_segments_and_words_ascend_inside_the_recording() -> None:
    rng = random.Random(0)
    for _ in range(1_000):
        split = rng.random() < 0.3
        decoded, at_s = [], [0.0, 0.0]
        for _ in range(rng.randrange(6)):
            channel = rng.randrange(2) if split else 0
            start_s = at_s[channel] + rng.uniform(0, 2)
            at_s[channel] = start_s + rng.uniform(0.1, 10)
            texts = ["".join(rng.choices("कखग", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 6))]
            words = tuple(timed(text, rng.uniform(-1, 12), rng.uniform(-1, 12)) for text in texts)
            n_first = rng.randint(0, len(texts))
            parts = [" ".join(texts[:n_first]), " ".join(texts[n_first:])]
            sentences = tuple(timed(part, rng.uniform(-1, 12), rng.uniform(-1, 12)) for part in parts)
            said = heard(" ".join(texts), sentences if rng.random() < 0.5 else (), words)
            decoded.append((window(start_s, at_s[channel], channel), said))
        decoded.sort(key=lambda each: each[0].start)

        segments = place(*decoded, split=split)

        assert [segment.id for segment in segments] == list(range(len(segments)))
        assert sum(len(segment.words) for segment in segments) == sum(len(said.words) for _, said in decoded)
        starts = [segment.start_s for segment in segments]
        assert starts == sorted(starts)
        for channel in {segment.channel for segment in segments}:
            own = [segment for segment in segments if segment.channel == channel]
            assert all(earlier.end_s <= later.start_s for earlier, later in pairwise(own))
        for segment in segments:
            assert " ".join(word.text for word in segment.words) == segment.text
            times = [time_s for word in segment.words for time_s in (word.start_s, word.end_s)]
            times = [segment.start_s, *times, segment.end_s]
            assert times == sorted(times)
            assert times[0] >= 0.0 and times[-1] <= max(at_s)
