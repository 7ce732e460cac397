"""Segments as cues that can be read in the time they stand."""

import itertools

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import ConfigError
from serve.transcript.events import Segment, Word
from serve.transcript.subtitles import Cue, CueRules, Subtitler

SENTENCE = "पुढच्या आठवड्यात आम्ही कोकणात जाण्याचा बेत आखलाय."
RULES = CueRules()
MS = 1000


def segment(text: str, start_s: float, end_s: float, **known) -> Segment:
    figures = {"id": 0, "avg_logprob": -0.25, "no_speech_prob": 0.01, "language": "mr"}
    return Segment(text=text, start_s=start_s, end_s=end_s, **figures | known)


def with_words(text: str, *times_s: tuple[float, float]) -> Segment:
    words = tuple(
        Word(text=word, start_s=start_s, end_s=end_s, probability=0.9)
        for word, (start_s, end_s) in zip(text.split(), times_s, strict=True)
    )
    return segment(text, times_s[0][0], times_s[-1][1], words=words)


def cues_of(*segments: Segment, rules: CueRules = RULES, duration_s: float = 1e6) -> list[Cue]:
    subtitler = Subtitler(rules)
    return [cue for each in segments for cue in subtitler.add(each)] + subtitler.finish(duration_s)


def length(line: str) -> int:
    return len(regex.findall(r"\X", line))


def text_of(cues: list[Cue]) -> str:
    return " ".join(line for cue in cues for line in cue.lines)


def test_a_short_segment_is_one_line_that_stands_as_long_as_it_is_said() -> None:
    assert cues_of(segment("  नमस्कार   जग ", 2.0, 3.5)) == [
        Cue(start_ms=2000, end_ms=3500, lines=("नमस्कार जग",))
    ]


def test_silence_is_no_cue() -> None:
    assert cues_of(segment(" ", 0.0, 1.0), segment("", 1.0, 2.0)) == []


def test_lines_are_measured_as_the_eye_sees_them() -> None:
    word = "क्षि" * 9  # 36 code points, nine letters
    assert cues_of(segment(f"{word} {word} {word} {word}", 0, 5))[0].lines == (
        f"{word} {word} {word} {word}",
    )


def test_two_lines_are_as_even_as_words_allow() -> None:
    text = f"{SENTENCE} मग आम्ही परत येतो."
    (cue,) = cues_of(segment(text, 0.0, 4.0))

    first, second = cue.lines
    words = text.split()
    gaps = [abs(length(" ".join(words[:n])) - length(" ".join(words[n:]))) for n in range(1, len(words))]
    assert f"{first} {second}" == text
    assert abs(length(first) - length(second)) == min(gaps)


def test_without_word_times_a_long_segment_is_split_by_its_letters() -> None:
    cues = cues_of(segment(f"{SENTENCE} {SENTENCE} {SENTENCE}", 10.0, 28.0))

    assert text_of(cues) == f"{SENTENCE} {SENTENCE} {SENTENCE}"
    assert (cues[0].start_ms, cues[-1].end_ms) == (10_000, 28_000)
    assert [cue.start_ms for cue in cues[1:]] == [cue.end_ms for cue in cues[:-1]]
    paces = [sum(map(length, cue.lines)) / (cue.end_ms - cue.start_ms) for cue in cues]
    assert max(paces) < 1.2 * min(paces)


def test_word_times_say_when_a_cue_begins_and_ends() -> None:
    words = SENTENCE.split() * 2
    times_s = [(n + 0.1 * (n >= 7), n + 0.8) for n in range(len(words))]

    cues = cues_of(with_words(" ".join(words), *times_s))

    assert len(cues) == 2
    assert [cue.lines[-1].split()[-1] for cue in cues] == ["आखलाय.", "आखलाय."]
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 6800), (7100, 13_800)]


def test_word_times_that_belong_to_another_text_are_not_believed() -> None:
    strange = with_words("एक दोन", (4.0, 4.5), (8.0, 8.5))
    (cue,) = cues_of(segment("पूर्ण वेगळा मजकूर", 4.0, 8.5, words=strange.words))

    assert (cue.start_ms, cue.end_ms) == (4000, 8500)


def test_a_short_cue_stands_for_a_second_where_the_pause_behind_it_allows() -> None:
    def ends(*segments: Segment, duration_s: float = 60.0) -> list[int]:
        return [cue.end_ms for cue in cues_of(*segments, duration_s=duration_s)]

    assert ends(segment("हो", 1.0, 1.4), segment("नाही", 5.0, 7.0)) == [2000, 7000]
    assert ends(segment("हो", 1.0, 1.4), segment("नाही", 1.6, 7.0)) == [1600, 7000]
    assert ends(segment("हो", 1.0, 1.4)) == [2000]
    assert ends(segment("हो", 1.0, 1.4), duration_s=1.7) == [1700]
    assert ends(segment("हो", 1.0, 1.4), duration_s=1.2) == [1400]


def test_a_cue_waits_for_what_follows_only_if_it_is_short() -> None:
    subtitler = Subtitler()

    assert len(subtitler.add(segment(SENTENCE, 0.0, 4.0))) == 1
    assert subtitler.add(segment("हो", 5.0, 5.4)) == []
    assert [cue.lines for cue in subtitler.add(segment("नाही", 8.0, 10.0))] == [("हो",), ("नाही",)]
    assert subtitler.finish() == []


def test_a_word_drawn_out_over_half_a_minute_is_taken_down_in_time() -> None:
    assert [cue.end_ms for cue in cues_of(segment("आ", 3.0, 33.0))] == [10_000]


def test_a_word_longer_than_a_line_is_broken_between_letters() -> None:
    cues = cues_of(segment("क्षि" * 100, 0.0, 6.0))

    lines = [line for cue in cues for line in cue.lines]
    assert "".join(lines) == "क्षि" * 100
    assert all(length(line) <= 42 and len(line) % 4 == 0 for line in lines)


def test_people_who_talk_at_once_are_shown_at_once_but_nobody_twice() -> None:
    cues = cues_of(
        segment(SENTENCE, 0.0, 5.0, channel=0),
        segment("हो का", 2.0, 4.0, channel=1),
        segment("बरं बरं", 4.5, 6.5, channel=0),
    )

    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 5000), (2000, 4000), (5000, 6500)]


def test_a_word_said_into_a_long_speech_is_shown_when_it_is_said() -> None:
    speech = " ".join(f"शब्द{number}" for number in range(60))
    cues = cues_of(
        segment(speech, 0.0, 14.0, channel=0),
        segment("हो", 2.0, 3.0, channel=1),
        segment("बरं", 5.0, 6.0, channel=1),
        segment("मग", 5.2, 5.4, channel=2),
        segment("पुढे", 5.6, 7.0, channel=2),
    )

    times_ms = {" ".join(cue.lines): (cue.start_ms, cue.end_ms) for cue in cues}
    assert times_ms.pop("हो") == (2000, 3000) and times_ms.pop("बरं") == (5000, 6000)
    assert times_ms.pop("मग") == (5200, 5600) and times_ms.pop("पुढे") == (5600, 7000)
    assert " ".join(times_ms) == speech and len(times_ms) > 3
    assert [end_ms for _, end_ms in times_ms.values()][:-1] == [ms for ms, _ in times_ms.values()][1:]
    starts_ms = [cue.start_ms for cue in cues]
    assert starts_ms == sorted(starts_ms)


def test_a_cue_waits_for_what_others_may_say_before_it_and_no_longer() -> None:
    subtitler = Subtitler()

    assert len(subtitler.add(segment(f"{SENTENCE} {SENTENCE}", 0.0, 8.0, channel=0))) == 1
    assert subtitler.add(segment("हो", 2.0, 2.4, channel=1)) == []
    assert [cue.start_ms for cue in subtitler.add(segment("बरं", 3.0, 4.0, channel=2))] == [2000, 3000]
    assert [cue.end_ms for cue in subtitler.finish()] == [8000]


@pytest.mark.parametrize(
    "rules", [{"max_line_graphemes": 0}, {"max_lines": -1}, {"min_cue_s": 8.0}, {"max_cue_s": 0.0}]
)
def test_rules_that_no_cue_can_meet_are_refused(rules) -> None:
    with pytest.raises(ConfigError):
        CueRules(**rules)


@st.composite
def transcripts(draw) -> list[Segment]:
    """Segments in order, with and without word times, some of them touching or overlapping."""
    letters = st.text(alphabet="अकख्षिा्नमaé.। क्त今👩‍👧", min_size=1, max_size=60)
    found, clock_s = [], 0.0
    for text in draw(st.lists(letters, max_size=5)):
        clock_s += draw(st.sampled_from([-0.3, 0.0, 0.2, 3.0]))
        start_s = max(0.0, clock_s)
        clock_s = start_s + draw(st.sampled_from([0.0, 0.3, 2.0, 9.0, 30.0]))
        words: tuple[Word, ...] = ()
        if text.split() and draw(st.booleans()):
            n_words = len(text.split())
            borders = sorted(
                draw(st.lists(st.floats(start_s, clock_s), min_size=2 * n_words, max_size=2 * n_words))
            )
            times_s = zip(borders[::2], borders[1::2], strict=True)
            words = with_words(text, *times_s).words
        found.append(segment(text, start_s, clock_s, words=words))
    return found


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(transcripts(), st.sampled_from([RULES, CueRules(max_line_graphemes=8, max_cue_s=2.0, min_cue_s=0.5)]))
def test_whatever_is_said_cues_keep_the_rules(segments: list[Segment], rules: CueRules) -> None:
    duration_s = max([0.0, *(each.end_s for each in segments)])
    cues = cues_of(*segments, rules=rules, duration_s=duration_s)

    said = "".join("".join(each.text.split()) for each in segments)
    assert text_of(cues).replace(" ", "") == said
    for cue in cues:
        assert 1 <= len(cue.lines) <= rules.max_lines
        assert all(0 < length(line) <= rules.max_line_graphemes for line in cue.lines)
        assert cue.start_ms < cue.end_ms <= cue.start_ms + rules.max_cue_s * MS
    for cue, after in itertools.pairwise(cues):
        assert cue.end_ms <= after.start_ms
        assert cue.end_ms - cue.start_ms >= rules.min_cue_s * MS or cue.end_ms == after.start_ms
